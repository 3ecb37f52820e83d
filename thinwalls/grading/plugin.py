"""The pytest plugin: a test marked ``task`` is run twice, on the reference and on an implementation.

Every verdict is made here and in no other place. It fails closed: what did not demonstrably pass has not passed.
"""

import contextlib
import copy
import functools
import queue
import random
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from thinwalls import course, facts, rootfs
from thinwalls.grading import result
from thinwalls.grading.machine import Failure, Machine, Observation, Unloadable
from thinwalls.grading.result import Verdict
from thinwalls.host import SLOWER, Gone, HostError, Keeper, Late

_PATIENCE = 20.0 * SLOWER  # seconds the reference may take
_SHORTEST = 1.0 * SLOWER  # seconds a task may always take
_FACTOR = 10  # times the reference's time
_SLOWED = 1.5  # times: if the reference takes so much longer than when it was observed, a late answer gets a second try
_TIMEOUTS = 2  # after so many in a stage its remaining tasks are not tried
_SUBMISSION = 30.0 * SLOWER  # seconds a whole run may spend in an implementation
_SIDES = "linux.clone() gives 0 in the child: all that runs there ends in exec or in os._exit"
_NO_CGROUP = "this machine lets you make no cgroup: the row 'memory bound' of ./walls doctor says how to mend it"
_ONE_ID = "a host has one user id here: the row 'user ids' of ./walls doctor says how to get more"
_STAGES = "/course/stages"  # in a host
_GRADER = pytest.StashKey["Grader"]()
_brought: "Grader | None" = None


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of ``./walls check`` that a suite can be run with directly."""
    group = parser.getgroup("thinwalls", "Thin Walls")
    group.addoption("--impl", default="stages", help="what to grade: stages, solutions, or a folder of stage files")
    group.addoption("--seed", type=int, default=None, help="the seed of the challenges, to repeat a run")
    group.addoption("--all-mine", action="store_true", help="grade a stage on the earlier stages of the same folder")


def pytest_configure(config: pytest.Config) -> None:
    """Make the run's grader, unless the driver has brought its own."""
    config.addinivalue_line("markers", "task(id): the task of the manifest that this test grades")
    if _brought is not None:
        config.stash[_GRADER] = _brought
        return
    seed = config.getoption("--seed")
    seed = random.SystemRandom().getrandbits(32) if seed is None else seed
    grader = Grader(str(config.getoption("--impl")), seed, bool(config.getoption("--all-mine")))
    config.stash[_GRADER] = grader
    config.add_cleanup(grader.close)


def bring(grader: "Grader | None") -> None:
    """Have the next run of pytest in this process use this grader, and not end its keeper; None: one of its own."""
    global _brought
    _brought = grader


def compile_references() -> None:
    """Have ready, for all processes forked from this one, what hosts are given of the reference's."""
    for stage in course.stages():
        course.compiled(f"{_STAGES}/{stage.stem}.py", course.reference(stage))


def pytest_report_header(config: pytest.Config) -> str:
    """Say what is graded, and with which seed it can be repeated."""
    grader = config.stash[_GRADER]
    return f"thinwalls: --impl {grader.impl} --seed {grader.seed}"


@pytest.fixture
def machine() -> None:
    """A throwaway host with an implementation in it; the plugin puts one here, twice."""


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Grade a test that is marked with a task; leave the others to pytest."""
    marker = pyfuncitem.get_closest_marker("task")
    if marker is None:
        return None
    verdict = pyfuncitem.config.stash[_GRADER].grade(marker.args[0], pyfuncitem.obj)
    if verdict.status == result.NOT_GRADABLE:
        pytest.skip(f"{verdict.id} is not gradable here: {verdict.message}")
    if verdict.status != result.PASSED:
        pytest.fail(as_text(verdict), pytrace=False)
    return True


def as_text(verdict: Verdict) -> str:
    """The verdict in plain lines, with nothing in it that a terminal would obey."""
    stage, task = course.task(verdict.id)
    points = task.points if verdict.status == result.PASSED else 0
    lines = [f"{task.id}  {task.title:<60}{points} / {task.points}"]
    for name in ("did", "expected", "yours", "maybe", "message"):
        if text := getattr(verdict, name):
            label = name if name != "message" else verdict.status.replace("_", " ")
            lines += [
                f"{label + ' ':<10}{line}" if n == 0 else f"{'':<10}{line}" for n, line in enumerate(printable(text))
            ]
    if verdict.printed and verdict.status != result.PASSED:
        lines += [f"{'printed' if n == 0 else '':<10}{line}" for n, line in enumerate(printable(verdict.printed)[-5:])]
    return "\n".join([*lines, f"{'next':<10}{' '.join(printable(verdict.next))}"])


def printable(text: str) -> list[str]:
    """The lines of a text that hostile code may have written, every character but the printable ones escaped."""
    return ["".join(c if c.isprintable() else ascii(c)[1:-1] for c in line) for line in text[:4000].split("\n")]


Rehearsed = dict[str, Verdict | Observation]  # by task, the reference's side; or why there is no more


@dataclass
class _Tally:
    """What the tasks of a run have in common."""

    host_error: str = ""  # why no throwaway host could be made, if that happened
    spent: float = 0.0  # seconds in the implementation
    timeouts: dict[str, int] = field(default_factory=dict)  # by stage

    @functools.cached_property
    def rootfs(self) -> str:
        """The small root file system, looked at once in a run: what hosts have of it are copies."""
        return rootfs.cached()


class Grader:
    """Grades tasks of one implementation, and remembers the verdicts."""

    def __init__(
        self,
        impl: str,
        seed: int,
        all_mine: bool = False,
        keeper: Keeper | None = None,
        rehearsed: "Rehearsed | None" = None,
    ):
        """rehearsed: what the reference showed already, with this very seed. It is used, and what is new is added."""
        self.impl, self.seed, self.all_mine = impl, seed, all_mine
        self.folder = course.ROOT / impl if impl in ("stages", "solutions") else Path(impl)
        self.verdicts: dict[str, Verdict] = {}
        self.latest: Verdict | None = None
        self._keeper = keeper
        self._tally = _Tally()
        self._ahead: dict[str, Future[Verdict]] = {}  # by task, what is being graded already
        self._rehearsed: Rehearsed = {} if rehearsed is None else rehearsed

    @property
    def host_error(self) -> str:
        """Why no throwaway host could be made; "" if none failed."""
        return self._tally.host_error

    @property
    def keeper(self) -> Keeper:
        """The keeper of the run's hosts, started when first needed."""
        if self._keeper is None:
            self._keeper = Keeper()
        return self._keeper

    def close(self) -> None:
        """End the keeper."""
        if self._keeper is not None:
            self._keeper.close()
            self._keeper = None

    def grade(self, task_id: str, test: Any) -> Verdict:
        """Run the graded test of a task on both sides, or wait for who does so already, and record the verdict."""
        if task_id in self.verdicts:  # two tests for one task: neither may speak for it alone
            verdict = Verdict(task_id, result.INFRA_ERROR, message="the manifest's task has two graded tests")
        elif task_id in self._ahead:
            verdict = self._ahead[task_id].result()
        else:
            verdict = self._timed(task_id, test)
        self.verdicts[task_id] = self.latest = verdict
        return verdict

    @contextlib.contextmanager
    def ahead(self, tests: Mapping[str, Any], at_once: int) -> Iterator[None]:
        """While in here, tasks are graded in their order, so many at once; grade() waits for a task's verdict.

        tests: by task. Each has a keeper for itself as long as it is graded: a keeper serves one at a time, and what
        bounds its hosts, and counts whom the kernel has killed in them, is theirs alone.
        """
        with contextlib.ExitStack() as stack:
            free: queue.SimpleQueue[Grader] = queue.SimpleQueue()
            for number in range(at_once):
                grader = copy.copy(self)  # it has the same tally
                grader._keeper = stack.enter_context(Keeper()) if number else self.keeper
                free.put(grader)

            def job(task_id: str, test: Any) -> Verdict:
                grader = free.get()
                try:
                    return grader._timed(task_id, test)
                finally:
                    free.put(grader)

            pool = ThreadPoolExecutor(at_once)
            stack.callback(pool.shutdown, cancel_futures=True)
            self._ahead = {task_id: pool.submit(job, task_id, test) for task_id, test in tests.items()}
            yield
        self._ahead = {}

    def _timed(self, task_id: str, test: Any) -> Verdict:
        started = time.monotonic()
        try:
            verdict = self._judge(*course.task(task_id), test)
        except course.Unknown as error:
            verdict = Verdict(task_id, result.INFRA_ERROR, message=str(error))
        verdict.duration_s = time.monotonic() - started
        return verdict

    def _judge(self, stage: course.Stage, task: course.Task, test: Any) -> Verdict:
        source = self._before_running(stage, task)
        if isinstance(source, Verdict):
            return source
        try:
            if task.cgroup and not self.keeper.cgroup:
                return Verdict(task.id, result.NOT_GRADABLE, message=_NO_CGROUP)
            if task.ids and self.keeper.ids == 1:
                return Verdict(task.id, result.NOT_GRADABLE, message=_ONE_ID)
        except HostError as error:
            self._tally.host_error = str(error)
            return Verdict(task.id, result.INFRA_ERROR, message=str(error))
        try:
            return self._compare(stage, task, test, source)
        except HostError as error:
            self._tally.host_error = str(error)
            return Verdict(task.id, result.INFRA_ERROR, message=str(error))

    def _compare(self, stage: course.Stage, task: course.Task, test: Any, source: str) -> Verdict:
        """The verdict on a source that can be run. Raises HostError."""
        with contextlib.ExitStack() as hosts:
            observed = self._rehearsed.get(task.id)
            # Both are ordered at once: the second comes up while the first is at work.
            reference = None if observed else hosts.enter_context(self._reference(stage, task))
            yours = hosts.enter_context(self._machine("yours", stage, task, source))
            if reference:
                observed = self._observe(task, test, reference)
                if not isinstance(observed, Verdict):
                    self._rehearsed[task.id] = observed
            assert observed is not None
            if isinstance(observed, Verdict):
                return observed
            verdict = self._hold(task, test, yours, observed)
            if verdict.status == result.TIMEOUT and reference is None:
                slower = self._slower(stage, task, test, observed)
                if slower:
                    yours = hosts.enter_context(self._machine("yours", stage, task, source))
                    verdict = self._hold(task, test, yours, slower)
            if verdict.status == result.TIMEOUT:
                self._tally.timeouts[stage.id] = self._tally.timeouts.get(stage.id, 0) + 1
            before, last = yours.story[:-2], yours.story[-2:]
            verdict.did = "; ".join(
                [f"{len(before)} scenes, which went right", *last] if len(before) > 1 else yours.story
            )
            if verdict.status != result.PASSED:
                verdict.printed = yours.printed
                if yours.oom_kills:
                    verdict.maybe = "the kernel killed it for using too much memory"
            return verdict

    def _hold(self, task: course.Task, test: Any, yours: Machine, observed: Observation) -> Verdict:
        """The verdict of the learner's side, held against the reference's; its host has ended then."""
        yours.reference = observed
        began = time.monotonic()
        verdict = self._try(task, test, yours, observed.allowed)
        self._tally.spent += time.monotonic() - began
        yours.close()
        return verdict

    def _slower(self, stage: course.Stage, task: course.Task, test: Any, before: Observation) -> Observation | None:
        """The reference observed again, if the machine has become so much slower that this excuses a late answer."""
        if self._tally.spent > _SUBMISSION:
            return None
        with self._reference(stage, task) as reference:
            now = self._observe(task, test, reference)
        return now if isinstance(now, Observation) and now.allowed > _SLOWED * before.allowed else None

    def rehearse(self, task_id: str, test: Any) -> None:
        """Do the reference's side of a task ahead of time; grade() goes on from there. Same seed, same challenges."""
        stage, task = course.task(task_id)
        try:
            with self._reference(stage, task) as reference:
                self._rehearsed[task.id] = self._observe(task, test, reference)
        except HostError:
            self._rehearsed.pop(task.id, None)  # grade() will meet the same trouble, and say so

    def _reference(self, stage: course.Stage, task: course.Task) -> Machine:
        return self._machine("reference", stage, task, course.reference(stage))

    def _observe(self, task: course.Task, test: Any, reference: Machine) -> Verdict | Observation:
        """The reference's side: what it showed, and the seconds the learner's side may take; or why there is no more."""
        try:
            began = time.monotonic()
            reference.allow(_PATIENCE)
            test(reference)
            allowed = max(_SHORTEST, _FACTOR * (time.monotonic() - began))
            return Observation(reference.seen, reference.lacks, allowed)
        except HostError as error:
            self._tally.host_error = str(error)
            return Verdict(task.id, result.INFRA_ERROR, message=str(error))
        except Failure as error:
            what = f"expected {error.expected}; got {error.yours}"
            return Verdict(
                task.id, result.NOT_GRADABLE, message=f"the reference does not do it on this machine: {what}"
            )
        except (Unloadable, Gone, Late) as error:
            what = f"{type(error).__name__} {error}".strip()
            return Verdict(
                task.id, result.NOT_GRADABLE, message=f"the reference does not do it on this machine: {what}"
            )
        except Exception as error:
            return Verdict(
                task.id, result.INFRA_ERROR, message=f"the graded test broke: {type(error).__name__}: {error}"
            )
        finally:
            reference.close()

    def _try(self, task: course.Task, test: Any, machine: Machine, allowed: float) -> Verdict:
        """The learner's side: whatever it may do, a verdict."""
        try:
            machine.allow(allowed)
            test(machine)
            return Verdict(task.id, result.PASSED)
        except Failure as failure:
            if "is not built yet" in failure.yours:
                return Verdict(task.id, result.FAILED, yours=failure.yours)
            maybe = _SIDES if "ran on in the parent's code" in failure.yours else failure.maybe
            return Verdict(task.id, result.FAILED, "", failure.expected, failure.yours, maybe)
        except facts.Ended:
            return Verdict(
                task.id, result.FAILED, "", "the program goes on running until it is told to end", "it has ended"
            )
        except Late as late:
            expected = f"{late.what} (reference: within {allowed / _FACTOR:.2f} s)"
            yours = f"no answer within {allowed:.1f} seconds"
            return Verdict(task.id, result.TIMEOUT, "", expected, yours, late.maybe)
        except Gone:
            message = f"your code ended the very process that had called it, or made another program of it; {_SIDES}"
            return Verdict(task.id, result.ERROR, message=message)
        except Unloadable as error:
            return Verdict(task.id, result.ERROR, message=str(error), broken=error.where)
        except HostError as error:
            return Verdict(task.id, result.INFRA_ERROR, message=str(error))
        except Exception as error:  # the test itself stumbled over what it saw: our fault, and no points
            return Verdict(
                task.id, result.INFRA_ERROR, message=f"the graded test broke: {type(error).__name__}: {error}"
            )

    def _before_running(self, stage: course.Stage, task: course.Task) -> str | Verdict:
        """The learner's source, or the verdict that needs no host."""
        if self._tally.timeouts.get(stage.id, 0) >= _TIMEOUTS:
            return Verdict(task.id, result.TIMEOUT, message=f"not tried: {_TIMEOUTS} tasks of this stage had timed out")
        if self._tally.spent > _SUBMISSION:
            return Verdict(
                task.id, result.TIMEOUT, message=f"not tried: the run had taken more than {_SUBMISSION:.0f} seconds"
            )
        try:
            source = course.read_source(self.folder / f"{stage.stem}.py")
        except FileNotFoundError as error:
            return Verdict(task.id, result.FAILED, message=str(error))
        except course.Unreadable as error:
            where = f"line {error.line} of {stage.stem}.py" if error.line else f"{stage.stem}.py"
            return Verdict(task.id, result.ERROR, message=str(error), broken=where)
        unbuilt = course.unbuilt(source)
        for name in task.builds:
            if name in unbuilt:
                return Verdict(
                    task.id, result.FAILED, yours=f"task {task.id} is not built yet: {name}() in {stage.stem}.py"
                )
        if used := course.forbidden(source, stage.forbids):
            return Verdict(
                task.id,
                result.FAILED,
                "",
                f"written without {', '.join(stage.forbids)} (a rule of this stage)",
                f"it uses {used}",
            )
        return source

    def _machine(self, side: str, stage: course.Stage, task: course.Task, source: str) -> Machine:
        """A host with the stage's file in it, the stages before it, and nothing else of ours.

        An attack needs a wall to break: then the reference's stages are there too, as a package of their own, in
        which that attack is not built.
        """
        files: dict[str, str | bytes] = {f"{_STAGES}/__init__.py": ""}
        for each in course.stages():
            if each.id <= stage.id:
                text = source if each == stage else self._earlier(each, side, task)
                # A learner's file is compiled where it runs, and so is the reference when that is graded.
                ours = course.reference(each) if each != stage or side == "reference" else None
                files |= _ready(f"{_STAGES}/{each.stem}.py", text, ours)
        if task.attack:
            files["/course/reference/__init__.py"] = ""
            for each in course.stages():
                if each.id <= stage.id:
                    text = course.stub(course.reference(each), only=frozenset({task.id}))
                    files |= _ready(f"/course/reference/{each.stem}.py", text, text)
        small = self._tally.rootfs if stage.id > "00" else None
        theirs = () if side == "reference" else course.stages() if self.all_mine and not task.attack else (stage,)
        mine = frozenset(f"{each.stem}.py" for each in theirs)
        return Machine(self.keeper, task.id, str(self.seed), files, small, source, task.cgroup, mine, task.network)

    def _earlier(self, stage: course.Stage, side: str, task: course.Task) -> str:
        if side == "yours" and self.all_mine and not task.attack:
            with contextlib.suppress(FileNotFoundError, course.Unreadable):
                return course.read_source(self.folder / f"{stage.stem}.py")
        return course.reference(stage)


def _ready(path: str, source: str, ours: str | None) -> dict[str, str | bytes]:
    """The files of a module in a host: its source, and if that is ours, what it was compiled to."""
    return {path: source, **dict([course.compiled(path, source)] if source == ours else [])}
