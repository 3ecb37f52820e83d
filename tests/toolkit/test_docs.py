"""The documents say what is true: their commands exist, their links and paths lead somewhere, what they show is so."""

import errno
import importlib
import json
import os
import re
import shlex
from pathlib import Path

import pytest

from thinwalls import cli, course, distribution, troubles
from thinwalls.grading import driver, plugin, result
from thinwalls.grading.result import Result, Verdict

ROOT = course.ROOT
DEVELOPERS = (ROOT / "requirements-dev.txt").read_text()
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LATER = re.compile(r"comes? (with stage \d|later)")  # a paragraph that says so may speak of what is not there yet
MADE = (".venv", ".thinwalls")  # folders that are not in the repository: ./walls makes them
STANDS_FOR = {"STAGE": "0", "TASK": "0.1", "N": "7"}  # words that a document uses for what a reader puts there
ONE_MACHINE = re.compile(r"(?<![\w.])/(home|Users|root|work|tmp|mnt(?!/c\b)|workspace)/\w|[A-Z]:\\")


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def paragraphs(document):
    """(text, whether it is a fenced block, its language) for each paragraph and each fenced block."""
    # What lies between fences alternates: text, the opening fence's language, a block, the closing fence's nothing.
    parts = re.split(r"^```(.*)$", document.read_text(), flags=re.MULTILINE)
    for number in range(0, len(parts), 4):
        yield from ((text.strip(), False, "") for text in re.split(r"\n\s*\n", parts[number]) if text.strip())
        if number + 2 < len(parts):
            yield parts[number + 2].strip("\n"), True, parts[number + 1].strip()


def code(document):
    """(what stands in code, the paragraph it stands in): fenced blocks line by line, and code spans."""
    before = ""  # the paragraph that introduces a fenced block may say that it is about something to come
    for text, fenced, _ in paragraphs(document):
        if fenced:
            yield from ((line, before) for line in text.splitlines())
        else:
            before = text
            yield from ((" ".join(span.split()), text) for span in re.findall(r"`([^`]+)`", text))


def commands(document):
    """The words after ./walls in every command that the document quotes, and the paragraph it stands in."""
    for text, paragraph in code(document):
        found = re.search(r"(?:^|\s)\./walls(?=\s|$)([^;|&>()]*)", text)
        if found:
            yield shlex.split(found[1], comments=True), paragraph


def links(document):
    text = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    yield from re.findall(r"\]\(([^)\s]+)\)", text)
    yield from re.findall(r'(?:src|srcset|href)="([^"]+)"', text)


def headings(document):
    """The anchors of a document's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def parse(words):
    """Understand a command as ./walls would. Raises what it would say."""
    words = [STANDS_FOR.get(word, word) for word in words]
    if not words:
        return
    assert words[0] in cli._PARTS, f"there is no ./walls {words[0]}"
    args = cli.parser(words[0]).parse_args(words[1:])
    driver.select(getattr(args, "words", []))
    if "task" in args and args.task:
        course.task(args.task)
    if "stage" in args:
        course.stage(args.stage)


def is_path(span):
    """Whether a code span names a file or folder of the repository."""
    if not re.fullmatch(r"[\w.*\-]+(/[\w.*\-]*)*", span) or span.startswith("-"):
        return False
    return "/" in span or Path(span).suffix in (".py", ".md", ".toml", ".txt", ".ipynb", ".svg", ".yml", ".json")


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_every_command_quoted_is_one_that_walls_understands(document):
    for words, _ in commands(document):
        try:
            parse(words)
        except (cli.Refused, course.Unknown, AssertionError) as error:
            pytest.fail(f"{name(document)} quotes ./walls {' '.join(words)}: {error}")


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_every_module_run_with_python_exists(document):
    for text, _ in code(document):
        if found := re.search(r"python[\d.]* -m ([\w.]+)", text):
            package = found[1].partition(".")[0]
            if importlib.util.find_spec(package):
                assert importlib.util.find_spec(found[1]), f"{name(document)}: {text}"
            else:  # ./walls test --full does not run without it
                assert re.search(rf"^{package}\b", DEVELOPERS, re.MULTILINE), f"{name(document)}: {text}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_every_link_leads_somewhere(document):
    for target in links(document):
        if re.match(r"[a-z]+:", target):
            assert target.startswith("https://"), target
            continue
        path, _, anchor = target.partition("#")
        there = (document.parent / path).resolve() if path else document
        assert there.exists(), f"{name(document)} links to {target}"
        assert there.is_relative_to(ROOT), target
        if anchor:
            assert anchor in headings(there), f"{name(document)} links to {target}, and there is no such heading"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_every_file_named_exists(document):
    for span, paragraph in code(document):
        if not is_path(span) or span.startswith(MADE) or LATER.search(paragraph):
            continue
        places = [span.rstrip("/")] if "/" in span else [span, f"[!.]*/**/{span}"]
        assert any(any(ROOT.glob(place)) for place in places), f"{name(document)} names {span}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_every_name_of_a_module_can_be_imported(document):
    for span, _ in code(document):
        if not re.fullmatch(r"thinwalls(\.\w+)+(\(\))?", span):
            continue
        module, _, attribute = span.removesuffix("()").rpartition(".")
        try:
            importlib.import_module(span.removesuffix("()"))
        except ModuleNotFoundError:
            assert hasattr(importlib.import_module(module), attribute), f"{name(document)} names {span}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_no_line_is_about_one_machine(document):
    for number, line in enumerate(document.read_text().splitlines(), start=1):
        assert not ONE_MACHINE.search(line), f"{name(document)}, line {number}: {line}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_code_said_to_be_from_a_file_stands_in_it(document):
    """A block that follows "From `FILE`:" is quoted word for word."""
    before = ""
    for text, fenced, _ in paragraphs(document):
        if fenced and (found := re.search(r"From `([^`]+)`:$", before)):
            assert text in (ROOT / found[1]).read_text(), f"{name(document)} quotes {found[1]}, which reads otherwise"
        before = text


def test_what_was_not_tried_is_marked_in_its_place_too():
    """docs/doors.md: a door that its table marks as not tried begins with the mark, and no other does."""
    text, mark = (ROOT / "docs/doors.md").read_text(), "not tried by us yet"
    rows = re.findall(r"^\|[^|]*\| \[[^]]+\]\(#([\w-]+)\) \| (.+?) \|$", text, re.MULTILINE)
    sections = {}
    for part in text.split("\n## ")[1:]:
        title, _, body = part.partition("\n")
        sections[re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")] = body.strip().lower()
    assert len(rows) == 7 and {anchor for anchor, _ in rows} < set(sections)
    for anchor, state in rows:
        assert (state == mark) == sections[anchor].startswith(mark), anchor


def test_the_line_that_starts_the_dev_container_is_that_of_its_test_and_of_its_settings():
    (line,) = re.findall(r"^sudo podman run .*?bash$", (ROOT / "docs/doors.md").read_text(), re.MULTILINE | re.DOTALL)
    words = shlex.split(line.replace("\\\n", ""))
    given = [word for before, word in zip(words, words[1:], strict=False) if before == "--security-opt"]
    assert given == json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())["securityOpt"]
    rest = [word for word in words if word not in ("--security-opt", *given)]
    assert rest == [*"sudo podman run -it --name walls --network=host -v $PWD:/course:ro thin-walls bash".split()]
    tested = (ROOT / "tests/toolkit/test_devcontainer.py").read_text()
    for piece in (
        "--network=host",
        "/course:ro",
        "git config --global safe.directory '*'",
        "clone -q /course thin-walls",
    ):
        assert piece in tested, piece


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 60


def test_the_failure_in_the_learners_guide_is_what_check_says(tmp_path):
    """It comes of the most common mistake of its task, made here in the reference."""
    right = "        return 128 + os.WTERMSIG(status)  # task 0.2\n"
    source = course.reference(course.stage("0"))
    assert right in source
    (tmp_path / "stage00_process.py").write_text(source.replace(right, "        pass\n"))
    verdict = driver.grade(driver.select(["0.2"]), str(tmp_path), seed=7).verdicts["0.2"]
    assert verdict.status == result.FAILED
    verdict.printed = ""
    guide = " ".join((ROOT / "docs/learner.md").read_text().split())
    for line in plugin.as_text(verdict).splitlines():
        assert " ".join(line.split()) in guide, f"docs/learner.md does not have: {line}"


def plain(text):
    """A text in one line, small, and without the marks of Markdown."""
    return " ".join(re.sub(r"[`*]", "", text).split()).casefold()


@pytest.mark.parametrize("name", [name for name, each in vars(troubles).items() if isinstance(each, troubles.Trouble)])
def test_what_the_doctor_can_say_is_explained(name):
    """Each cause and each mend stands in docs/troubleshooting.md: all between the words that are filled in."""
    page = plain((ROOT / "docs/troubleshooting.md").read_text())
    trouble = getattr(troubles, name)
    for sentence in (trouble.cause, trouble.mend):
        for piece in re.split(r"\{\w+\}", sentence):
            assert plain(piece).strip(" .:;,()") in page, f"{name}: docs/troubleshooting.md does not have: {piece}"


def test_the_table_of_commands_is_that_of_the_doctor():
    page = (ROOT / "docs/troubleshooting.md").read_text()
    for packages in distribution.PACKAGES.values():
        for command, package in zip(distribution.INSTALL.values(), packages, strict=True):
            if package not in (*distribution.PACKAGES["QEMU"], "linux-image-arm64"):  # named after the machine
                assert f"| `{command} {package}` " in page


@pytest.mark.parametrize("error", ["EPERM", "EACCES", "EINVAL", "EBUSY", "EROFS", "ENOSPC", "ENOMEM", "EADDRINUSE"])
def test_an_error_is_found_by_its_name_and_by_its_text(error):
    headings = re.findall(r"^### (.+)$", (ROOT / "docs/troubleshooting.md").read_text(), flags=re.MULTILINE)
    assert any(f'"{os.strerror(getattr(errno, error))}" ({error}' in heading for heading in headings)


def test_the_result_in_the_instructors_guide_has_the_shape_of_a_result():
    blocks = [text for text, _, language in paragraphs(ROOT / "docs/instructor.md") if language == "json"]
    (shown,) = [json.loads(text) for text in blocks]
    stage, task = course.task("0.2")
    verdicts = {"0.2": Verdict("0.2", result.FAILED)}
    made = Result("stages", 7, [(stage, task)], result.machine_facts("v1"), verdicts).as_json()
    assert shape(shown["stages"][0]["tasks"][0]) == shape(made["stages"][0]["tasks"][0])
    assert shape(shown["stages"][0]) == shape(made["stages"][0])
    assert shape(shown) == shape(made)
    assert shape(shown["machine"]) == shape(made["machine"])
    assert shown["schema"] == result.SCHEMA
    assert shown["score"] == sum(stage["score"] for stage in shown["stages"])
    assert shown["max_score"] == sum(task["max_points"] for stage in shown["stages"] for task in stage["tasks"])


def shape(table):
    return {key: type(value).__name__ for key, value in table.items()}


def test_every_status_is_explained_to_instructors():
    text = (ROOT / "docs/instructor.md").read_text()
    statuses = {result.PASSED, result.FAILED, result.TIMEOUT, result.NOT_GRADABLE, result.ERROR, result.INFRA_ERROR}
    assert [status for status in statuses if f"`{status}`" not in text] == []
