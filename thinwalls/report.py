"""How progress, hints and verdicts look in a terminal.

Text that hostile code may have written (what it printed, the text of its exceptions) passes through ``printable``
first: a terminal obeys what it is sent. rich is loaded only for verdicts; progress and hints do without.
"""

import os
import sys
import textwrap
from typing import TYPE_CHECKING, Any, TextIO

from thinwalls import course
from thinwalls.progress import Progress

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from thinwalls.grading.result import Result, Verdict

_WIDEST = 100  # columns; longer lines are hard to read
_PRINTED = 5  # lines of what the learner's code printed, the last ones
_LABEL = 10  # columns of the word before each line of a failure
# What stands before a verdict's ``message``, by status.
_MESSAGES = {"failed": "yours", "error": "error", "timeout": "timeout", "not_gradable": "why", "infra_error": "trouble"}


def printable(text: str) -> list[str]:
    """The lines of a text, with every character that is more than a visible sign written as its escape."""
    return ["".join(c if c.isprintable() else ascii(c)[1:-1] for c in line) for line in text[:4000].split("\n")]


def width() -> int:
    """The columns to write in."""
    try:
        columns = int(os.environ.get("COLUMNS", "")) or _WIDEST
    except ValueError:
        try:
            columns = os.get_terminal_size(1).columns or _WIDEST
        except OSError:  # no terminal
            columns = _WIDEST
    return max(40, min(columns, _WIDEST))


def wrapped(text: str, indent: int = 0) -> str:
    """A text in lines that fit, all of them indented."""
    return textwrap.fill(
        text, width(), initial_indent=" " * indent, subsequent_indent=" " * indent, break_on_hyphens=False
    )


def progress(known: Progress) -> str:
    """The walls built so far: a course of bricks for each stage, a brick for each task, as wide as its points."""
    full, empty, gap = ("█", "░", " ") if _can_draw(sys.stdout) else ("#", ".", " ")
    bricks = {
        stage.id: gap.join((full if known.stands(task) else empty) * 2 * task.points for task in stage.tasks)
        for stage in course.stages()
    }
    longest = max(len(row) for row in bricks.values())
    lines = []
    for stage in reversed(course.stages()):  # a wall grows upwards
        stood = sum(task.points for task in stage.tasks if known.stands(task))
        points = sum(task.points for task in stage.tasks)
        lines.append(
            f"  {int(stage.id)}  {bricks[stage.id]:<{longest}}  {stood:>2} of {points:<2} points  {stage.title}"
        )
    return "\n".join(lines)


def next_step(known: Progress, here: course.Stage | None = None) -> str:
    """What to do now: the first task that does not stand (in the stage ``here`` first), where to read and to build it."""
    found = known.next_task(here)
    if found is None:
        return "All walls of this course stand. See what others do: ./walls solution STAGE"
    stage, task = found
    whole = here is not None and stage != here and all(known.stands(each) for each in here.tasks)
    number = int(stage.id)
    adds = course.adds(course.reference(stage), task.id)
    more = f", and what {task.id} adds to {', '.join(f'{name}()' for name in adds)}," if adds else ""
    lines = [wrapped(_stands(here)), ""] if here is not None and whole else []
    lines += [
        f"Next, in stage {number}, {stage.title}:",
        f"  task   {task.id}  {task.title} ({_points(task.points)}, about {task.minutes} minutes)",
        f"  read   notebooks/{stage.stem}.ipynb   (./walls start opens it)",
        f"  build  {', '.join(f'{name}()' for name in task.builds)}{more} in stages/{stage.stem}.py",
        f"  prove  ./walls check {number} --watch",
        f"  stuck  ./walls hint {task.id}",
    ]
    for other in task.needs:
        if not known.stands(course.task(other)[1]):
            lines.append(f"  first  task {other}, which it builds on")
    return "\n".join(lines)


def _stands(stage: course.Stage) -> str:
    """What is said once to whoever has built all of a stage, while another is still open."""
    said = f"All of stage {int(stage.id)} stands, {stage.title}. Well built!"
    if stage == course.stages()[-1]:
        for lesson in course.lessons():
            said += f" What it costs beside a virtual machine: notebooks/{lesson.stem}.ipynb"
    return said


def hint(task: course.Task, tier: int, again: bool, known: Progress) -> str:
    """One tier of a task's hint, and how to see the next."""
    last = len(task.hints) - 1
    lines = [f"{task.id}  {task.title}", ""]
    lines += [wrapped(paragraph, 2) for paragraph in task.hints[tier].strip().split("\n\n")]
    lines.append("")
    ending = f"That was hint {tier + 1} of {last + 1}"
    if again:
        ending += ", once more: there is none after it."
    elif tier == last:
        ending += ", the last."
    else:
        ending += f". Try it; the same command gives the next: ./walls hint {task.id}"
    lines.append(wrapped(ending))
    if waiting := [other for other in task.needs if not known.stands(course.task(other)[1])]:
        lines.append(wrapped(f"It builds on {' and '.join(waiting)}, which you have not passed yet: begin there."))
    return "\n".join(lines)


def console(target: TextIO | None = None) -> "Console":
    """Where verdicts go. No word is coloured or replaced for what it looks like."""
    from rich.console import Console

    return Console(file=target, width=width() + 1, soft_wrap=False, highlight=False, markup=False, emoji=False)


def verdict(task: course.Task, found: "Verdict", brief: bool = False) -> "Text":
    """A passed task in a line; any other as a block: did, expected, yours, maybe, next. brief: a line for each."""
    from rich.text import Text

    passed = found.status == "passed"
    colour = {"passed": "green", "not_gradable": "yellow"}.get(found.status, "red")
    word = "" if found.status in ("passed", "failed") else f"{found.status.replace('_', ' ')}   "
    points = "-" if found.status == "not_gradable" else str(task.points if passed else 0)
    right = f"{word}{points} / {task.points}"
    text = Text()
    text.append(f"{task.id}  ", f"bold {colour}")
    text.append(f"{task.title:<{width() - len(task.id) - 2 - len(right)}}")
    text.append(right, colour)
    if passed or brief:
        return text
    rows = [(name, getattr(found, name)) for name in ("did", "expected", "yours", "maybe")]
    rows.append((_MESSAGES.get(found.status, "message"), found.message))
    rows.append(("printed", "\n".join(found.printed.rstrip("\n").split("\n")[-_PRINTED:])))
    if found.status not in ("not_gradable", "infra_error"):
        rows.append(("next", found.next))
    for name, said in rows:
        lines = [part for line in printable(said) for part in _folded(line)] if said else []
        for number, line in enumerate(lines):
            text.append(f"\n{name if number == 0 else '':<{_LABEL}}", "dim")
            text.append(line)
    return text


def _folded(line: str) -> list[str]:
    return textwrap.wrap(line, width() - _LABEL, replace_whitespace=False, break_on_hyphens=False) or [""]


def summary(found: "Result") -> str:
    """The total of a grading, and what else there is to say of it."""
    score = found.as_json()
    lines = [f"{score['score']} of {_points(score['max_score'])}"]
    counts = found.counts()
    if absent := counts.get("not_gradable", 0):
        ids = ", ".join(task.id for _, task in found.tasks if found.verdict(task).status == "not_gradable")
        lines.append(
            f"{'A task' if absent == 1 else f'{absent} tasks'} cannot be graded on this machine ({ids}): ./walls doctor"
        )
    if counts.get("infra_error"):
        lines.append("The trouble is the course's or the machine's, not yours: please try again, then ./walls doctor")
    if not found.machine.get("bounded"):
        lines.append(
            "Memory is not bounded here, for lack of a cgroup: code that takes much of it slows this machine down."
        )
    return "\n".join(lines)


def _points(number: int) -> str:
    return f"{number} point" if number == 1 else f"{number} points"


def _can_draw(target: Any) -> bool:
    try:
        "█░·".encode(target.encoding or "ascii")
        return True
    except (UnicodeEncodeError, LookupError):
        return False
