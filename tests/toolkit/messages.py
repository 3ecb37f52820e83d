"""What a learner is told about the commonest mistakes, kept as text that people have read.

It lies in ``tests/messages/STEM/NAME.txt``: NAME is an entry of ``tests/wrong``, and the text is the verdict of the first
task that it fails. These entries are graded with one seed, so that a text can be read as a learner sees it. What is
still different in every run, such as the number of a process, stands in it as ``<word>`` or ``<number>``, and as
``<any>`` where it is more than that.

``pytest tests/toolkit/test_banks.py --messages`` writes those of the first three entries of each task. It needs to see
several runs to know what changes: call it until git shows no difference. To begin afresh, when a text has changed,
remove its file first. A change of these files is a commit of its own, and is read like prose.

Machines differ, in what they can mount and in how their cgroups are made. So the texts are compared on such a machine
only as they were written on (``tests/messages/where.txt``), and not where a seed is asked for.
"""

import difflib
import os
import re
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

import pytest

from thinwalls import cgroupfs, course

SEED = 1
WHERE = course.ROOT / "tests" / "messages" / "where.txt"
_TOKEN = re.compile(r"<(?:word|number|any)>|[A-Za-z]+|\d+|\n|.")
_PATTERNS = {"<word>": "[A-Za-z]+", "<number>": r"\d+", "<any>": r"[^\n]*"}


def here() -> str:
    """What kind of machine this is, and for whom."""
    kernel = ".".join(os.uname().release.split(".")[:2])
    return (
        f"Linux {kernel} {os.uname().machine}, cgroup {cgroupfs.version()}, {'root' if os.geteuid() == 0 else 'a user'}"
    )


def compared(config: pytest.Config) -> bool:
    """Whether texts are compared, or written, in this run."""
    if config.getoption("--messages"):
        return True
    return config.getoption("--seed") is None and WHERE.exists() and WHERE.read_text().strip() == here()


def matches(template: str, text: str) -> bool:
    """Whether a text is the one that was read, but for what changes."""
    pattern = "".join(_PATTERNS.get(token, re.escape(token)) for token in _TOKEN.findall(template))
    return re.fullmatch(pattern, text) is not None


def merged(template: str, text: str) -> str:
    """A template that fits what another template fits, and one more text."""
    old, new = _TOKEN.findall(template), _TOKEN.findall(text)
    pieces: list[str] = []
    for what, a, b, c, d in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        pieces += old[a:b] if what == "equal" else _both(old[a:b], new[c:d])
    return re.sub("(<any>)+", "<any>", "".join(pieces))


def _both(old: list[str], new: list[str]) -> Iterator[str]:
    kinds = [{_kind(one), _kind(other)} for one, other in zip_longest(old, new, fillvalue="")]
    if all(len(kind) == 1 and "" not in kind for kind in kinds):
        yield from (next(iter(kind)) for kind in kinds)
    else:
        yield from ("\n" if token == "\n" else "<any>" for token in (old or new))


def _kind(token: str) -> str:
    if token in _PATTERNS:
        return token
    return "<word>" if token.isalpha() else "<number>" if token.isdigit() else ""


def check(path: Path, text: str, write: bool) -> str:
    """Compare with what is kept, or write it; gives a sentence if that is not the text, "" if it is."""
    text += "\n"
    kept = path.read_text() if path.exists() else text
    if write:
        path.parent.mkdir(parents=True, exist_ok=True)
        WHERE.write_text(f"{here()}\n")
        path.write_text(merged(kept, text))
    elif not matches(kept, text):
        difference = "\n".join(difflib.ndiff(kept.splitlines(), text.splitlines()))
        where = path.relative_to(course.ROOT)
        return f"{where} has another text; see tests/toolkit/messages.py\n{difference}"
    return ""
