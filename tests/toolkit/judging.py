"""Graders judged by answers that are known: what test_banks.py and test_mutants.py have in common.

An Entry is one submission of which something is known. A Judge grades the selected ones all at once, by a few workers,
while the tests of the entries wait for their verdicts one after the other. Each worker has a keeper of its own and a
Rehearsed: the reference's side of a task is shown once, and then stands beside every entry that is graded there.
"""

import functools
import importlib.util
import multiprocessing
import os
import random
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from thinwalls import course
from thinwalls.grading import driver, plugin, result
from thinwalls.host import Keeper

BANKS = course.ROOT / "tests"
NO_POINTS = {result.FAILED, result.TIMEOUT, result.ERROR}  # the others are no zero: they ask for another run
WORKERS = 2
Verdicts = dict[str, result.Verdict]


@dataclass(frozen=True)
class Entry:
    """One submission. make: puts the stage's file at a path; whatever else is known of it is in ``known``.

    first: a task with which grading begins, and ends as soon as a task has failed; "": all are graded.
    """

    stage: course.Stage
    name: str
    make: Callable[[Path], object]
    known: dict[str, Any] = field(default_factory=dict)
    first: str = ""

    @property
    def id(self) -> str:
        return f"{self.stage.id}-{self.name}"


@dataclass
class Judged:
    """What became of an entry. trouble: what went wrong while it was graded."""

    verdicts: Verdicts
    seconds: float
    trouble: str = ""


def entries(bank: list[Entry]) -> Any:
    """The decorator of a test that judges each entry of a bank."""
    return pytest.mark.parametrize("entry", [pytest.param(entry, id=entry.id) for entry in bank])


class Judge:
    """Grades entries: the selected ones all at once, by as many workers as this machine has to spare."""

    def __init__(self, selected: dict[str, Entry], seed: int, folder: Path, fixed: dict[str, int]):
        """selected: the entries, by the names of their tests. fixed: seeds of some of them, by their ids."""
        context = multiprocessing.get_context("fork")
        self.seed, self.folder, self._found = seed, folder, dict[str, Judged]()
        self._fixed = fixed
        self._jobs, self._results = context.SimpleQueue(), context.Queue()
        self._keepers = [Keeper() for _ in range(WORKERS)]
        self.cgroup, self.ids = self._keepers[0].cgroup, self._keepers[0].ids
        self._workers = [context.Process(target=self._work, args=(each, selected, folder)) for each in self._keepers]
        for worker in self._workers:
            worker.start()
        for number, key in enumerate([*selected, *[None] * WORKERS]):
            self._jobs.put((number, key))

    @classmethod
    def of(cls, request: pytest.FixtureRequest, folder: Path, fixed: dict[str, int] | None = None) -> "Judge":
        """A judge of all that is selected of a module, with the seed of this run of pytest."""
        seed = request.config.getoption("--seed")
        seed = random.SystemRandom().getrandbits(32) if seed is None else seed
        items = [item for item in request.session.items if item.path == request.path]
        given = {item.name: item.callspec.params for item in items if hasattr(item, "callspec")}
        selected = {name: params["entry"] for name, params in given.items() if "entry" in params}
        return cls(selected, seed, folder, fixed or {})

    def seed_of(self, entry: Entry) -> int:
        """The seed with which an entry is graded."""
        return self._fixed.get(entry.id, self.seed)

    def judged(self, key: str) -> Judged:
        """What became of an entry. What went wrong while it was graded fails the test of that entry."""
        while key not in self._found:
            name, found = self._results.get(timeout=120)
            self._found[name] = found
        found = self._found[key]
        assert not found.trouble, found.trouble
        return found

    def close(self) -> None:
        for worker in self._workers:
            worker.join()
        for keeper in self._keepers:
            keeper.close()

    def _work(self, keeper: Keeper, selected: dict[str, Entry], folder: Path) -> None:
        rehearsed: dict[int, plugin.Rehearsed] = {}  # by seed
        while (job := self._jobs.get())[1]:
            number, key = job
            began = time.monotonic()
            found = Judged({}, 0)
            try:
                shown = rehearsed.setdefault(self.seed_of(selected[key]), {})
                found.verdicts = self._grade(keeper, shown, selected[key], folder / str(number))
            except BaseException:
                found.trouble = traceback.format_exc()
            found.seconds = time.monotonic() - began
            self._results.put((key, found))

    def _grade(self, keeper: Keeper, rehearsed: plugin.Rehearsed, entry: Entry, folder: Path) -> Verdicts:
        """Grade one; what holds of every grading is asserted here."""
        folder.mkdir()
        entry.make(folder / f"{entry.stage.stem}.py")
        before = len(os.listdir("/proc/self/fd"))
        if entry.first:
            make = functools.partial(plugin.Grader, str(folder), self.seed_of(entry), False, keeper)
            verdicts = self._until_it_fails(entry, make, rehearsed)
        else:
            tasks = driver.select([entry.stage.id])
            found = driver.grade(tasks, str(folder), seed=self.seed_of(entry), keeper=keeper, rehearsed=rehearsed)
            verdicts = found.verdicts
            assert list(verdicts) == [task.id for task in entry.stage.tasks]
        assert len(os.listdir("/proc/self/fd")) <= before, "the grader was left with descriptors that are not its own"
        for verdict in verdicts.values():
            text = plugin.as_text(verdict)
            assert all(line.isprintable() for line in text.split("\n")), "a terminal would obey this"
            for internal in ("Traceback", "the graded test broke", str(course.ROOT)):
                assert internal not in text, text
        return verdicts

    def _until_it_fails(
        self, entry: Entry, make: Callable[..., plugin.Grader], rehearsed: plugin.Rehearsed
    ) -> Verdicts:
        """Grade one task after the other, up to the first that fails.

        On a busy machine a task may fail for no fault of the entry's: where that is likely, it has to fail again,
        beside a reference that is shown anew.
        """
        tests, grader = suite(entry.stage), make(rehearsed)
        for task in sorted(tests, key=lambda task: task != entry.first):
            verdict = grader.grade(task, tests[task])
            if verdict.status in NO_POINTS and (verdict.status == result.TIMEOUT or task != entry.first):
                verdict = grader.verdicts[task] = make({}).grade(task, tests[task])
            if verdict.status in NO_POINTS:
                break
        return grader.verdicts


_suites: dict[str, dict[str, Any]] = {}


def suite(stage: course.Stage) -> dict[str, Any]:
    """The graded tests of a stage, by task."""
    if stage.id not in _suites:
        spec = importlib.util.spec_from_file_location(stage.suite.stem, stage.suite)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found = {}
        for value in vars(module).values():
            for mark in getattr(value, "pytestmark", []):
                if mark.name == "task":
                    found[mark.args[0]] = value
        _suites[stage.id] = {task.id: found[task.id] for task in stage.tasks}
    return _suites[stage.id]
