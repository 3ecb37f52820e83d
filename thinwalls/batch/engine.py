"""The engine: several submissions at a time, each in a process of its own that may die without harm to any other.

This process never runs a submission, and never reads one. It keeps pytest and the graded suites loaded, so that the
processes it forks have them. Each of those starts a keeper of its own, so no two submissions share a cgroup or a host.
If one of these processes dies, or this one, the keeper ends what is left of its hosts.
"""

import contextlib
import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from thinwalls import linux
from thinwalls.batch import one
from thinwalls.batch.one import Grading
from thinwalls.grading import driver, plugin
from thinwalls.grading.result import INFRA_ERROR
from thinwalls.host import SLOWER, Host, Keeper

_LONGEST = 120 * SLOWER  # seconds an attempt may take: the driver ends it long before, if it is itself alive
_SIDE_BY_SIDE = 2  # tasks at a time for each processor: a task waits more than it works
_AT_ONCE = 4  # tasks of one submission at a time, at most: each may take 512 MiB
_TICK = 0.25  # seconds between two looks at the display
_FEW = 2  # submissions with the same seed: for fewer, looking at the reference's side ahead of them does not pay
Observed = dict[str, dict[str, Any]]


class Show(Protocol):
    """Who is told how it goes."""

    def started(self, submission: str) -> None:
        """Work on it begins."""

    def heard(self, grading: Grading) -> None:
        """Another task has a verdict."""

    def finished(self, grading: Grading, result: dict[str, Any]) -> None:
        """There is a result."""

    def tick(self) -> None:
        """Time has passed."""


class Child:
    """A process forked from this one, that says lines of JSON until it ends."""

    def __init__(self, work: Callable[[one.Tell], None], grading: Grading | None = None):
        self.grading, self.began, self.ended = grading, time.monotonic(), False
        self.pipe, write = os.pipe()
        self._rest = b""
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(self.pipe)
                self._become(parent, write, work)
            finally:
                os._exit(1)
        os.close(write)

    def _become(self, parent: int, write: int, work: Callable[[one.Tell], None]) -> None:
        """The child's side."""
        linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            return
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for ending in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(ending, signal.SIG_DFL)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1):
            os.dup2(nowhere, number)

        def tell(line: dict[str, Any]) -> None:
            data = json.dumps(line).encode() + b"\n"
            while data:
                data = data[os.write(write, data) :]

        work(tell)
        os._exit(0)

    def hear(self) -> list[dict[str, Any]]:
        """What it has said since; ``ended`` is set when that was all."""
        data = os.read(self.pipe, 1 << 20)
        self.ended = not data
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def end(self) -> None:
        """End it, in whatever it is doing, and wait for that."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.pipe)


def run(
    gradings: Sequence[Grading],
    jobs: int,
    work: Path,
    show: Show,
    keep: Callable[[Grading], dict[str, Any]],
) -> None:
    """Grade all these, so many at a time. keep: called with each that is finished, gives its result.

    work: a folder for files in the making. Raises KeyboardInterrupt; then what is kept is kept, and nothing runs on.
    """
    if not gradings:
        return
    warm_up(gradings[0].tasks)
    for seed in dict.fromkeys(grading.seed for grading in gradings):
        group = [grading for grading in gradings if grading.seed == seed]
        observed = observe(seed, group[0].tasks, jobs, show) if len(group) >= _FEW else {}
        waiting = iter(group)
        running: list[Child] = []

        def begin(grading: Grading, observed: Observed = observed) -> Child:
            ids = grading.begin()
            at_once = side_by_side(jobs)
            return Child(
                lambda tell: one.attempt(grading.content, grading.seed, ids, observed, work, tell, at_once), grading
            )

        try:
            while _fill(running, waiting, jobs, begin, show) or running:
                _listen(running, show)
                for child in [each for each in running if each.ended or _too_long(each)]:
                    running.remove(child)
                    child.end()
                    grading = child.grading
                    assert grading
                    grading.seconds += time.monotonic() - child.began
                    if not grading.finished:
                        running.append(begin(grading))
                    else:
                        show.finished(grading, keep(grading))
        finally:
            for child in running:
                child.end()


def warm_up(tasks: one.Tasks) -> None:
    """Load what every grading needs, and find out whether there can be one. Raises HostError."""
    with Keeper() as keeper:
        with Host(keeper) as host:
            assert host.runner
        driver.grade(tasks, os.devnull, 0, False, keeper)  # of nothing: all that is to be loaded is loaded
    plugin.compile_references()


def observe(seed: int, tasks: one.Tasks, jobs: int, show: Show) -> Observed:
    """The reference's side of these tasks, by so many processes at a time: as busy as the machine will be later.

    What the reference does not do at once is tried again: all submissions are going to be held against it.
    """
    known: Observed = {}
    for _ in range(one.ATTEMPTS):
        left = [task.id for _, task in tasks if "observation" not in known.get(task.id, {})]
        parts = [part for part in (left[number::jobs] for number in range(jobs)) if part]
        children = [Child(lambda tell, part=part: one.observations(seed, part, tell)) for part in parts]  # type: ignore[misc]
        running = list(children)
        try:
            while running:
                for child, lines in _ready(running):
                    known.update({line.pop("task"): line for line in lines})
                    if child.ended or _too_long(child):
                        running.remove(child)
                show.tick()
        finally:
            for child in children:
                child.end()
    return {id: told for id, told in known.items() if told.get("verdict", {}).get("status") != INFRA_ERROR}


def side_by_side(jobs: int) -> int:
    """How many tasks of each submission are graded at a time, when so many submissions are."""
    most = _SIDE_BY_SIDE * len(os.sched_getaffinity(0)) // jobs
    return max(1, min(_AT_ONCE, most)) if SLOWER == 1 else 1


def _fill(
    running: list[Child], waiting: Iterator[Grading], jobs: int, begin: Callable[[Grading], Child], show: Show
) -> bool:
    """Begin as many as there is room for; gives whether any was."""
    begun = False
    while len(running) < jobs and (grading := next(waiting, None)):
        show.started(grading.submission.id)
        running.append(begin(grading))
        begun = True
    return begun


def _listen(running: list[Child], show: Show) -> None:
    for child, lines in _ready(running):
        assert child.grading
        for line in lines:
            child.grading.hear(line)
        if lines:
            show.heard(child.grading)
    show.tick()


def said_by(child: Child, show: Show) -> Iterator[list[dict[str, Any]]]:
    """What a child says, until it ends."""
    while not child.ended and not _too_long(child):
        for _, lines in _ready([child]):
            yield lines
        show.tick()


def _ready(running: Sequence[Child]) -> Iterable[tuple[Child, list[dict[str, Any]]]]:
    """The children that have said something, or nothing for too long, with what they said."""
    ready = select.select([child.pipe for child in running], [], [], _TICK)[0]
    found = []
    for child in running:
        if child.pipe in ready:
            found.append((child, child.hear()))
        elif _too_long(child):
            found.append((child, [{"broke": f"it took longer than {_LONGEST:.0f} seconds"}] if child.grading else []))
    return found


def _too_long(child: Child) -> bool:
    return time.monotonic() - child.began > _LONGEST
