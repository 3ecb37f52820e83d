"""A report to look at: the class on one page, and a page for each learner with what they would read at home.

Static files that need no network and no server. Nothing from a submission can act in them: control characters are
written as escapes, everything is escaped by the template engine, and a content security policy lets the browser use
the one style sheet and the one script that stand in the page, known by their digests, and nothing else. The template
engine is jinja2, which Jupyter brings.
"""

import base64
import hashlib
import statistics
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import markupsafe

from thinwalls import course, whole
from thinwalls.batch import escape, exports, feedback, lessons, marks
from thinwalls.batch.graded import Graded

_PAGES = Path(__file__).with_name("pages")
# Every status has a sign besides its colour. "unbuilt" is a failure too, but one that a teacher wants to tell apart.
SIGNS = {
    "passed": "✓",
    "failed": "✗",
    "unbuilt": "·",
    "timeout": "t",
    "error": "e",
    "not_gradable": "–",
    "infra_error": "?",
}
_MEANS = {**feedback.MEANS, "unbuilt": "not built yet"}
_STATES = [
    ("whole", "who passed everything"),
    ("failed", "who failed something"),
    ("late", "who was late"),
    ("look", "whom to look at"),
    ("missing", "who handed nothing in"),
]


def write(out: Path, graded: Sequence[Graded], title: str = exports.TITLE) -> Path:
    """Write ``out/index.html`` and a page in ``out/learners/`` for each submission, each whole or not at all.

    Gives the path of the index. Raises OSError.
    """
    style, script = _source("style.css"), _source("table.js")
    policy = "; ".join(
        [
            "default-src 'none'",
            f"style-src {_digest(style)}",
            f"script-src {_digest(script)}",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    engine = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_PAGES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    engine.globals.update(policy=markupsafe.Markup(policy), style=style, script=script, title=escape.line(title))
    (out / "learners").mkdir(parents=True, exist_ok=True)
    for each in graded:
        if page := _page(each):
            text = engine.get_template("learner.html").render(_learner(each))
            whole.write(out / urllib.parse.unquote(page), text)
    index = out / "index.html"
    whole.write(index, engine.get_template("index.html").render(_index(graded)))
    return index


def _source(name: str) -> markupsafe.Markup:
    """A file of ours, to stand in a page as it is."""
    return markupsafe.Markup((_PAGES / name).read_text(encoding="utf-8"))


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _page(each: Graded) -> str:
    """The link from the index to a learner's page; "" where there is nothing to show."""
    name = urllib.parse.quote(escape.file_name(each.id)) if marks.tasks(each.result) else ""
    return f"learners/{name}.html" if name else ""


def _name(each: Graded) -> str:
    return escape.line((each.person and (each.person.name or each.person.id)) or each.id) or "(no name)"


def _status(task: dict[str, Any]) -> str:
    return "unbuilt" if lessons.unbuilt(task) else str(task["status"])


def _points(score: float, most: float) -> str:
    return f"{escape.number(score)} / {escape.number(most)}"


def _learner(each: Graded) -> dict[str, Any]:
    """What a learner's page shows. No flag is on it, so that it can be handed out."""
    stages = []
    for stage in each.result["stages"]:
        tasks = [
            {
                "id": task["id"],
                "title": escape.line(task["title"]),
                "status": _status(task),
                "sign": SIGNS[_status(task)],
                "words": _MEANS[_status(task)],
                "points": _points(task["points"], task["max_points"]) if marks.counts(task) else "outside the score",
                "rows": [(label, escape.lines(text)) for label, text in feedback.rows(task)],
            }
            for task in stage["tasks"]
        ]
        points = _points(stage["score"], stage["max_score"])
        stages.append({"number": int(stage["id"]), "name": stage["name"], "points": points, "tasks": tasks})
    why = marks.unsettled(each)
    return {
        "name": _name(each),
        "submission": "" if each.person is None else escape.line(each.id),
        "points": f"No points yet: {why}" if why else f"{_points(each.score, each.max_score)} points",
        "remarks": [escape.line(text) for text in [each.late, *each.adjustments] if text],
        "stages": stages,
    }


def _index(graded: Sequence[Graded]) -> dict[str, Any]:
    """What the index shows."""
    titles = {task["id"]: task["title"] for each in graded for task in marks.tasks(each.result)}
    known = [task.id for stage in course.stages() for task in stage.tasks]
    ids = [name for name in known if name in titles]
    stages = []
    for stage in course.stages():
        if own := [task.id for task in stage.tasks if task.id in titles]:
            stages.append({"name": f"{int(stage.id)} {stage.title}", "ids": own})
    first = {stage["ids"][0] for stage in stages}
    statuses = {name: _statuses(graded, name) for name in ids}
    columns = [
        {
            "id": name,
            "title": escape.line(titles[name]),
            "first": name in first,
            "passed": f"{100 * found.count('passed') / len(found):.0f}" if (found := statuses[name]) else "–",
        }
        for name in ids
    ]
    people = [_row(each, ids, first) for each in graded]
    scores = [each.score / each.max_score for each in graded if not marks.unsettled(each) and each.max_score]
    bars, words = _bars(scores)
    flagged = any("same program" in flag for each in graded for flag in each.flags)
    return {
        "summary": _summary(graded, scores),
        "attention": _attention(graded),
        "flagged": flagged,
        "explain": [_with_links(lesson) for lesson in lessons.most_failed(graded)],
        "bars": bars,
        "bars_in_words": words,
        "key": [{"name": name, "sign": SIGNS[name], "words": _MEANS[name]} for name in SIGNS],
        "states": _STATES,
        "stages": stages,
        "columns": columns,
        "people": people,
    }


def _statuses(graded: Sequence[Graded], name: str) -> list[str]:
    """The statuses of one task that count for how many passed it."""
    found = [task["status"] for each in graded for task in marks.tasks(each.result) if task["id"] == name]
    return [status for status in found if status not in ("not_gradable", "infra_error")]


def _row(each: Graded, ids: Sequence[str], first: set[str]) -> dict[str, Any]:
    """One learner in the table."""
    tasks = {task["id"]: task for task in marks.tasks(each.result)}
    why = marks.unsettled(each)
    cells: list[dict[str, Any] | None] = []
    for name in ids:
        task = tasks.get(name)
        if task is None:
            cells.append(None)
            continue
        by_hand = "adjusted" in task
        words = _MEANS[_status(task)].partition(":")[0]
        cells.append(
            {
                "status": _status(task),
                "sign": SIGNS[_status(task)] + "*" * by_hand,
                "words": words + f", {escape.number(task['points'])} points given by hand" * by_hand,
                "sort": list(reversed(SIGNS)).index(_status(task)),
                "first": name in first,
            }
        )
    found = [task["status"] for task in tasks.values() if marks.counts(task)]
    states = ["whole" if found and set(found) == {"passed"} else "failed" if found else "missing"]
    states += ["late"] * bool(each.late and "not known" not in each.late) + ["look"] * bool(each.flags or why)
    person = each.person
    whole = [_name(each), each.id, *((person.id, person.email) if person else ())]
    last, given = exports.names(_name(each))
    return {
        "name": _name(each),
        "page": _page(each),
        "find": escape.line(" ".join(whole)),
        "states": states,
        "sort": f"{last} {given}".casefold(),
        "score": -1 if why else each.score,
        "points": "–" if why else _points(each.score, each.max_score),
        "cells": cells,
    }


def _summary(graded: Sequence[Graded], scores: Sequence[float]) -> str:
    absent = sum(marks.NOTHING in each.flags for each in graded)
    said = [f"{len(graded) - absent} graded"]
    if absent:
        said.append(f"{absent} handed nothing in")
    if scores:
        said.append(f"half of them have {100 * statistics.median(scores):.0f} % of the points or more")
    return "; ".join(said) + "."


def _attention(graded: Sequence[Graded]) -> list[dict[str, Any]]:
    """What an instructor has to look at before marks go out."""
    found: list[dict[str, Any]] = []
    for each in graded:
        remarks = [*each.flags]
        if (why := marks.unsettled(each)) and why not in remarks:
            remarks.append(why)
        if remarks:
            found.append({"name": _name(each), "page": _page(each), "words": [escape.line(text) for text in remarks]})
    absent: dict[str, list[str]] = {}
    for each in graded:
        for task in marks.tasks(each.result):
            if not marks.counts(task):
                absent.setdefault(task["id"], []).append(escape.line(task["message"]))
    for name, messages in absent.items():
        usual = max(messages, key=messages.count)
        told = f"could not be graded for {len(messages)}, and is outside their score: {usual}"
        found.append({"name": f"Task {name}", "page": "", "words": [told]})
    return found


def _with_links(lesson: lessons.Lesson) -> dict[str, Any]:
    groups = [
        {
            "text": group.text,
            "label": group.status,
            "count": len(group.who),
            "people": [{"name": _name(each), "page": _page(each)} for each in group.who[:6]],
            "more": max(0, len(group.who) - 6),
        }
        for group in lesson.groups[:3]
    ]
    said = {"id": lesson.id, "title": lesson.title, "failed": lesson.failed, "tried": lesson.tried}
    more = sum(len(group.who) for group in lesson.groups[3:])
    return said | {"unbuilt": lesson.unbuilt, "groups": groups, "more": more}


def _bars(scores: Sequence[float]) -> tuple[list[dict[str, Any]], str]:
    """The distribution of the scores in ten bars, and in words."""
    counts = [0] * 10
    for score in scores:
        counts[min(9, int(score * 10 + 1e-9))] += 1
    if not scores:
        return [], ""
    labels = [f"{10 * n}–{10 * n + 9 if n < 9 else 100}" for n in range(10)]
    bars = [
        {"width": round(220 * count / max(counts)), "count": count, "label": label}
        for count, label in zip(counts, labels, strict=True)
    ]
    words = ", ".join(f"{count} with {label} per cent" for count, label in zip(counts, labels, strict=True) if count)
    return bars, f"Of {len(scores)}: {words}"
