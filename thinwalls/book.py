"""The book of the course: the documents, the lessons with their stored outputs, and the toolkit, as one static website.

    python -m thinwalls.book build OUT [ADDRESS]    make it in the folder OUT, in place of an earlier one

ADDRESS: where the repository is, https://..., for the first page to name.

Sphinx makes it; docs/book says how. No lesson is executed. What Sphinx warns of, such as a link that leads nowhere or
a page that nothing leads to, is an error.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from thinwalls import course

REQUIREMENTS = "requirements-book.txt"
_GENERATOR = ("sphinx", "myst_nb", "furo")
_PAGES = ("README.md", "CONTRIBUTING.md", "docs/*.md", "notebooks/*.ipynb")
_BESIDE = ("docs/*.svg", "docs/*.yml", "docs/*.yaml", "notebooks/pictures/*.svg")  # what they show, or hand out
_OWN = course.ROOT / "docs/book"  # the first page, the toolkit's pages, and how Sphinx is set up
_MARK = "searchindex.js"  # a folder with this file is a book


class Refused(Exception):
    """The book was not made; its text says why, in one sentence or in Sphinx's words."""


def pages() -> list[str]:
    """What the book is made of: each page's path without its ending, as it is in the website too."""
    found = [path.relative_to(course.ROOT) for pattern in _PAGES for path in sorted(course.ROOT.glob(pattern))]
    own = [path.relative_to(_OWN) for path in sorted(_OWN.rglob("*.md"))]
    return [str(path.with_suffix("")) for path in (*own, *found) if path.name != "README.md"]  # index has that one


def build(out: Path, address: str = "") -> None:
    """Make the book in the folder ``out``, whole or not at all. Raises Refused, or OSError.

    address: of the repository, to be named on the first page; "": none is.
    """
    missing = [name for name in _GENERATOR if not importlib.util.find_spec(name)]
    if missing:
        raise Refused(
            f"the book is made by packages that are not here ({', '.join(missing)}): "
            f"{sys.executable} -m pip install -r {REQUIREMENTS} -c constraints.txt"
        )
    if out.exists() and not (out / _MARK).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise Refused(f"{out} is there, and no book: it would be replaced")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
        source, made = Path(scratch, "source"), Path(scratch, "made")
        _lay_out(source)
        if address:
            first = source / "index.md"
            first.write_text(first.read_text() + f"\nThe repository: <{address}>\n")
        _generate(source, made, Path(scratch, "doctrees"))
        made.chmod(0o755)
        if out.exists():
            out.rename(Path(scratch, "earlier"))
        made.rename(out)


def _lay_out(source: Path) -> None:
    """Put everything where its links expect it, the book's own pages at the top. The checkout is not written to."""
    shutil.copytree(_OWN, source, ignore=shutil.ignore_patterns("*.py", "*.css", "*.js", "*.svg", "__pycache__"))
    for pattern in (*_PAGES, *_BESIDE):
        for path in course.ROOT.glob(pattern):
            there = source / path.relative_to(course.ROOT)
            there.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, there)
            if path.suffix == ".ipynb":  # a word to nbval is none to readers
                there.write_text(there.read_text().replace('"# NBVAL_IGNORE_OUTPUT\\n",', ""))
    (source / "stages").mkdir()
    for path in course.ROOT.glob("solutions/stage*.py"):  # lessons link to them; the checkout's may be a learner's
        (source / "stages" / path.name).write_text(course.stub(path.read_text()))


def _generate(source: Path, made: Path, doctrees: Path) -> None:
    options = ["-b", "html", "-c", str(_OWN), "-d", str(doctrees), "--fail-on-warning", "--quiet", "--jobs", "auto"]
    # A place of its own for what Sphinx's extensions keep, and no colours in what it says.
    environment = os.environ | {"NO_COLOR": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    told = subprocess.run(
        [sys.executable, "-m", "sphinx", *options, str(source), str(made)],
        env=environment,
        cwd=source,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if told.returncode:
        raise Refused(told.stdout.replace(f"{source}/", ""))
    (made / ".buildinfo").unlink(missing_ok=True)
    (made / ".nojekyll").touch()  # GitHub Pages would leave out folders whose names begin with a line


def main(words: list[str]) -> int:
    """The command line at the top of this file; gives the exit status."""
    match words:
        case ["build", out, *address] if len(address) <= 1:
            try:
                build(Path(out).absolute(), *address)
            except (Refused, OSError) as error:
                print(error, file=sys.stderr)
                return 1 if isinstance(error, Refused) else 3
            print(f"{len(pages())} pages: {Path(out, 'index.html')}")
            return 0
    print((__doc__ or "").partition("\n\n    ")[2].partition("\n\nSphinx")[0], file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
