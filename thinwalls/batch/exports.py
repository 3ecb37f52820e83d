"""The class in the files that other programs take: Gradescope, Canvas, nbgrader, JUnit, and a plain table.

The formats are described, with their sources and an example each, in docs/exports.md. Who has no marks yet
(``left_out``) is in none that carries marks away. What was not gradable is in neither score nor max_score.
"""

import csv
import datetime
import io
import json
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from thinwalls import whole
from thinwalls.batch import escape, feedback, marks, roster
from thinwalls.batch.graded import Graded
from thinwalls.batch.marks import unsettled

TITLE = "Thin Walls"


class ExportError(ValueError):
    """This class cannot be written in this format; the text says why."""


def write(name: str, out: Path, graded: Sequence[Graded], title: str = TITLE) -> Path:
    """Write an export into the folder ``out``, each file whole or not at all; gives what was written.

    name: one of ``NAMES``. title: what the assignment is called there. Raises ExportError, OSError.
    """
    if name not in _WRITERS:
        raise ExportError(f"there is no export {name!r}; there are {', '.join(NAMES)}")
    out.mkdir(parents=True, exist_ok=True)
    return _WRITERS[name](out, graded, title)


def left_out(name: str, graded: Sequence[Graded]) -> dict[str, str]:
    """Who is not in an export, and why: submission or id of a person -> a sentence."""
    found = {}
    usual = _usual(graded)
    for each in graded:
        why = unsettled(each)
        if name == "canvas" and not why and each.person is None:
            why = "nobody in the roster is known for it"
        if name == "canvas" and not why and each.max_score != usual and "adjusted" not in each.result:
            why = f"{escape.number(each.max_score)} points were to be had, {escape.number(usual)} by most"
        if why and (name in ("gradescope", "canvas") or (name == "nbgrader" and why != marks.NOTHING)):
            found[each.id] = why
    return found


def _usual(graded: Sequence[Graded]) -> float:
    """The points that were to be had by most: of a machine that can grade less, or by hand, there may be others."""
    counted = Counter(each.max_score for each in graded if not unsettled(each))
    return max(counted, key=lambda points: (counted[points], points), default=0.0)


def _settled(name: str, graded: Sequence[Graded]) -> list[Graded]:
    absent = left_out(name, graded)
    return [each for each in graded if each.id not in absent]


def _gradescope(out: Path, graded: Sequence[Graded], title: str) -> Path:
    """gradescope/ID/results.json, one for each submission: what its autograder harness reads.

    The total is given, as lateness and a score given by hand are in no single test. No flag is in it: learners read it.
    """
    folder = out / "gradescope"
    for each in _settled("gradescope", graded):
        tests = []
        for task in marks.tasks(each.result):
            test = {"name": escape.line(task["title"]), "number": task["id"], "output": feedback.text(task)}
            if marks.counts(task):
                full = task["points"] >= task["max_points"]
                test |= {"score": task["points"], "max_score": task["max_points"]}
                test |= {"status": "passed" if full else "failed"}
            else:
                test["name"] += " (not gradable, outside the score)"
            tests.append(test | {"output_format": "text"})
        content = {
            "score": each.score,
            "execution_time": each.result.get("duration_s", 0),
            "output": "\n".join([f"{escape.number(each.score)} of {escape.number(each.max_score)}", *_remarks(each)]),
            "output_format": "text",
            "tests": tests,
            "extra_data": {"submission": escape.line(each.id)},
        }
        place = folder / escape.file_name(each.id)
        place.mkdir(parents=True, exist_ok=True)
        whole.write(place / "results.json", json.dumps(content, indent=1, ensure_ascii=True) + "\n")
    folder.mkdir(exist_ok=True)
    return folder


def _remarks(each: Graded) -> list[str]:
    return [escape.line(text) for text in ([each.late] if each.late else []) + list(each.adjustments)]


def _canvas(out: Path, graded: Sequence[Graded], title: str) -> Path:
    """canvas.csv, for Grades, Import. A learner's id is Canvas's "SIS User ID", the email its "SIS Login ID"."""
    if all(each.person is None for each in graded):
        raise ExportError("Canvas knows people by the ids of its own: it takes a roster (--roster)")
    header = ["Student", "ID", "SIS User ID", "SIS Login ID", "Section", escape.cell(title)]
    lines = [header, ["    Points Possible", "", "", "", "", escape.number(_usual(graded))]]
    for each in _settled("canvas", graded):
        person = each.person
        assert person is not None
        who = [escape.cell(text) for text in (person.name or person.id, "", person.id, person.email, "")]
        lines.append([*who, escape.number(each.score)])
    return _csv(out / "canvas.csv", lines)


_NBGRADER = "assignment,duedate,timestamp,student_id,last_name,first_name,email,raw_score,late_submission_penalty,score,max_score"


def _nbgrader(out: Path, graded: Sequence[Graded], title: str) -> Path:
    """nbgrader.csv, as ``nbgrader export`` writes it, but quoted where needed. Who handed nothing in has 0, as there."""
    lines = [_NBGRADER.split(",")]
    for each in _settled("nbgrader", graded):
        person = each.person
        raw = max(each.score, float(each.result.get("score", 0)))
        time = ""
        if person and person.submitted_at:
            time = roster.moment(person.submitted_at).astimezone(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")
        last, first = names(person.name if person else "")
        who = [person.id if person else each.id, last, first, person.email if person else ""]
        numbers = [f"{number:.2f}" for number in (raw, raw - each.score, each.score, each.max_score)]
        lines.append([escape.cell(title), "", time, *map(escape.cell, who), *numbers])
    return _csv(out / "nbgrader.csv", lines)


def names(full: str) -> tuple[str, str]:
    """(last, first) of a name: what stands before a comma is the last name, else the last word is."""
    if "," in full:
        last, _, first = full.partition(",")
    else:
        first, _, last = full.rpartition(" ")
    return last.strip(), first.strip()


def _plain(out: Path, graded: Sequence[Graded], title: str) -> Path:
    """class.csv: a line for everybody, a column for each task. Empty: not gradable, or no marks yet."""
    tasks = {task["id"]: None for each in graded for task in marks.tasks(each.result)}
    ids = sorted(
        tasks,
        key=lambda name: [(not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in name.split(".")],
    )
    lines = [["submission", "id", "name", "email", "score", "max_score", "late", "adjustments", "flags", *ids]]
    for each in graded:
        person, why = each.person, unsettled(each)
        points = {
            task["id"]: escape.number(task["points"])
            for task in marks.tasks(each.result)
            if marks.counts(task) and (task["status"] != "infra_error" or "adjusted" in task)
        }
        flags = [*each.flags, *([why] if why and why not in each.flags else [])]
        who = [each.id, *((person.id, person.name, person.email) if person else ("", "", ""))]
        words = [each.late, "; ".join(each.adjustments), "; ".join(flags)]
        score = "" if why else escape.number(each.score)
        lines.append(
            [*map(escape.cell, who), score, escape.number(each.max_score), *map(escape.cell, words)]
            + [points.get(name, "") for name in ids]
        )
    return _csv(out / "class.csv", lines)


def _junit(out: Path, graded: Sequence[Graded], title: str) -> Path:
    """junit.xml: a test suite for each submission, a test case for each task."""
    root = ElementTree.Element("testsuites", name=escape.line(title))
    totals: dict[str, float] = {"tests": 0, "failures": 0, "errors": 0, "skipped": 0, "time": 0.0}
    for each in graded:
        counts: dict[str, float] = dict.fromkeys(totals, 0)
        suite = ElementTree.SubElement(root, "testsuite", name=escape.line(each.id))
        for stage in each.result.get("stages", []):
            for task in stage["tasks"]:
                name = f"{task['id']} {escape.line(task['title'])}"
                seconds = float(task.get("duration_s", 0))
                case = ElementTree.SubElement(
                    suite, "testcase", classname=f"stage{stage['id']}_{stage['name']}", name=name, time=f"{seconds:.3f}"
                )
                counts["tests"] += 1
                counts["time"] += seconds
                if kind := _KINDS.get(task["status"], ""):
                    counts[_PLURAL[kind]] += 1
                    said = dict(feedback.rows(task))
                    what = said.get("yours") or next(iter(said.values()), task["status"])
                    told = ElementTree.SubElement(case, kind, message=escape.line(what))
                    if kind != "skipped":
                        told.set("type", task["status"])
                    told.text = feedback.text(task) + "\n"
        _set(suite, counts)
        totals = {name: totals[name] + counts[name] for name in totals}
    _set(root, totals)
    ElementTree.indent(root, " ")
    path = out / "junit.xml"
    whole.write(
        path, '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"
    )
    return path


_KINDS = {
    "failed": "failure",
    "timeout": "failure",
    "error": "error",
    "infra_error": "error",
    "not_gradable": "skipped",
}
_PLURAL = {"failure": "failures", "error": "errors", "skipped": "skipped"}


def _set(element: ElementTree.Element, counts: dict[str, float]) -> None:
    for name, count in counts.items():
        element.set(name, f"{count:.3f}" if name == "time" else str(int(count)))


def _csv(path: Path, lines: Iterable[Sequence[str]]) -> Path:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows(lines)
    whole.write(path, text.getvalue())
    return path


_WRITERS: dict[str, Callable[[Path, Sequence[Graded], str], Path]] = {
    "gradescope": _gradescope,
    "canvas": _canvas,
    "nbgrader": _nbgrader,
    "junit": _junit,
    "csv": _plain,
}
NAMES = tuple(_WRITERS)
