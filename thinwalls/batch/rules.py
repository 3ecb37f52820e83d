"""What an instructor has changed of the course: a TOML file that is kept outside of it.

    title = "Operating systems, winter term"
    stages = [0, 1, 2]                      # without: all
    without = ["2.6"]                       # tasks that do not count
    points = { "1.4" = 4 }                  # without: those of the course
    due = { 0 = 2026-12-01T18:00:00+01:00 } # by stage
    late = { grace = "15m", percent_per_day = 10, cut_off = "7d" }

Tables may be written as [points], too.
"""

import copy
import datetime
import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from thinwalls import course
from thinwalls.batch import roster
from thinwalls.batch.late import Policy, policy
from thinwalls.grading.result import NOT_GRADABLE, PASSED

TITLE = "Thin Walls"
_KEYS = ("title", "stages", "without", "points", "due", "late")
Tasks = list[tuple[course.Stage, course.Task]]


class RulesError(ValueError):
    """The file says what cannot be; the text names file and line."""


@dataclass(frozen=True)
class Rules:
    """tasks: those that count; points: of tasks, where they are others than the course's; due: by the stage's id."""

    title: str = TITLE
    tasks: Tasks = field(default_factory=lambda: [(stage, task) for stage in course.stages() for task in stage.tasks])
    points: dict[str, float] = field(default_factory=dict)
    due: dict[str, datetime.datetime] = field(default_factory=dict)
    late: Policy = field(default_factory=Policy)

    def counted(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """A result with these points."""
        made = copy.deepcopy(dict(result))
        for stage in made["stages"]:
            for task in stage["tasks"]:
                task["max_points"] = self.points.get(task["id"], task["max_points"])
                task["points"] = task["max_points"] if task["status"] == PASSED else 0
            gradable = [task for task in stage["tasks"] if task["status"] != NOT_GRADABLE]
            stage["score"] = sum(task["points"] for task in gradable)
            stage["max_score"] = sum(task["max_points"] for task in gradable)
        made["score"] = sum(stage["score"] for stage in made["stages"])
        made["max_score"] = sum(stage["max_score"] for stage in made["stages"])
        return made


def read(path: Path) -> Rules:
    """The rules of a file. Raises RulesError."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        table = tomllib.loads(text)
    except OSError as error:
        raise RulesError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise RulesError(f"{path}: this is not UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        found = re.fullmatch(r"(.*) \(at line (\d+), column \d+\)", str(error))
        line = int(found[2]) if found else text.count("\n") + 1
        raise RulesError(f"{path}, line {line}: {found[1] if found else error}") from None
    return _Reading(path, text).rules(table)


class _Reading:
    """A file that is TOML, and what it says."""

    def __init__(self, path: Path, text: str):
        self._path, self._lines = path, text.splitlines()

    def rules(self, table: Mapping[str, Any]) -> Rules:
        for key in table:
            if key not in _KEYS:
                raise self._wrong(f"there is no {key!r}; there are {', '.join(_KEYS)}", key)
        title = table.get("title", TITLE)
        if not isinstance(title, str) or not title.strip() or not title.isprintable():
            raise self._wrong(f"title: {title!r} is no line of text", "title")
        tasks = self._tasks(table)
        due = {}
        for word, when in self._table(table, "due").items():
            stage = self._stage(word, "due", word)
            try:
                due[stage.id] = roster.moment(when.isoformat() if hasattr(when, "isoformat") else str(when))
            except ValueError as error:
                raise self._wrong(str(error), "due", word) from None
        rule = self._table(table, "late")
        try:
            cost = policy(rule)
        except ValueError as error:
            key = next((key for key in rule if str(error).startswith((f"{key}:", f"'{key}'"))), "")
            raise self._wrong(str(error), "late", key) from None
        return Rules(title, tasks, self._points(table), due, cost)

    def _tasks(self, table: Mapping[str, Any]) -> Tasks:
        stages = {self._stage(word, "stages").id for word in self._list(table, "stages")}
        without = {self._task(word, "without") for word in self._list(table, "without")}
        found = [
            (stage, task)
            for stage, task in Rules().tasks
            if (stage.id in stages or "stages" not in table) and task.id not in without
        ]
        if not found:
            raise self._wrong("no task is left that counts", "without" if "without" in table else "stages")
        return found

    def _points(self, table: Mapping[str, Any]) -> dict[str, float]:
        points = {}
        for word, number in self._table(table, "points").items():
            right = isinstance(number, int | float) and not isinstance(number, bool) and math.isfinite(number)
            if not right or not 0 <= number <= 1000:
                raise self._wrong(f"{number!r} is no number of points, from 0 to 1000", "points", word)
            points[self._task(word, "points", word)] = number
        return points

    def _list(self, table: Mapping[str, Any], key: str) -> list[Any]:
        found = table.get(key, [])
        if not isinstance(found, list):
            raise self._wrong(f"{key}: a list is needed, such as {key} = [...]", key)
        return found

    def _table(self, table: Mapping[str, Any], key: str) -> dict[str, Any]:
        found = table.get(key, {})
        if not isinstance(found, dict):
            raise self._wrong(f"{key}: a table is needed, such as [{key}]", key)
        return found

    def _stage(self, word: Any, *keys: str) -> course.Stage:
        try:
            return course.stage(str(word))
        except course.Unknown as error:
            raise self._wrong(str(error), *keys) from None

    def _task(self, word: Any, *keys: str) -> str:
        try:
            return course.task(str(word))[1].id
        except course.Unknown as error:
            raise self._wrong(str(error), *keys) from None

    def _wrong(self, sentence: str, *keys: str) -> RulesError:
        """The error, with the line on which the key stands: tomllib does not tell, so it is looked for."""
        line, table = 1, ""
        for number, text in enumerate(self._lines, 1):
            if header := re.match(r"\s*\[\s*([\w-]+)\s*\]", text):
                table = header[1]
            key = rf"[\"']?{re.escape(keys[-1])}[\"']?\s*="
            if keys[0] == table and (len(keys) == 1 or re.match(rf"\s*{key}", text)):
                line = number
                break
            if not table and re.match(rf"\s*[\"']?{re.escape(keys[0])}\b", text):
                line = number  # of the whole table, should the key be on none of the next lines
                if len(keys) == 1 or re.search(key, text):
                    break
        return RulesError(f"{self._path}, line {line}: {sentence}")
