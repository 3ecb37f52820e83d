"""What a result says of one task, in labelled lines: what its learner would read at home, for reports and exports."""

from collections.abc import Mapping
from typing import Any

from thinwalls.batch import escape

# What stands before a task's message, by status, as in a terminal.
_SAYS = {"error": "error", "timeout": "timeout", "not_gradable": "why", "infra_error": "trouble"}
MEANS = {
    "passed": "passed",
    "failed": "failed",
    "timeout": "timeout: no answer in time",
    "error": "error: it cannot be loaded, or ended what called it",
    "not_gradable": "not gradable on the machine that graded",
    "infra_error": "trouble of the course or the machine, no fault of the learner",
}


def rows(task: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(label, text) for a task of a result: did, expected, yours, maybe, and why there are not these; next.

    The texts are as the result has them: hostile code may have written in them.
    """
    if task["status"] == "passed":
        return _adjusted(task)
    message, did, maybe = str(task["message"]), "", ""
    # thinwalls.grading.result puts "did" and "maybe" into the message where it has nothing else to say.
    if message.startswith(("did: ", "maybe: ")):
        head, _, tail = message.rpartition("maybe: ")
        did, maybe = (head.removesuffix("; "), tail) if head or message.startswith("maybe: ") else (message, "")
        did, message = did.removeprefix("did: "), ""
    found = [
        ("did", did),
        ("expected", str(task["expected"])),
        ("yours", str(task["yours"])),
        ("maybe", maybe),
        (_SAYS.get(task["status"], "message"), message),
    ]
    if task["status"] not in ("not_gradable", "infra_error"):
        found.append(("next", str(task["hint"])))
    return [(label, text) for label, text in found if text] + _adjusted(task)


def _adjusted(task: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [("points", f"given by hand: {task['adjusted']}")] if "adjusted" in task else []


def text(task: Mapping[str, Any]) -> str:
    """The same as plain lines, with nothing in them that a terminal would obey."""
    said = []
    for label, words in rows(task):
        said += [f"{label if n == 0 else '':<10}{each}" for n, each in enumerate(escape.lines(words).split("\n"))]
    return "\n".join(said)
