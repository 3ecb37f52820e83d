"""./walls check --watch: grade again at each save, and listen to the keyboard meanwhile.

The process that watches is kept warm: pytest, rich and the graded suites are loaded in it, and a keeper waits for
hosts to make. Each grading happens in a child forked from it, which a newer save simply kills; hosts that it leaves
are ended by its keeper. After each grading the next keeper and the next child are started at once: that child tries
the reference's side of the same tasks, so that after a save only the learner's side is left to do.

Files are looked at every 50 ms (time of change, size, inode), for that works on every file system, network ones too.
"""

import contextlib
import errno
import json
import os
import random
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO, cast

from thinwalls import course, linux, progress, report
from thinwalls.grading import driver, plugin
from thinwalls.grading.result import PASSED, Result, Verdict, machine_facts
from thinwalls.host import Host, HostError, Keeper

_POLL = 0.05  # seconds between two looks at the files
_SETTLE = 0.015  # an editor may still be writing: the file has to look the same for so long
_GONE = 1.0  # seconds a file may be missing or empty, as it is between the two steps of some editors' saves
_KEYS = "h hint   n next   a all   q quit"
Tasks = Sequence[tuple[course.Stage, course.Task]]
Look = tuple[int, int, int] | None


class Watch:
    """The watcher. tasks: what was asked for; impl, folder: whose stage files, by name and place."""

    def __init__(self, tasks: Tasks, impl: str, folder: Path, seed: int | None, all_mine: bool):
        self._impl, self._folder, self._seed, self._all_mine = impl, folder, seed, all_mine
        self._asked = list(tasks)
        self._everything = [(stage, task) for stage in course.stages() for task in stage.tasks]
        self._paths = {stage.id: folder / f"{stage.stem}.py" for stage in course.stages()}
        self._looks = {name: _look(path) for name, path in self._paths.items()}
        self._screen = Screen()
        self._keeper: Keeper | None = None
        self._grading: Grading | None = None  # the one that is shown
        self._ahead: Grading | None = None  # the one that waits for a save
        self._result: Result | None = None  # of the grading that is shown
        self._below: list[str] = []  # what a key has asked to see
        self._when = ""
        self._asked_next = False

    def run(self) -> int:
        """Watch until q or Ctrl-C; gives the exit status that the last grading would have."""
        try:
            self._warm_up()
            with self._screen:
                self._begin(self._asked)
                while True:
                    self._show()
                    key = self._wait()
                    if key == "q":
                        return 0 if self._result and self._result.passed() else 1
                    self._obey(key)
        finally:
            for child in (self._grading, self._ahead):
                if child:
                    child.kill()
            self._end_keeper()

    def _warm_up(self) -> None:
        """Load what every grading needs, and find out whether there can be one. Raises HostError."""
        self._keeper = Keeper()
        with Host(self._keeper) as host:
            assert host.runner
        # A grading of nothing at all: pytest, its plugins and the suites are loaded here, in the parent, for good.
        driver.grade(self._everything, os.devnull, 0, False, self._keeper)
        plugin.compile_references()

    # What happens

    def _wait(self) -> str:
        """Wait for something to show or to obey; gives the key that was pressed, or ""."""
        while True:
            self._screen.leave_if_told()
            sources: list[Any] = [self._grading.pipe] if self._grading else []
            if self._screen.listens:
                sources.append(sys.stdin)
            try:
                ready = select.select(sources, [], [], _POLL)[0]
            except InterruptedError:
                ready = []
            if sys.stdin in ready and (key := self._screen.key()):
                return key
            if self._grading and self._grading.pipe in ready:
                self._hear()
                return ""
            if self._saved() or self._screen.changed():
                return ""

    def _saved(self) -> bool:
        """Look at the files; begin a grading of those that were saved."""
        looks = {name: _look(path) for name, path in self._paths.items()}
        if looks == self._looks:
            return False
        looks = self._settled(looks)
        touched = [name for name, look in looks.items() if look != self._looks[name]]
        self._looks = looks
        if not touched:
            return False
        asked = {task.id for stage, task in self._asked if stage.id in touched}
        again = [
            (stage, task)
            for stage, task in self._everything
            if (stage.id in touched and (task.id in asked or not asked))
            or (self._all_mine and stage.id > touched[0] and (stage, task) in self._asked)
        ]
        self._begin(again)
        return True

    def _settled(self, looks: dict[str, Look]) -> dict[str, Look]:
        """Wait until the editor has done: nothing changes any more, and nothing that was there is missing or empty."""
        deadline = time.monotonic() + _GONE
        while time.monotonic() < deadline:
            time.sleep(_SETTLE)
            again = {name: _look(path) for name, path in self._paths.items()}
            gone = any(self._looks[name] and not (look and look[1]) for name, look in again.items())
            if again == looks and not gone:
                break
            looks = again
        return looks

    def _begin(self, tasks: Tasks) -> None:
        """Grade these, in place of whatever is being graded."""
        self._stop()
        self._below = []
        self._when = time.strftime("%H:%M:%S")
        self._grading, self._ahead = self._ahead, None
        if self._grading is None or self._grading.tasks != list(tasks):
            self._grading = self._start(tasks)
        self._grading.go()
        self._result = Result(self._impl, self._grading.seed, self._grading.tasks, {})

    def _start(self, tasks: Tasks) -> "Grading":
        """A child that will grade these tasks; it takes the keeper, from whichever child has it."""
        for other in (self._grading, self._ahead):
            if other:
                other.kill()
                self._end_keeper()
        self._grading = self._ahead = None
        self._keeper = self._keeper or Keeper()
        seed = random.SystemRandom().getrandbits(32) if self._seed is None else self._seed
        impl = self._impl if self._impl in ("stages", "solutions") else str(self._folder)
        return Grading(list(tasks), impl, seed, self._all_mine, self._keeper)

    def _hear(self) -> None:
        """Take in what the grading says."""
        assert self._grading is not None and self._result is not None
        for message in self._grading.messages():
            if "verdict" in message:
                found = Verdict(**message["verdict"])
                self._result.verdicts[found.id] = found
            elif "machine" in message:
                self._result.machine = message["machine"]
            else:
                self._below = [f"The grading broke off: {message['broke']}", "", *self._below]
        if self._grading.ended or set(self._result.verdicts) >= {task.id for _, task in self._grading.tasks}:
            self._done()  # what pytest still does after the last verdict need not be waited for

    def _done(self) -> None:
        assert self._grading is not None and self._result is not None
        over, self._grading = self._grading, None
        self._show()  # first the verdict, then everything that can wait
        over.kill()
        self._end_keeper()
        if self._impl == "stages":
            statuses = {name: verdict.status for name, verdict in self._result.verdicts.items()}
            spared = progress.spared_by(self._result.verdicts.values(), self._all_mine)
            self._notice(progress.record(statuses, self._folder, spared))
        self._ahead = self._start(self._result.tasks)
        if self._asked_next:
            self._next()

    def _stop(self) -> None:
        """End the grading that is shown."""
        if self._grading:
            self._grading.kill()
            self._grading = None
            self._end_keeper()

    def _end_keeper(self) -> None:
        """End the keeper, and with it every host that a child had from it."""
        if self._keeper:
            self._keeper.close()
            self._keeper = None

    # What the keys do

    def _obey(self, key: str) -> None:
        if key == "h":
            self._hint()
        elif key == "n" and self._grading:
            self._asked_next = True  # the answer depends on what the grading finds
        elif key == "n":
            self._next()
        elif key == "a":
            self._asked = self._everything
            self._begin(self._everything)

    def _failing(self) -> course.Task | None:
        """The first task shown that is known not to have passed."""
        if self._result:
            for _, task in self._result.tasks:
                if task.id in self._result.verdicts and self._result.verdict(task).status != PASSED:
                    return task
        return None

    def _hint(self) -> None:
        task = self._failing()
        if task is None:
            self._below = ["Nothing shown here has failed: no hint is needed."]
            return
        tier, again, known = progress.show_hint(task)
        self._below = report.hint(task, tier, again, known).split("\n")
        self._notice(known)

    def _next(self) -> None:
        """What comes next: an open task of the stage in view, or, when it stands, the next stage."""
        self._asked_next = False
        known = progress.load()
        self._below = report.next_step(known).split("\n")
        found = known.next_task()
        if self._impl == "stages" and found and found[0] not in [stage for stage, _ in self._asked]:
            self._asked = [pair for pair in self._everything if pair[0] is found[0]]
            below = self._below
            self._begin(self._asked)
            self._below = below

    def _notice(self, known: progress.Progress) -> None:
        if known.notice:
            self._below = [*self._below, "", known.notice]

    # What is seen

    def _show(self) -> None:
        """Paint everything anew: each task a line, the first failure in full, the keys."""
        assert self._result is not None
        console = report.console(cast(TextIO, self._screen))
        names = ", ".join(dict.fromkeys(f"stage {int(stage.id)}, {stage.title}" for stage, _ in self._result.tasks))
        failing = self._failing()
        console.print(f"{names[:1].upper()}{names[1:]}   {self._when}", style="bold")
        for _, task in self._result.tasks:
            if task.id in self._result.verdicts:
                lines = report.verdict(task, self._result.verdict(task), brief=task is not failing)
                console.print(lines, end="\n\n" if "\n" in lines else "\n")
            elif not self._grading:
                console.print(report.verdict(task, self._result.verdict(task), brief=True))
        if self._grading:
            console.print("grading ...", style="dim")
        else:
            console.print(report.summary(self._result))
            if self._result.passed() and not self._below:
                console.print("n shows what is next.", style="dim")
        if self._below:
            console.print()
            console.print("\n".join(self._below))
        self._screen.paint(_KEYS if self._screen.listens else "Ctrl-C ends this")


class Grading:
    """A child process that grades once go() is called, and the pipe through which it tells what it finds."""

    def __init__(
        self, tasks: list[tuple[course.Stage, course.Task]], impl: str, seed: int, all_mine: bool, keeper: Keeper
    ):
        self.tasks, self.seed, self.ended = tasks, seed, False
        self.pipe, write = os.pipe()
        gate, self._opens = os.pipe()
        self._rest = b""
        sys.stdout.flush()
        parent = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                os.close(self._opens)
                self._grade(parent, gate, write, impl, all_mine, keeper)
            finally:
                os._exit(0)
        os.close(write)
        os.close(gate)

    def go(self) -> None:
        """Let it read the implementation and grade."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self._opens, b"1")

    def _grade(self, parent: int, gate: int, write: int, impl: str, all_mine: bool, keeper: Keeper) -> None:
        """The child's side. It has the terminal only as something to stay away from."""
        linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            return
        for number in (signal.SIGINT, signal.SIGTSTP, signal.SIGWINCH, signal.SIGCONT):
            signal.signal(number, signal.SIG_IGN)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)

        def tell(message: dict[str, Any]) -> None:
            data = json.dumps(message).encode() + b"\n"
            while data:
                data = data[os.write(write, data) :]

        def wait() -> None:
            if not os.read(gate, 1):
                os._exit(0)

        try:
            tell({"machine": machine_facts(keeper.cgroup)})
            found = driver.grade(
                self.tasks,
                impl,
                self.seed,
                all_mine,
                keeper,
                lambda verdict: tell({"verdict": vars(verdict)}),
                begin=wait,
            )
            for _, task in self.tasks:  # once more, for those that were not reported one by one
                tell({"verdict": vars(found.verdict(task))})
        except HostError as error:
            tell({"broke": str(error)})
        except BaseException as error:
            tell({"broke": f"{type(error).__name__}: {error}"})

    def messages(self) -> list[dict[str, Any]]:
        """What the child has said since; ``ended`` is set when that was all."""
        data = os.read(self.pipe, 1 << 20)
        if not data:
            self.ended = True
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def kill(self) -> None:
        """End it, in whatever it is doing."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self.pipe)
        os.close(self._opens)


class Screen:
    """The terminal: one picture, painted over the one before, and single keys. Without a terminal: plain lines.

    A context manager: however it is left, the terminal is as it was.
    """

    def __init__(self) -> None:
        self._tty = sys.stdout.isatty()
        self.listens = sys.stdin.isatty() and self._tty and _in_foreground()
        self.encoding = sys.stdout.encoding
        self._text = ""
        self._last = ""
        self._stale = False
        self._leaving = 0  # the signal that asked for it
        self._before: list[Any] = []
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> "Screen":
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._handlers[number] = signal.signal(number, self._told_to_leave)
        if self.listens:
            self._before = termios.tcgetattr(sys.stdin)
            for number in (signal.SIGWINCH, signal.SIGCONT):
                self._handlers[number] = signal.signal(number, self._again)
            self._take_keys()
        if self._tty:
            sys.stdout.write("\n" * (_lines() - 1))  # what was on the screen stays, above
        return self

    def __exit__(self, *_: object) -> None:
        if self._before:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._before)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _take_keys(self) -> None:
        with contextlib.suppress(termios.error):
            tty.setcbreak(sys.stdin, termios.TCSANOW)

    def _again(self, number: int, _: object) -> None:
        """The window has another size, or we were stopped (Ctrl-Z), and the shell has had the terminal meanwhile."""
        if number == signal.SIGCONT:
            self._take_keys()
        self._stale = True

    def _told_to_leave(self, number: int, _: object) -> None:
        """Only noted: an exception in the midst of a fork would leave a child that nobody knows of."""
        self._leaving = number

    def leave_if_told(self) -> None:
        """Raise what ends the program, if a signal has asked for that."""
        if self._leaving == signal.SIGINT:
            raise KeyboardInterrupt
        if self._leaving:
            sys.exit(128 + self._leaving)

    def changed(self) -> bool:
        """Whether the picture has to be painted again, for reasons of the terminal's own."""
        stale, self._stale = self._stale, False
        if stale:
            self._last = ""
        return stale

    def key(self) -> str:
        """The key that was pressed; q at the end of the input."""
        try:
            data = os.read(sys.stdin.fileno(), 64)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            data = b""  # the terminal is gone
        return data[:1].decode(errors="replace").lower() if data else "q"

    # What rich needs of a file

    def write(self, text: str) -> int:
        """Add to the picture."""
        self._text += text
        return len(text)

    def flush(self) -> None:
        """Nothing: paint() shows the picture."""

    def isatty(self) -> bool:
        """Whether colours are welcome."""
        return self._tty

    def paint(self, footer: str) -> None:
        """Show the picture that was written, and a line below it; what does not fit is left out, at the end."""
        text, self._text = self._text.rstrip("\n"), ""
        if text == self._last:
            return
        self._last = text
        if not self._tty:
            sys.stdout.write(text + "\n\n")
            sys.stdout.flush()
            return
        room = max(2, _lines() - 3)
        lines = text.split("\n")
        if len(lines) > room:
            lines = [*lines[: room - 1], "... (more than fits here: ./walls check shows all)"]
        body = "".join(f"{line}\x1b[0m\x1b[K\n" for line in lines)
        sys.stdout.write(f"\x1b[H{body}\x1b[K\n\x1b[7m {footer} \x1b[0m\x1b[K\x1b[J")
        sys.stdout.flush()


def _look(path: Path) -> Look:
    """What tells one state of a file from another without reading it; None if there is none."""
    try:
        found = os.stat(path)
        return found.st_mtime_ns, found.st_size, found.st_ino
    except OSError:
        return None


def _lines() -> int:
    try:
        return os.get_terminal_size(sys.stdout.fileno()).lines or 24
    except OSError:
        return 24


def _in_foreground() -> bool:
    """Whether we may read the terminal; in the background (&) that would stop us."""
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except OSError:
        return False
