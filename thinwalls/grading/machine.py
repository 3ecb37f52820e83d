"""What a graded test is written with: a machine, the implementation in it, and the kernel's word on both.

A test is a scenario and predicates about it. It runs twice, each time in a throwaway host of its own: first
with the reference, then with the learner's files. ``expect`` holds every predicate against both.
"""

import contextlib
import os
import random
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from thinwalls import course, facts
from thinwalls.grading.group import Group, names_below
from thinwalls.host import BEYOND, SLOWER, Event, Gone, Host, Keeper, Late, wire

T = TypeVar("T")
SHELL = "/bin/sh"
_TEXT = 300  # characters of an exception's text that are shown
_NETWORK = 2 * SLOWER  # seconds that a socket beyond the machine waits for anything
_CALLERS = 8  # processes that may be in a hook at the same time
PID = "$pid"  # see Machine.beacon
RUNNER_ENV = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}


class Failure(Exception):
    """A predicate does not hold. The words are for the learner."""

    def __init__(self, expected: str, yours: str, maybe: str = ""):
        super().__init__(expected)
        self.expected, self.yours, self.maybe = expected, yours, maybe


class Unloadable(Exception):
    """A stage's file cannot be imported. The words are for the learner. where: "line 98 of stage04_cgroups.py"."""

    def __init__(self, sentence: str, where: str):
        super().__init__(sentence)
        self.where = where


@dataclass(frozen=True)
class Outcome:
    """How a call of the learner's function ended; ``returned`` is ``NOTHING`` unless it returned a plain value."""

    body: dict[str, Any]
    mine: frozenset[str] = frozenset()  # the names of the stage files that are the implementation's

    NOTHING = object()

    @property
    def returned(self) -> Any:
        """The value, if it is a plain one (None, bool, int, float, str)."""
        return self.body.get("returned", self.NOTHING)

    @property
    def raised(self) -> str:
        """The name of the exception's class; "" if none was raised."""
        return str(self.body.get("raised", {}).get("type", ""))

    @property
    def value(self) -> str:
        """What it is that was found in an attribute, for a person to read."""
        if "odd" in self.body:
            called = "; was it called?" if self.body["odd"].startswith(("method ", "function ")) else ""
            return f"{self.body['odd'][:_TEXT]}{called}"
        return repr(self.returned) if "returned" in self.body else str(self)

    def error(self, name: str) -> Any:
        """What is known of the exception: "text", "args" (their repr), "errno", "filename", "where"."""
        return self.body.get("raised", {}).get(name)

    def __str__(self) -> str:
        if "raised" in self.body:
            if self.raised == "NotImplementedError" and self.error("text"):
                return str(self.error("text"))
            file, _, line = str(self.error("where") or "").rpartition(":")
            whose = "" if file in self.mine else "the reference's "
            where = f" (line {line} of {whose}{file})" if file else ""
            return f"it raised {self.raised}: {str(self.error('text'))[:_TEXT]}{where}"
        if "returned" in self.body:
            return f"it returned {self.returned!r}"
        if "odd" in self.body:
            return f"it returned {self.body['odd']}"
        if "garbled" in self.body:
            return "its process gave no answer that could be understood"
        if "stray" in self.body:
            because = f", because it raised {self.body['stray']}" if self.body["stray"] else ""
            return f"a child process ran on in the parent's code, past the call{because}"
        return "its process ended instead of answering"


@dataclass(frozen=True)
class Step:
    """One hook of a beacon wall being called, by the process ``pid``.

    told: what outside() was given as pid; answer: the repr of what the function gave that it was to call.
    """

    wall: str
    hook: str
    pid: int
    told: Any
    by: str  # whose process it is: "parent" (the caller of launch), "child" (of that), or "another process"
    answer: str | None = None  # the repr of what the function gave that the hook was to call


class Stream:
    """A two-way stream of a program's. ``number``: under which the grader knows it; ``fd``: the program's end."""

    def __init__(self, number: int, fd: int):
        self.number, self.fd = number, fd

    @property
    def file(self) -> facts.File:
        """Which file the program's end is."""
        return facts.of_socket(self.fd)


@dataclass
class Probe:
    """A program under test: a shell that says hello, and then does line by line what it is told."""

    machine: "Machine"
    process: facts.Process
    says: int  # the number of the stream that is its standard output
    hears: int  # and of its standard input

    def tell(self, line: str) -> None:
        """Have it run one line of shell."""
        self.machine.type(line + "\n", self.hears)

    def ask(self, line: str) -> str:
        """Have it run one line of shell, and give the one line it prints."""
        self.tell(line)
        return self.machine.line(self.says)


@dataclass
class Observation:
    """What the reference showed in a test, and the seconds that the learner's side may take for the same.

    seen: what each expect() was told; lacks: what this machine turned out not to have. Plain data: it can be kept.
    """

    seen: list[tuple[str, str]]
    lacks: list[str]
    allowed: float


class Machine:
    """One side's throwaway host for the length of one test. Made by the plugin, given to the test."""

    def __init__(
        self,
        keeper: Keeper,
        task: str,
        seed: str,
        files: Mapping[str, str | bytes],
        rootfs: str | None = None,
        source: str = "",
        delegate: bool = False,
        mine: frozenset[str] = frozenset(),
        network: bool = False,
    ):
        """files, rootfs, delegate, network: as for Host. source: the implementation's file, that an intruder is loaded from.

        mine: the names of the stage files that are the implementation's own; the others are the reference's.
        """
        self.rootfs = "/srv/rootfs"  # where the container's root file system is, as a path in this machine
        self.random = random.Random(f"{seed} {task}")
        self._said: set[str] = set()  # lines that were printed because the test had asked for them
        self.story: list[str] = []  # what was done, for the learner
        self.seen: list[tuple[str, str]] = []  # what each expect() of this side stated, and was told
        self.cgroups: dict[str, str] = {}  # what was handed over to it: controller (v2: "") -> directory, as we see it
        self.lacks: list[str] = []  # what the reference's side found that this machine has not, for both sides to know
        self.reference: Observation | None = None  # the other side, when that has been through the test
        self._deadline = 0.0
        self._source, self._mine = source, mine
        self._fails: dict[str, dict[str, Any]] = {}
        self._has_rootfs = rootfs is not None
        self._host = Host(keeper, files, rootfs, delegate=delegate, network=network)
        self._sockets: list[socket.socket] = []  # made for the test, beyond the host
        self.cgroups = self._host.cgroups
        self._lines: dict[int, list[tuple[str, int]]] = {}
        self._outcome: Outcome | None = None
        self._waiting: list[Event] = []  # hooks of beacons that were called
        self._shown: Event | None = None  # the one whose process waits for us now
        self.steps: list[str] = []  # every hook that was called so far, as "WALL.HOOK"
        self.callers: list[str] = []  # and by whom, as Step.by has it
        self._module = ""

    def __enter__(self) -> "Machine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def allow(self, seconds: float) -> None:
        """Once the host is up, let everything that is still to be done in it take so long. Raises HostError."""
        _ = self._host.runner
        self._deadline = time.monotonic() + seconds

    # What a test does

    def word(self) -> str:
        """A fresh word that nobody can guess."""
        return "".join(self.random.choices("abcdefghijklmnopqrstuvwxyz", k=10))

    def settles(self, measure: Callable[[], T], seconds: float = 0.5) -> T:
        """Measure until nothing is found (0, or something empty), or so long; gives the last that was found."""
        end = time.monotonic() + seconds
        while (found := measure()) and time.monotonic() < end:
            time.sleep(0.005)
        return found

    def did(self, what: str) -> None:
        """Tell the learner what is being done, in the past tense."""
        self.story.append(what)

    def plant(self, path: str, data: str | bytes, mode: int = 0o644) -> None:
        """Write a file on the machine (not in the container: give its path below ``rootfs`` for that)."""
        try:
            self._host.plant(path, data, mode)
        except OSError as error:
            raise Failure(f"{path} can be written on the machine", f"it cannot: {error}") from None

    def listen(self, address: str = BEYOND, port: int = 0) -> socket.socket:
        """A listening TCP socket beyond the machine (at GATEWAY or BEYOND): the peers it accepts are the kernel's word."""
        self._sockets.append(self._host.listen(address, port))
        self._sockets[-1].settimeout(_NETWORK)
        return self._sockets[-1]

    def socket(self) -> socket.socket:
        """A TCP socket beyond the machine, to be connected to a port of HOST."""
        self._sockets.append(self._host.socket())
        self._sockets[-1].settimeout(_NETWORK)
        return self._sockets[-1]

    def link(self, path: str, to: str) -> None:
        """Make a symbolic link on the machine."""
        self._arrange("link", path, to)

    def setenv(self, name: str, value: str) -> None:
        """Give the process that calls the implementation a variable in its os.environ."""
        self._arrange("setenv", name, value)

    def clutter(self, descriptors: int, blocked: int, ignored: int) -> None:
        """Give the process that calls the implementation inheritable descriptors, and a blocked and an ignored signal."""
        self._arrange("clutter", descriptors, blocked, ignored)

    def share_mounts(self) -> None:
        """Make the machine's mounts shared, as systemd does: what is mounted below them shows up in their copies."""
        self._arrange("share")

    def mount(self, path: str) -> None:
        """Mount an empty tmpfs on the machine, at a path that does not exist yet."""
        self._arrange("mount", path)

    def mkdir(self, path: str) -> None:
        """Make an empty directory on the machine."""
        self._arrange("mkdir", path)

    def leak(self, number: int) -> None:
        """Have the process that calls the implementation hold the machine's root directory as this descriptor."""
        self._arrange("leak", number)

    def start(self, argv: Sequence[str]) -> facts.Process:
        """Start a process on the machine, outside any container, with an input that never comes."""
        return facts.Process(self.names(self._arrange("start", *argv).returned))

    def do(self, argv: Sequence[str]) -> None:
        """The same for a process that may end at any time: what it prints comes in lines."""
        self._arrange("start", *argv)

    def send(self, pid: int, number: int) -> None:
        """Send a signal to a process, as this machine counts processes; only to one of this host."""
        if pid in self.left():
            os.kill(pid, number)

    def stream(self) -> "Stream":
        """A new two-way stream: the program's end is a descriptor to give to a Program."""
        return Stream(*self._host.open_stream())

    def standard(self, number: int) -> "Stream":
        """The runner's own stream 0, 1 or 2."""
        return Stream(*self._host.stream(number))

    def program(self, argv: Sequence[str], **given: Any) -> dict[str, Any]:
        """A Program to pass to call(): as thinwalls.wall.Program, streams given as ``Stream`` or 0, 1, 2."""
        return {"program": {"env": RUNNER_ENV, **given, "argv": list(argv)}}

    def probe(self, **given: Any) -> dict[str, Any]:
        """A Program that is a Probe; what else is given as in program()."""
        return self.program(self.shell(), **given)

    def scripted(self, *lines: str) -> dict[str, Any]:
        """A Program that runs these lines of shell, and says hello, for meet(), before the last of them."""
        self._hello = self.word()
        return self.program([SHELL, "-c", "\n".join([*lines[:-1], f"echo {self._hello}", lines[-1]])])

    def shell(self, name: str = SHELL) -> list[str]:
        """The command line of a probe, for functions that take one."""
        return [name, "-c", self._conversation()]

    def script(self) -> str:
        """The text of an executable file that is a probe."""
        return f"#!{SHELL}\n{self._conversation()}\n"

    def _conversation(self) -> str:
        self._hello = self.word()
        self._said.add(self._hello)
        return f'echo {self._hello}; while read -r line; do eval "$line"; done'

    def beacon(
        self,
        name: str,
        flags: int = 0,
        fails: tuple[str, str, list[Any]] | None = None,
        calls: tuple[Any, ...] | None = None,
        forks: bool = False,
    ) -> dict[str, Any]:
        """A wall whose hooks are reported as Steps.

        forks: once its inside() has returned, the process that forks is a Step too, with the hook "forked": it has its
        child by then, and none of its own lines has run.
        fails: (hook, class of an exception, its arguments) to raise. calls: (hook, a function's name, its arguments),
        what it gave or raised is the Step's answer; the argument PID stands for what outside() is told. A function of
        a stage, or "thinwalls.linux.…".
        """
        for hook in ("outside", "inside", "close"):
            self._fails.pop(f"{name}.{hook}", None)
        if fails:
            self._fails[f"{name}.{fails[0]}"] = {"type": fails[1], "args": fails[2]}
        if calls:
            calls = (calls[0], _full(calls[1]), *calls[2:])
        return {"beacon": {"name": name, "flags": flags, "calls": list(calls or ()), "forks": forks}}

    def made(self, name: str, *args: Any, **options: Any) -> dict[str, Any]:
        """An instance of a class of the implementation ("stage01_chroot.Root"), of the reference ("reference.…"), or of
        the toolkit ("thinwalls.…")."""
        return {"made": {"class": _full(name), "args": list(args), "options": options}}

    def called(self, name: str, *args: Any) -> dict[str, Any]:
        """What a function gives, when it is called just before; to be passed to call(), or to made()."""
        return {"called": {"function": _full(name), "args": list(args)}}

    def intruder(self, name: str, *args: Any) -> dict[str, Any]:
        """A wall whose inside() loads the file that the attack ``name`` is in, there and only then, and calls it."""
        package, module, function = _full(name).split(".", 2)
        source = course.reference(course.stage(module)) if package == "reference" else self._source
        given = {"module": f"stages.{module}", "source": source, "imports": list(course.library(source))}
        return {"intruder": {**given, "function": function, "args": list(args)}}

    def beside(self, name: str, *args: Any) -> facts.Process:
        """Have ``name`` called as by call(), but by a child of the runner, which goes on while other things are called.

        Gives that process, which ends when the function has returned: not before somebody tells it to. If it fails, the
        next that is waited for is a Failure, or has this outcome.
        """
        self.call(name, *args, beside=True)
        pid = self.names(self._done().returned)
        if not pid:
            raise Failure("what was called goes on until it is told to end", str(self.outcome()))
        return facts.Process(pid)

    def call(self, name: str, *args: Any, apart: bool = False, beside: bool = False) -> None:
        """Have ``name`` called, such as "stage00_process.run" or "reference.stage00_process.run".

        How it ended: outcome(). apart: by a child of the runner, which may be killed. beside: see there.
        """
        package, module, function = _full(name).split(".", 2)
        self._module, self._outcome = f"{module}.py", None
        descriptors: list[int] = []
        body = {
            "module": f"{package}.{module}",
            "function": function,
            "args": _descriptors(list(args), descriptors),
            "apart": apart,
            "beside": beside,
        }
        self._host.request(body, descriptors)

    def attribute(self, name: str, path: str, maybe: str = "") -> Outcome:
        """What stands in an attribute ("a", "a.b") of the last instance of a class that was made for a call.

        It is the implementation's word, as a return value is. Raises Failure where there is no such attribute; maybe:
        as for expect().
        """
        self._outcome = None
        self._host.request({"attribute": [_full(name), path]})
        outcome = self.outcome()
        if "absent" in outcome.body:
            raise Failure(f"{name.rpartition('.')[2]} has {path}", str(outcome.body["absent"])[:_TEXT], maybe)
        return outcome

    def group(self, process: facts.Process) -> Group:
        """The cgroup that a process is in, of those that were handed to this machine."""
        return Group.of(process, self.cgroups)

    def groups(self) -> list[str]:
        """The names of all cgroups that were made on this machine."""
        return names_below(self.cgroups)

    def _arrange(self, what: str, *given: Any) -> Outcome:
        self._module, self._outcome = "the runner", None
        self._host.request({"arrange": what, "args": list(given)})
        return self._done()

    def _done(self) -> Outcome:
        """The runner's answer to what takes no time, after which nothing has been called whose outcome is to come."""
        outcome, self._outcome = self.outcome(), None
        if "returned" not in outcome.body:  # a child that goes on beside was faster
            raise Failure("what was called goes on until it is told to end", str(outcome))
        return outcome

    def outcome(self, maybe: str = "") -> Outcome:
        """Wait until the function that was called has ended; beacons are let go on. maybe: why it does not end."""
        while self.step(maybe=maybe):
            pass
        assert self._outcome is not None
        return self._outcome

    def type(self, text: str, stream: int = 0) -> None:
        """Write to the program's end of a stream."""
        self._host.type(text, stream)

    def line(self, stream: int = 1) -> str:
        """Wait for the next line that comes out of a stream."""
        while not self._lines.get(stream):
            if self._outcome is not None:
                raise Failure("the program goes on running until it is told to end", str(self._outcome))
            self._pump()
        text = self._lines[stream].pop(0)[0]
        self._said.add(text)
        return text

    def patient_outcome(self, seconds: float) -> Outcome | None:
        """outcome(), or None if there is none after so many seconds."""
        whole, self._deadline = self._deadline, min(self._deadline, time.monotonic() + seconds)
        try:
            return self.outcome()
        except Late:
            return None
        finally:
            self._deadline = whole

    def step(self, or_hello: bool = False, maybe: str = "") -> "Step | None":
        """Wait for the next hook of a beacon, whose process then waits for us; None when the call has ended instead.

        or_hello: None too when the probe has said hello. maybe: why neither comes. The process goes on when this,
        meet() or outcome() is called again.
        """
        self._go_on()
        while not self._waiting and self._outcome is None:
            if or_hello and any(text == self._hello for lines in self._lines.values() for text, _ in lines):
                break
            try:
                self._pump()
            except Late as late:
                late.maybe = maybe
                raise
        return self._take() if self._waiting else None

    def linger(self, seconds: float) -> None:
        """Let the learner's code go on while nobody answers it: what does not wait shows itself."""
        if self.reference:
            time.sleep(seconds)

    def meet(
        self,
        what: str = "the program starts, and says hello on its standard output",
        maybe: str = "",
        says: "Stream | None" = None,
        hears: "Stream | None" = None,
        elsewhere: str = "",
    ) -> Probe:
        """Wait until the probe says hello; beacons are let go on. A Failure if the call ends without that.

        what, maybe: as for expect(). says, hears: its standard output and input, where they are not the runner's own.
        elsewhere: maybe, where it says hello on another stream.
        """
        says, hears = says or self.standard(1), hears or self.standard(0)
        while True:
            self._go_on()
            for number, spoken in self._lines.items():
                if number != says.number and any(text == self._hello for text, _ in spoken):
                    raise Failure(what, "it says hello on another stream", elsewhere or maybe)
            lines = self._lines.get(says.number, [])
            for position, (text, pid) in enumerate(lines):
                if text == self._hello and pid:
                    self._said.add(text)
                    del lines[: position + 1]
                    process = facts.Process(pid)
                    shells = (self.file(SHELL), self.file(self.rootfs + SHELL) if self._has_rootfs else None)
                    if process.executable() not in shells and not process.runs(self.shell_bytes()):
                        raise Failure(what, "its words were said by another program")
                    return Probe(self, process, says.number, hears.number)
            if self._waiting:
                self._take()
            elif self._outcome is not None:
                raise Failure(what, str(self._outcome), maybe)
            else:
                try:
                    self._pump()
                except Late as late:
                    late.what, late.maybe = what, maybe
                    raise

    def shell_bytes(self) -> bytes:
        """The content of this machine's shell: through an overlay, the same file shows up as another one."""
        return Path(os.path.realpath(SHELL)).read_bytes()

    def file(self, path: str) -> facts.File:
        """The file at a path of this machine, as its trusted outer level has it: no mount of the learner's hides it."""
        return facts.Process(self._host.pid).sees(path)

    def names(self, pid: Any) -> int:
        """The process that a pid of the runner's PID namespace stands for; 0 for none."""
        return self._host.names(pid)

    @property
    def runner(self) -> facts.Process:
        """The process in which the implementation is called."""
        return facts.Process(self._host.runner)

    def left(self) -> dict[int, str]:
        """The processes below the runner, and orphans of its: id -> state letter."""
        inner = self.runner.parent()
        return {pid: state for pid, state in facts.descendants(inner).items() if pid != self._host.runner}

    def expect(self, what: str, holds: bool, yours: object, maybe: str = "") -> None:
        """State one predicate. what: what any right answer makes true; yours: what was seen; maybe: the likely mistake."""
        self.seen.append((what, str(yours)))
        if not holds:
            raise Failure(f"{what}{self._shown_by_reference(what)}", str(yours), maybe)

    def _shown_by_reference(self, what: str) -> str:
        """What the reference showed where it was asked for the same, as often as this side was until now."""
        times = sum(stated == what for stated, _ in self.seen)
        shown = [told for stated, told in self.reference.seen if stated == what] if self.reference else []
        return f" (reference: {shown[times - 1]})" if len(shown) >= times else ""

    def close(self) -> None:
        """End the host."""
        for each in self._sockets:
            each.close()
        self._host.close()

    @property
    def printed(self) -> str:
        """The last of what was printed in the host, but for what the test had asked for."""
        lines = self._host.output.decode(errors="backslashreplace").split("\n")
        return "\n".join(line for line in lines if line not in self._said).strip("\n")

    @property
    def oom_kills(self) -> int:
        """How many processes of this keeper's hosts were killed for lack of memory; known after close()."""
        return self._host.oom_kills

    # How it listens

    def _take(self) -> Step:
        """The first beacon that waits, now shown; it is let go on by the next _go_on()."""
        self._shown = self._waiting.pop(0)
        body, pid = self._shown.body, self._shown.pid
        by = "parent" if pid == self._host.runner else "another process"
        with contextlib.suppress(facts.Ended):
            if pid and by != "parent" and facts.Process(pid).parent() == self._host.runner:
                by = "child"
        step = Step(str(body.get("beacon")), str(body.get("hook")), pid, body.get("told"), by, body.get("answer"))
        self.steps.append(f"{step.wall}.{step.hook}")
        self.callers.append(by)
        return step

    def _go_on(self) -> None:
        if self._shown:
            failure = self._fails.get(self.steps[-1])
            self._host.answer(self._shown, {"raise": failure} if failure else {"go": True})
            self._shown = None

    def _pump(self) -> None:
        """Take in one event. Raises Late at the deadline, Gone or Unloadable for an implementation that has ended."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise Late
        event = self._host.next(left)
        if event.kind == "line":
            lines = self._lines.setdefault(int(event.body["stream"]), [])
            lines.append((event.body["text"], event.pid))
            del lines[:-1000]  # endless output must not become endless memory
        elif event.kind == "progress":
            pass
        elif event.kind == "beacon":
            self._waiting.append(event)
            if len(self._waiting) > _CALLERS:
                raise Failure("whoever calls a hook waits until it returns", "hooks are called without waiting")
        elif event.kind == "end":
            raise Gone
        elif not wire.well_formed(event.body):
            self._outcome = Outcome({"garbled": True}, self._mine)
        elif "unloadable" in event.body:
            error = event.body["unloadable"]
            file, _, line = error["where"].rpartition(":")
            where = f"line {line} of {file}" if file else self._module
            why = f"{error['type']}: {error['text'][:_TEXT]}{f' (line {line})' if file else ''}"
            raise Unloadable(f"{file or self._module} cannot be loaded: {why}", where)
        elif "missing" in event.body:
            raise Failure(f"a function {event.body['missing']}() in {self._module}", "there is none of that name")
        else:
            self._outcome = Outcome(event.body, self._mine)


def _full(name: str) -> str:
    """The name with its package in front: that of the implementation, unless the reference's or the toolkit's is named."""
    return name if name.startswith(("reference.", "thinwalls.")) else f"stages.{name}"


def _descriptors(given: Any, fds: list[int]) -> Any:
    """The same structure with every Stream replaced by the position its descriptor has in ``fds``."""
    if isinstance(given, Stream):
        fds.append(given.fd)
        return {"fd": len(fds) - 1}
    if isinstance(given, dict):
        return {key: _descriptors(value, fds) for key, value in given.items()}
    if isinstance(given, list | tuple):
        return [_descriptors(value, fds) for value in given]
    return given
