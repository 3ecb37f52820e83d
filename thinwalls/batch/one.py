"""One submission, graded: what the process does that has this one task, on whichever machine it is.

It says what it knows as it comes to know it: verdicts first, "done" at the end. Whoever started it puts that together
(``Grading``), and starts another one for what is missing or was not the submission's fault.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from thinwalls import course
from thinwalls.batch.submissions import Content, Submission
from thinwalls.grading import result
from thinwalls.grading.machine import Observation
from thinwalls.grading.result import INFRA_ERROR, Result, Verdict

ATTEMPTS = 3
UNUSABLE = "the submission cannot be graded: "
Tell = Callable[[dict[str, Any]], None]
Tasks = Sequence[tuple[course.Stage, course.Task]]


@dataclass
class Grading:
    """A submission that is being graded, and what is known so far."""

    submission: Submission
    content: Content
    seed: int
    tasks: Tasks
    machine: dict[str, Any]
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    attempts: int = 0
    done: bool = False
    trouble: str = ""  # what was heard of the last attempt, if it did not end well
    seconds: float = 0.0

    def begin(self) -> list[str]:
        """The tasks of the next attempt."""
        self.attempts, self.done, self.trouble = self.attempts + 1, False, ""
        return [task.id for _, task in self.again()]

    def again(self) -> list[tuple[course.Stage, course.Task]]:
        """The tasks that have no verdict, or one that is not the submission's fault."""
        return [
            (stage, task)
            for stage, task in self.tasks
            if task.id not in self.verdicts or self.verdicts[task.id].status == INFRA_ERROR
        ]

    def hear(self, line: dict[str, Any]) -> None:
        """Take in one line of an attempt."""
        if "verdict" in line:
            verdict = Verdict(**line["verdict"])
            self.verdicts[verdict.id] = verdict
        self.machine = line.get("machine", self.machine)
        self.done = self.done or "done" in line
        self.trouble = line.get("broke", self.trouble)

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to try."""
        return not self.again() or self.attempts >= ATTEMPTS

    def as_result(self) -> Result:
        """What was found; what was not found is the course's fault or the machine's, and named."""
        found = Result(str(self.submission.path), self.seed, list(self.tasks), self.machine, dict(self.verdicts))
        for _, task in self.again():
            if task.id not in found.verdicts:
                why = self.trouble or "the process that graded it ended before it said anything"
                message = f"not graded, after {self.attempts} attempts: {why}"
                found.verdicts[task.id] = Verdict(task.id, INFRA_ERROR, message=message)
        found.submission, found.duration_s = self.submission.id, self.seconds
        return found


def unusable(grading: Grading) -> Result:
    """The result of a submission that could not be read: nothing of it was run, and the reason is its message."""
    message = f"{UNUSABLE}{grading.content.problem}"
    verdicts = {task.id: Verdict(task.id, result.ERROR, message=message) for _, task in grading.tasks}
    found = Result(str(grading.submission.path), grading.seed, list(grading.tasks), grading.machine, verdicts)
    found.submission = grading.submission.id
    return found


def attempt(
    content: Content,
    seed: int,
    ids: Sequence[str],
    observed: dict[str, dict[str, Any]],
    work: Path,
    tell: Tell,
    at_once: int = 1,
) -> None:
    """Grade these tasks of a submission, with keepers of its own, in this process.

    observed: as observations() gives it. work: where its files may be put for the time. at_once: so many tasks at a
    time. Never raises Exception.
    """
    from thinwalls.grading import driver
    from thinwalls.host import Keeper

    try:
        known = {id: _observed(told) for id, told in observed.items()}
        with tempfile.TemporaryDirectory(dir=work) as folder, Keeper() as keeper:
            stages = Path(folder, "stages")
            stages.mkdir()
            content.write(stages)
            tell({"machine": result.machine_facts(keeper.cgroup)})
            tasks = _tasks(ids)
            found = driver.grade(
                tasks,
                str(stages),
                seed,
                keeper=keeper,
                tell=lambda each: tell({"verdict": asdict(each)}),
                rehearsed=known,
                at_once=at_once,
            )
        for _, task in tasks:
            tell({"verdict": asdict(found.verdict(task))})
        tell({"done": True})
    except Exception as error:
        tell({"broke": f"{type(error).__name__}: {error}"})


def observations(seed: int, ids: Sequence[str], tell: Tell) -> None:
    """Look at the reference's side of these tasks, and tell it, to be given to any number of attempts."""
    from thinwalls.grading import driver
    from thinwalls.host import Keeper

    with Keeper() as keeper:
        for id, each in driver.observe(_tasks(ids), seed, keeper).items():
            kind = "observation" if isinstance(each, Observation) else "verdict"
            tell({"task": id, kind: asdict(each)})


def _observed(told: dict[str, Any]) -> Verdict | Observation:
    return Observation(**told["observation"]) if "observation" in told else Verdict(**told["verdict"])


def _tasks(ids: Sequence[str]) -> list[tuple[course.Stage, course.Task]]:
    return [course.task(id) for id in ids]
