"""./walls check --watch, driven through a terminal of its own: saves of every kind, keys, and every way out."""

import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from thinwalls import course, progress

pytestmark = pytest.mark.slow

STAGE = course.stage("1")
GOOD = course.reference(STAGE)
FAILING = GOOD.replace('os.chdir("/")  # chroot', "pass  # chroot")
TOTAL = rb"(\d+) of 5 points"


@pytest.fixture
def checkout(tmp_path):
    copy = tmp_path / "course"
    rooms = ("thinwalls", "stages", "solutions", "tests/stages")
    for room in rooms:
        shutil.copytree(course.ROOT / room, copy / room, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("course.toml", "pyproject.toml", "conftest.py"):
        shutil.copy(course.ROOT / name, copy / name)
    for stage in course.stages():
        (copy / "stages" / f"{stage.stem}.py").write_text(course.stub(course.reference(stage)))
    return copy


class Terminal:
    """A watcher in a terminal; what it paints is collected."""

    def __init__(self, checkout: Path, command: list[str]):
        self.stage = checkout / "stages" / f"{STAGE.stem}.py"
        self.master, self.slave = pty.openpty()
        termios.tcsetwinsize(self.slave, (30, 90))
        self.before = termios.tcgetattr(self.slave)
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(checkout.parent),
            "XDG_CACHE_HOME": str(checkout.parent / "cache"),
            "TERM": "xterm",
            "LANG": "C.UTF-8",
        }
        self.process = subprocess.Popen(
            command, cwd=checkout, env=environment, stdin=self.slave, stdout=self.slave, stderr=self.slave,
            # The first terminal that the leader of a session opens becomes the one that controls it, with Ctrl-C.
            start_new_session=True, preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),
        )  # fmt: skip
        self.seen = b""

    def until(self, pattern: bytes, seconds: float = 30) -> "re.Match[bytes]":
        """Read until the pattern is painted; what came before its end is forgotten."""
        deadline = time.monotonic() + seconds
        while not (found := re.search(pattern, self.seen, re.DOTALL)):
            assert time.monotonic() < deadline, f"never painted: {pattern!r}; last: {self.seen[-1500:].decode()}"
            if select.select([self.master], [], [], 0.05)[0]:
                self.seen += os.read(self.master, 65536)
        self.seen = self.seen[found.end() :]
        return found

    def points(self) -> int:
        """The next total that is painted."""
        return int(self.until(TOTAL)[1])

    def forget(self) -> None:
        """Let what is being painted come, and forget it."""
        while select.select([self.master], [], [], 0.15)[0]:
            os.read(self.master, 65536)
        self.seen = b""

    def press(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def ends(self) -> int:
        """Its exit status; the terminal must be as it was, and none of its processes left."""
        deadline = time.monotonic() + 20
        while self.process.poll() is None:
            assert time.monotonic() < deadline, "it does not end"
            if select.select([self.master], [], [], 0.02)[0]:
                self.seen += os.read(self.master, 65536)
        assert termios.tcgetattr(self.slave) == self.before
        self.nothing_left()
        return self.process.returncode

    def nothing_left(self) -> None:
        deadline = time.monotonic() + 20
        while left := of_checkout(self.stage.parents[1]):
            assert time.monotonic() < deadline, left
            time.sleep(0.02)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)


def of_checkout(checkout: Path) -> list[str]:
    """The command lines of living processes that run the course in this checkout: watchers, children, keepers."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line, where = (entry / "cmdline").read_bytes(), os.readlink(entry / "cwd")
            except OSError:
                continue
            if line and (str(checkout).encode() in line or where == str(checkout)):
                found.append(line.decode(errors="replace"))
    return found


@pytest.fixture
def start(checkout):
    running = []

    def start(*args, code=None):
        program = ["-c", code] if code else ["-m", "thinwalls.cli", "check", *args, "--watch"]
        running.append(Terminal(checkout, [sys.executable, "-B", *program]))
        return running[-1]

    yield start
    for terminal in running:
        terminal.close()


def test_every_kind_of_save_is_graded_and_keys_are_obeyed(start, checkout, monkeypatch):
    watcher = start("1")
    path = watcher.stage
    assert watcher.points() == 0
    watcher.until(rb"h hint +n next +a all +q quit")
    watcher.forget()

    new = path.with_name(".new")  # a save by rename, as vim and many others do it
    new.write_text(GOOD)
    new.replace(path)
    assert watcher.points() == 5
    watcher.forget()

    path.write_text("def half(")  # truncate and write; what is there is no Python
    assert watcher.until(rb"is no Python.*?" + TOTAL)[1] == b"0"
    watcher.forget()

    path.unlink()  # delete, and create a little later
    time.sleep(0.2)
    path.write_text(FAILING)
    assert watcher.until(rb"did  .*?expected  .*?yours  .*?" + TOTAL)[1] == b"4"
    watcher.forget()

    watcher.press("h")
    watcher.until(rb"That was hint 1 of 3")
    watcher.press("h")
    watcher.until(rb"That was hint 2 of 3")
    watcher.press("n")
    watcher.until(rb"Next, in stage 0")  # of the whole course, stage 0 is what is open; it is graded as well
    watcher.until(rb"0 of 9 points")
    watcher.press("a")
    watcher.until(rb"3\.1 .*more than fits here")  # every stage was graded, and that is more than a screen
    watcher.press("q")
    assert watcher.ends() == 1

    monkeypatch.setattr(course, "ROOT", checkout)
    known = progress.load()
    assert known.tasks["1.1"] == progress.Entry("passed", "failed", known.tasks["1.1"].source, 2)
    assert known.stands(course.task("1.2")[1])


def test_a_save_during_a_grading_takes_its_place(start):
    watcher = start("1")
    watcher.points()
    watcher.forget()
    watcher.stage.write_text(GOOD + "\nwhile True: pass\n")  # it would take its two timeouts of a second each
    watcher.until(rb"grading")
    watcher.stage.write_text(GOOD)
    assert watcher.points() == 5
    watcher.press("q")
    assert watcher.ends() == 0


@pytest.mark.parametrize("how", ["ctrl-c", "sigterm", "crash"])
def test_the_terminal_is_as_it_was_after_every_way_out(start, how):
    crash = "from thinwalls import cli, watch\nwatch.Watch._obey = lambda self, key: key and 1 / 0\n"
    watcher = start("0", code=f"{crash}cli.main(['check', '0', '--watch'])" if how == "crash" else None)
    watcher.until(rb"q quit")
    assert termios.tcgetattr(watcher.slave) != watcher.before
    if how == "ctrl-c":
        watcher.press("\x03")
        assert watcher.ends() == 130
        assert b"stopped" in watcher.seen
    elif how == "sigterm":
        watcher.process.send_signal(signal.SIGTERM)
        assert watcher.ends() == 128 + signal.SIGTERM
    else:
        watcher.press("x")
        assert watcher.ends() == 1


def test_a_killed_watcher_leaves_no_process(start):
    watcher = start("0")
    watcher.until(rb"\d of 9 points")
    watcher.process.kill()
    watcher.process.wait()
    watcher.nothing_left()


def test_without_a_terminal_it_prints(checkout):
    command = [sys.executable, "-B", "-m", "thinwalls.cli", "check", "0", "--watch"]
    with subprocess.Popen(
        command, cwd=checkout, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    ) as process:
        lines = iter(process.stdout.readline, "")
        assert any("0 of 9 points" in line for line in lines)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
