"""What grading found: the result file of the contract (schema thinwalls/result/v1)."""

import datetime
import json
import os
import platform
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from thinwalls import course, whole

SCHEMA = "thinwalls/result/v1"
PASSED, FAILED, TIMEOUT = "passed", "failed", "timeout"
NOT_GRADABLE, ERROR, INFRA_ERROR = "not_gradable", "error", "infra_error"


@dataclass
class Verdict:
    """What became of one task. The strings may hold what hostile code wrote: escape them for where they go."""

    id: str
    status: str
    did: str = ""
    expected: str = ""
    yours: str = ""
    maybe: str = ""
    message: str = ""  # where there is no expected and yours: why there is not
    printed: str = ""  # the last of what the learner's code printed
    duration_s: float = 0.0
    broken: str = ""  # where a file does not load ("line 98 of stage04_cgroups.py"); "": all do

    @property
    def hint(self) -> str:
        """The command that helps on: with ``check --all-mine`` it may be an earlier task that is not built."""
        earlier = re.search(r"\btask (\d+\.\d+) is not built yet", self.yours)
        return f"./walls hint {earlier[1] if earlier else self.id}"

    @property
    def next(self) -> str:
        """What to do about it."""
        return f"mend {self.broken}" if self.broken else self.hint


@dataclass
class Result:
    """One implementation, graded. ``verdicts``: by task id, in the manifest's order."""

    impl: str
    seed: int
    tasks: list[tuple[course.Stage, course.Task]]
    machine: dict[str, Any]
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    submission: str | None = None
    started: str = field(default_factory=lambda: datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"))
    duration_s: float = 0.0

    def verdict(self, task: course.Task) -> Verdict:
        """The task's verdict; a task nothing was heard of has failed: silence earns nothing."""
        missing = Verdict(task.id, INFRA_ERROR, message="the graded suite did not report on this task")
        return self.verdicts.get(task.id, missing)

    def counts(self) -> dict[str, int]:
        """How many tasks have each status."""
        found: dict[str, int] = {}
        for _, task in self.tasks:
            status = self.verdict(task).status
            found[status] = found.get(status, 0) + 1
        return found

    def passed(self) -> bool:
        """Whether every task that was asked for passed."""
        return set(self.counts()) == {PASSED}

    def as_json(self) -> dict[str, Any]:
        """The result as the contract writes it."""
        stages: dict[str, dict[str, Any]] = {}
        for stage, task in self.tasks:
            verdict = self.verdict(task)
            entry = stages.setdefault(
                stage.id, {"id": stage.id, "name": stage.name, "score": 0, "max_score": 0, "tasks": []}
            )
            gradable = verdict.status != NOT_GRADABLE
            points = task.points if verdict.status == PASSED else 0
            entry["score"] += points
            entry["max_score"] += task.points if gradable else 0
            entry["tasks"].append(
                {
                    "id": task.id,
                    "title": task.title,
                    "points": points,
                    "max_points": task.points,
                    "status": verdict.status,
                    "message": verdict.message or _sentence(verdict),
                    "expected": verdict.expected,
                    "yours": verdict.yours,
                    "hint": "" if verdict.status == PASSED else verdict.hint,
                    "duration_s": round(verdict.duration_s, 4),
                }
            )
        return {
            "schema": SCHEMA,
            "submission": self.submission,
            "impl": self.impl,
            "seed": self.seed,
            "started": self.started,
            "duration_s": round(self.duration_s, 4),
            "machine": self.machine,
            "score": sum(stage["score"] for stage in stages.values()),
            "max_score": sum(stage["max_score"] for stage in stages.values()),
            "stages": list(stages.values()),
        }

    def write(self, path: Path) -> None:
        """Write the JSON file, whole or not at all."""
        whole.write(path, json.dumps(self.as_json(), indent=1) + "\n")


def machine_facts(cgroup: str | None) -> dict[str, Any]:
    """What of this machine matters to a verdict. cgroup: what bounds the hosts, "v1", "v2" or None."""
    version = "v2" if Path("/sys/fs/cgroup/cgroup.controllers").exists() else "v1"
    return {
        "kernel": platform.release(),
        "arch": platform.machine(),
        "python": platform.python_version(),
        "cgroup": version,
        "uid": os.getuid(),
        "bounded": cgroup is not None,
    }


def _sentence(verdict: Verdict) -> str:
    if verdict.status == PASSED:
        return ""
    parts = [("did", verdict.did), ("maybe", verdict.maybe)]
    return "; ".join(f"{name}: {text}" for name, text in parts if text)


def to_dict(verdict: Verdict) -> dict[str, Any]:
    """The verdict as plain data."""
    return asdict(verdict)
