"""What to explain to a class: the tasks most failed, and what their learners were told most often."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from thinwalls.batch import escape, feedback, marks
from thinwalls.batch.graded import Graded

_LONGEST = 240  # characters of what is quoted
_TASKS = 8  # so many at most


@dataclass(frozen=True)
class Group:
    """Failures that read alike. text: of one of them, harmless; who: everybody, in the order of the class."""

    status: str
    text: str
    who: list[Graded]


@dataclass(frozen=True)
class Lesson:
    """A task that was failed: by so many of those who tried; unbuilt: so many more had left the stub as it was."""

    id: str
    title: str
    failed: int
    tried: int
    unbuilt: int
    groups: list[Group]


def most_failed(graded: Sequence[Graded], most: int = _TASKS) -> list[Lesson]:
    """The tasks that most have failed, those first; the failures of each in groups, the largest first."""
    found: dict[str, list[tuple[Graded, dict[str, Any]]]] = {}
    for each in graded:
        if _unusable(marks.tasks(each.result)):
            continue
        for task in marks.tasks(each.result):
            if task["status"] not in ("not_gradable", "infra_error"):
                found.setdefault(task["id"], []).append((each, task))
    made = []
    for name, of in found.items():
        tried = [(each, task) for each, task in of if not unbuilt(task)]
        failed = [(each, task) for each, task in tried if task["status"] != "passed"]
        if failed:
            title = escape.line(failed[0][1]["title"])
            made.append(Lesson(name, title, len(failed), len(tried), len(of) - len(tried), _groups(failed)))
    return sorted(made, key=lambda lesson: -lesson.failed)[:most]


def unbuilt(task: dict[str, Any]) -> bool:
    """Whether the learner has not begun with it: the stub is as it was, or there is no file."""
    return task["status"] == "failed" and (
        "is not built yet" in task["yours"] or task["message"].startswith("there is no file")
    )


def _unusable(tasks: Sequence[dict[str, Any]]) -> bool:
    """Whether it was never graded, as an archive that cannot be read: one and the same error everywhere."""
    return {task["status"] for task in tasks} == {"error"} and len({task["message"] for task in tasks}) == 1


def _groups(failed: Sequence[tuple[Graded, dict[str, Any]]]) -> list[Group]:
    groups: dict[tuple[str, str], Group] = {}
    for each, task in failed:
        said = dict(feedback.rows(task))
        # The likely cause is the same for the same mistake; what was seen has the challenge's own numbers and names.
        cause = said.get("maybe") or said.get("yours") or next((said[name] for name in said if name != "next"), "")
        quoted = [f"{label}: {said[label]}" for label in ("yours", "maybe") if label in said] or [cause]
        text = "\n".join(_short(part) for part in quoted)
        key = (task["status"], _alike(cause))
        groups.setdefault(key, Group(task["status"], text, [])).who.append(each)
    return sorted(groups.values(), key=lambda group: -len(group.who))


def _short(text: str) -> str:
    said = escape.line(text)
    return said if len(said) <= _LONGEST else said[: _LONGEST - 1] + "…"


def _alike(text: str) -> str:
    """A text without what a challenge made up: quoted words and numbers."""
    return re.sub(r"'[^']*'|\"[^\"]*\"|`[^`]*`|\b[0-9a-f]*\d[0-9a-f]*\b", "*", escape.line(text).lower())
