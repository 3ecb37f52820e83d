"""What GitHub Actions shows of a result: an annotation at each task that did not pass, and the summary of the job.

    python -m thinwalls.batch.actions RESULT.json FOLDER

RESULT.json: what ``./walls check --json`` wrote. FOLDER: that of the stage files, as the learner's repository has it,
seen from the working directory; annotations name its files. The summary goes where GITHUB_STEP_SUMMARY says, else
nowhere. The exit status is 0 if the result could be shown, whatever is in it, and 2 if not: the verdict is
``./walls check``'s own. See docs/exports.md.
"""

import ast
import html
import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from thinwalls import course
from thinwalls.batch import escape, feedback, marks, report
from thinwalls.grading.result import SCHEMA


def command(kind: str, message: str, **where: str) -> str:
    """A workflow command such as ``::error file=stages/x.py,line=7::message``, in one line whatever the message has."""
    data = message.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    properties = []
    for name, value in where.items():
        value = value.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
        properties.append(f"{name}={value.replace(':', '%3A').replace(',', '%2C')}")
    return f"::{kind} {','.join(properties)}::{data}"


def annotations(result: Mapping[str, Any], folder: Path) -> list[str]:
    """A command for each task that did not pass, at the function that it asks for: errors, or notices that cost nothing.

    Whether a file is there and what is in it makes no difference but to the line.
    """
    said = []
    for stage in result["stages"]:
        known = course.stage(stage["id"])
        for task in stage["tasks"]:
            if task["status"] == "passed":
                continue
            kind = "notice" if task["status"] in ("not_gradable", "infra_error") else "error"
            path = folder / f"{known.stem}.py"
            title = f"{task['id']} {escape.line(task['title'])}: {task['status'].replace('_', ' ')}"
            line = str(_line(path, task))
            said.append(command(kind, feedback.text(task), title=title, file=path.as_posix(), line=line))
    return said


def _line(path: Path, task: Mapping[str, Any]) -> int:
    """Where the learner is to look: the line that does not load, or the function that the task asks for; else 1."""
    if found := re.search(r"\(line (\d{1,6})\)$", str(task["message"])):
        return int(found[1])
    try:
        tree = course.parsed(course.read_source(path))
        names = course.task(task["id"])[1].builds
    except (FileNotFoundError, course.Unreadable, course.Unknown):
        return 1
    defined: dict[str, int] = {}
    for outer in tree.body:
        if isinstance(outer, ast.FunctionDef):
            defined[outer.name] = outer.lineno
        elif isinstance(outer, ast.ClassDef):
            defined |= {
                f"{outer.name}.{each.name}": each.lineno for each in outer.body if isinstance(each, ast.FunctionDef)
            }
    return next((defined[name] for name in names if name in defined), 1)


def summary(result: Mapping[str, Any]) -> str:
    """The result in GitHub's Markdown: a table of the tasks, and what was said of those that did not pass."""
    lines = [
        f"## Thin Walls: {escape.number(result['score'])} of {escape.number(result['max_score'])} points",
        "",
        "| task | | points | |",
        "|---|---|---|---|",
    ]
    tasks = marks.tasks(result)
    for task in tasks:
        points = (
            f"{escape.number(task['points'])} / {task['max_points']}" if marks.counts(task) else "not gradable here"
        )
        cells = (
            task["id"],
            _text(task["title"]),
            points,
            f"{report.SIGNS[task['status']]} {task['status'].replace('_', ' ')}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    for task in tasks:
        if task["status"] != "passed":
            # In a <pre> that begins a line nothing is Markdown, up to the </pre>, which no text can have.
            lines += [
                "",
                f"### {task['id']} {_text(task['title'])}",
                "",
                f"<pre>{html.escape(feedback.text(task))}</pre>",
            ]
    return "\n".join(lines) + "\n"


def _text(text: str) -> str:
    """A text in a Markdown table or heading, in which nothing is Markdown."""
    return re.sub(r"([\\`*_{}\[\]()#+!|~<>&@-])", lambda sign: f"&#{ord(sign[1])};", escape.line(text))


def main(words: list[str]) -> int:
    """Print the annotations, append the summary. words: the result's file, the folder. Gives the exit status."""
    if len(words) != 2:
        print("usage: python -m thinwalls.batch.actions RESULT.json FOLDER", file=sys.stderr)
        return 2
    try:
        result = json.loads(Path(words[0]).read_text(encoding="utf-8"))
        if not isinstance(result, dict) or result.get("schema") != SCHEMA:
            raise ValueError(f"this is no {SCHEMA}")
    except (OSError, ValueError) as error:
        print(f"actions: {words[0]}: {error}", file=sys.stderr)
        return 2
    for each in annotations(result, Path(words[1])):
        print(each)
    if place := os.environ.get("GITHUB_STEP_SUMMARY"):
        with open(place, "a", encoding="utf-8") as file:
            file.write(summary(result))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
