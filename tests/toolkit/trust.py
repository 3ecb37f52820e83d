"""``./walls test --trust``: how well the graders grade, a row for each stage; ``--write`` puts the table into docs/trust.md.

Everything is judged by test_banks.py and test_mutants.py. What is counted here comes out of the files that pytest leaves
of its runs (JUnit's XML). Stages that have changed since they were last in order are judged first: a hash of all that
belongs to a stage is kept in the cache, once its row is in order.
"""

import contextlib
import hashlib
import json
import os
import re
import xml.etree.ElementTree
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from test_mutants import NOT_JUDGED_YET, excused

from thinwalls import course

KINDS = {
    "wrong": "test_a_wrong_answer_is_caught_by_name",
    "right": "test_a_right_answer",
    "cheats": "test_a_cheat_earns_nothing|test_what_is_no_stage_file|test_what_lies_beside",
    "mutants": "test_a_mutant_is_noticed",
}
COLUMNS = ("stage", "wrong caught", "right accepted", "cheats defeated", "mutants killed", "seconds of work")
DOCUMENT = course.ROOT / "docs" / "trust.md"
_TABLE = re.compile(r"(?<=<!-- the table -->\n).*?(?=<!-- the end of the table -->)", re.DOTALL)


@dataclass
class Row:
    """What came of a stage: for each of KINDS, how many there are and how many did as they should."""

    stage: course.Stage
    there: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    good: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    skipped: int = 0  # this machine cannot grade them
    seconds: float = 0.0

    @property
    def in_order(self) -> bool:
        return self.there == self.good and all(self.there.values()) and not self.skipped

    def cells(self) -> list[str]:
        """The row as it is shown."""
        survivors, equivalent = (len(excused(self.stage, kind)) for kind in ("survivor", "equivalent"))
        killed, made = self.good["mutants"], self.there["mutants"] + survivors
        share = (
            "not judged yet"
            if self.stage.id in NOT_JUDGED_YET
            else f"{killed} of {made} ({100 * killed // max(1, made)} %), {equivalent} equivalent"
        )
        counts = [f"{self.good[kind]} of {self.there[kind]}" for kind in ("wrong", "right", "cheats")]
        name = f"{int(self.stage.id)} ({self.stage.name})" + (f", {self.skipped} not gradable" if self.skipped else "")
        return [name, *counts, share, f"{self.seconds:.0f}"]


def rows(results: Iterable[Path]) -> list[Row]:
    """A row for each stage, from the files of one run after another: what was run again counts as it was then."""
    found: dict[str, xml.etree.ElementTree.Element] = {}
    for path in results:
        for case in xml.etree.ElementTree.parse(path).iter("testcase"):
            found[case.get("name", "")] = case
    table = {stage.id: Row(stage) for stage in course.stages()}
    for name, case in found.items():
        parts = re.match(r"(\w+)\[(\d\d)-", name)
        kind = parts and next((kind for kind, tests in KINDS.items() if re.match(tests, parts[1])), None)
        if not parts or not kind:
            continue
        row = table[parts[2]]
        row.seconds += sum(float(p.get("value", 0)) for p in case.iter("property") if p.get("name") == "seconds")
        if case.find("skipped") is not None:
            row.skipped += 1
            continue
        row.there[kind] += 1
        row.good[kind] += case.find("failure") is None and case.find("error") is None
    return list(table.values())


def as_text(table: list[Row]) -> str:
    """The table for a terminal and for Markdown alike."""
    cells = [list(COLUMNS), *(row.cells() for row in table)]
    widths = [max(len(line[n]) for line in cells) for n in range(len(COLUMNS))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines) + "\n"


def write(table: list[Row], seed: int) -> None:
    """Put the table into the document."""
    text = DOCUMENT.read_text()
    kernel, who = os.uname().release.split("-")[0], "as root" if os.geteuid() == 0 else "without privilege"
    said = f"{as_text(table)}\nLinux {kernel}, {who}, with the seed {seed}.\n"
    DOCUMENT.write_text(_TABLE.sub(lambda _: said, text))


def changed() -> list[str]:
    """The ids of the stages of which anything has changed since their row was last in order."""
    return [stage.id for stage in course.stages() if _known().get(stage.id) != _hash(stage)]


def remember(table: list[Row]) -> None:
    """Keep which stages are in order as they are now."""
    known = {**_known(), **{row.stage.id: _hash(row.stage) if row.in_order else "" for row in table}}
    with contextlib.suppress(OSError):  # it is only the order in which they are judged
        _cache().parent.mkdir(parents=True, exist_ok=True)
        _cache().write_text(json.dumps(known))


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "thinwalls", "trusted.json")


def _known() -> dict[str, str]:
    try:
        return dict(json.loads(_cache().read_text()))
    except (OSError, ValueError, TypeError):
        return {}


def _hash(stage: course.Stage) -> str:
    """What a stage's row depends on: its own files, and all that grades."""
    own = (
        path for room in ("solutions", "tests") for path in (course.ROOT / room).rglob("*") if stage.stem in str(path)
    )
    graders = (path for room in ("grading", "host") for path in (course.ROOT / "thinwalls" / room).rglob("*.py"))
    found = hashlib.sha256()
    for path in sorted({*own, *graders}):
        if path.is_file() and path.suffix != ".pyc":
            found.update(f"{path.relative_to(course.ROOT)}\n".encode() + path.read_bytes())
    return found.hexdigest()
