"""The driver: runs graded suites with pytest, in this process, and gives their verdicts as a Result."""

import contextlib
import io
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

import pytest

from thinwalls import course
from thinwalls.grading import plugin, result
from thinwalls.host import SLOWER, HostError, Keeper

Tasks = Sequence[tuple[course.Stage, course.Task]]
_AT_ONCE = 4  # tasks that are graded at the same time, at most: each may take 512 MiB


def select(words: Sequence[str]) -> list[tuple[course.Stage, course.Task]]:
    """The tasks that the words ("1", "chroot", "1.2") mean, in the manifest's order; all for none. Raises Unknown."""
    wanted: set[str] = set()
    for word in words:
        if "." in word and not word.endswith(".py"):
            wanted.add(course.task(word)[1].id)
        else:
            wanted.update(task.id for task in course.stage(word).tasks)
    everything = [(stage, task) for stage in course.stages() for task in stage.tasks]
    return [(stage, task) for stage, task in everything if not words or task.id in wanted]


class _Run:
    """The pytest plugin of one run: which tests, whose implementation, and who is told of a verdict."""

    def __init__(
        self,
        grader: plugin.Grader,
        tasks: Tasks,
        tell: Callable[[result.Verdict], None],
        begin: Callable[[], None] | None,
        at_once: int,
        until_the_end: contextlib.ExitStack,
    ):
        self._grader, self._tell, self._begin = grader, tell, begin
        self._at_once, self._until_the_end = at_once, until_the_end
        self._wanted = {task.id for _, task in tasks}
        self.trouble = ""
        self.only_reference = False  # nobody's implementation is to be graded

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if (m := item.get_closest_marker("task")) and m.args[0] in self._wanted]

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        tests: dict[str, Any] = {}
        for item in session.items:
            marker = item.get_closest_marker("task")
            if marker and isinstance(item, pytest.Function):
                tests[marker.args[0]] = item.obj
        if self._begin:
            for task_id, test in tests.items():
                self._grader.rehearse(task_id, test)
            self._begin()
        if self.only_reference:
            session.items.clear()
        elif self._at_once > 1 and len(tests) > 1:
            self._until_the_end.enter_context(self._grader.ahead(tests, self._at_once))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.trouble = str(report.longrepr)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and self._grader.latest:
            self._tell(self._grader.latest)


def several() -> int:
    """How many tasks this machine may well grade at the same time.

    Most of the time they wait for the kernel; but where everything is slow, its processor is what they wait for.
    """
    return min(_AT_ONCE, 2 * len(os.sched_getaffinity(0))) if SLOWER == 1 else 1


def grade(
    tasks: Tasks,
    impl: str = "stages",
    seed: int | None = None,
    all_mine: bool = False,
    keeper: Keeper | None = None,
    tell: Callable[[result.Verdict], None] = lambda verdict: None,
    begin: Callable[[], None] | None = None,
    rehearsed: plugin.Rehearsed | None = None,
    at_once: int = 1,
) -> result.Result:
    """Grade these tasks of an implementation.

    impl: "stages", "solutions", or the path of a folder with stage files. keeper: one to use, and to leave running.
    tell: called with each verdict as it is known. begin: called, and waited for, when all is ready that does not
    depend on the implementation, the reference's side of every task too: so the watcher is ready before a save.
    rehearsed: what the reference showed in other runs with this seed; see plugin.Grader. at_once: how many tasks may be
    graded at the same time; they are told in their order. Raises HostError where no throwaway host can be made at all.
    """
    started = time.monotonic()
    chosen = random.SystemRandom().getrandbits(32) if seed is None else seed
    own = keeper or Keeper()
    try:
        grader = plugin.Grader(impl, chosen, all_mine, own, rehearsed)
        found = result.Result(impl, chosen, list(tasks), result.machine_facts(own.cgroup))
        with contextlib.ExitStack() as until_the_end:
            run = _Run(grader, tasks, tell, begin, at_once, until_the_end)
            code, output = _pytest(grader, tasks, run)
        found.verdicts = grader.verdicts
        if grader.host_error and all(v.status in (result.INFRA_ERROR, result.FAILED) for v in found.verdicts.values()):
            raise HostError(grader.host_error)
        if run.trouble or code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            for _, task in tasks:
                message = f"the graded suite could not be run: {run.trouble or output[-2000:]}"
                found.verdicts.setdefault(task.id, result.Verdict(task.id, result.INFRA_ERROR, message=message))
        found.duration_s = time.monotonic() - started
        return found
    finally:
        plugin.bring(None)
        if keeper is None:
            own.close()


def observe(tasks: Tasks, seed: int, keeper: Keeper) -> plugin.Rehearsed:
    """The reference's side of these tasks, for grade() to hold any number of implementations against, with this seed.

    Tasks for which no host could be made are not in it.
    """
    found: plugin.Rehearsed = {}
    grader = plugin.Grader(os.devnull, seed, False, keeper, found)
    with contextlib.ExitStack() as until_the_end:
        run = _Run(grader, tasks, lambda verdict: None, lambda: None, 1, until_the_end)
        run.only_reference = True
        try:
            _pytest(grader, tasks, run)
            return found
        finally:
            plugin.bring(None)


def _pytest(grader: plugin.Grader, tasks: Tasks, run: _Run) -> tuple[int, str]:
    """Run the suites of these tasks; gives pytest's exit status, and what it said. Raises KeyboardInterrupt."""
    suites = dict.fromkeys(str(stage.suite) for stage, _ in tasks)
    # Its plugin "warnings" changes what the whole process makes of warnings, also while others read sources.
    without = ["-p", "no:cacheprovider", "-p", "no:warnings"]
    where = [f"--rootdir={course.ROOT}", f"-c{course.ROOT}/pyproject.toml"]
    with _quiet_pytest() as output, _interrupts() as interrupted:
        plugin.bring(grader)
        code = pytest.main(["-q", "--assert=plain", *without, *where, *suites], [run])
    if interrupted:
        raise KeyboardInterrupt
    return code, output.getvalue()


@contextlib.contextmanager
def _interrupts() -> Iterator[list[int]]:
    """The Ctrl-C's that came in the meantime: pytest makes a failure of some, and calls other failures an interrupt."""
    came: list[int] = []
    before = signal.getsignal(signal.SIGINT)

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)
        if callable(before):
            before(number, frame)

    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield came
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield came
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _quiet_pytest() -> Any:
    """pytest without the plugins that happen to be installed, without the caller's options, and without output."""
    changed = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": "", "PYTEST_PLUGINS": ""}
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    try:
        with contextlib.redirect_stdout(io.StringIO()) as output:
            yield output
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
