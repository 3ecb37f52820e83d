"""On a worker of a cluster: attempts at submissions, each in a process of its own, as the engine has them.

A worker's own process stays clean of all this: it has servers (``python -m thinwalls.batch.elsewhere``), one for each
attempt at a time, which are kept warm, and end when the worker does, however that ends.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from thinwalls import course
from thinwalls.batch import engine, one
from thinwalls.batch.one import Grading
from thinwalls.batch.submissions import Content
from thinwalls.grading.result import machine_facts
from thinwalls.host import SLOWER, HostError, Keeper

_LONGEST = 300 * SLOWER  # seconds in which a server has to answer, the first time too
_END = b"\n"  # a line by itself: that was all
_EXAMINE = "examine"  # the word that has this module tell what examined() gives, instead of serving


def order(grading: Grading) -> dict[str, Any]:
    """The next attempt at a submission, as it can be sent."""
    files = {
        name: ("file", data.hex()) if isinstance(data, bytes) else (data, "")
        for name, data in grading.content.files.items()
    }
    tasks = [task.id for _, task in grading.tasks]
    return {"files": files, "seed": grading.seed, "tasks": grading.begin(), "all": tasks}


def examined() -> dict[str, Any]:
    """The facts of this machine if the doctor finds it able to grade; or "unable", and why. On a worker.

    A process of its own finds out, which tidies up after itself even if the worker is gone before it has ended.
    """
    command = [sys.executable, "-m", "thinwalls.batch.elsewhere", _EXAMINE]
    said = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, cwd=course.ROOT)
    try:
        found: dict[str, Any] = json.loads(said.stdout)
        return found
    except ValueError:
        return {"unable": f"the doctor could not be asked: {said.stderr.decode(errors='replace')[-500:]}"}


def _examine() -> dict[str, Any]:
    from thinwalls import doctor

    try:
        rows = doctor.examine()
        if not doctor.able(rows):
            missing = [row.name for row in rows if row.state == doctor.MISSING and row.stages]
            return {"unable": f"./walls doctor finds missing: {', '.join(missing)}"}
        with Keeper() as keeper:
            return {"facts": machine_facts(keeper.cgroup)}
    except HostError as error:
        return {"unable": str(error)}


_idle: list["_Server"] = []


def attempt(order: dict[str, Any]) -> list[dict[str, Any]]:
    """Do one attempt, on this worker; gives what it said."""
    try:
        server = _idle.pop()
    except IndexError:
        server = _Server()
    lines = server.ask(order)
    if server.alive:
        _idle.append(server)
    return lines


class _Server:
    """A handle on a process that does attempts, one after another."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "thinwalls.batch.elsewhere"]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, cwd=course.ROOT)
        self.alive = True

    def ask(self, order: dict[str, Any]) -> list[dict[str, Any]]:
        assert self._process.stdin and self._process.stdout
        alarm = threading.Timer(_LONGEST, self._process.kill)
        alarm.start()
        lines = []
        try:
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()
            while (line := self._process.stdout.readline()).endswith(b"\n") and line != _END:
                lines.append(json.loads(line))
            self.alive = line == _END
        except OSError:
            self.alive = False
        finally:
            alarm.cancel()
        if not self.alive:
            self._process.kill()
            self._process.stdin.close()
            self._process.stdout.close()
            lines.append({"broke": f"the process of the attempt ended: {self._process.wait()}"})
        return lines


class _Nobody:
    """Nobody is shown how it goes here."""

    def started(self, submission: str) -> None:
        """Nothing."""

    def heard(self, grading: Grading) -> None:
        """Nothing."""

    def finished(self, grading: Grading, result: dict[str, Any]) -> None:
        """Nothing."""

    def tick(self) -> None:
        """End when the worker has."""
        if select.select([0], [], [], 0)[0]:  # nobody orders anything while we work: it is the end of the input
            raise EOFError


def serve() -> None:
    """The server: orders come on standard input, what attempts say goes to standard output."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    out = os.dup(1)
    os.dup2(2, 1)
    observed: dict[int, engine.Observed] = {}
    with tempfile.TemporaryDirectory(prefix="thinwalls-grade-") as work, contextlib.suppress(EOFError):
        while order := _next_order():
            tasks = [course.task(id) for id in order["all"]]
            seed = order["seed"]
            if not observed:
                engine.warm_up(tasks)
            if seed not in observed:
                observed = {seed: engine.observe(seed, tasks, 1, _Nobody())}
            files = {
                name: bytes.fromhex(data) if kind == "file" else kind for name, (kind, data) in order["files"].items()
            }
            _relay(_child(Content(files), seed, order["tasks"], observed[seed], Path(work)), out)
            os.write(out, _END)


def _next_order() -> dict[str, Any] | None:
    """Nothing is read ahead of it, so that select(2) on the input tells the truth."""
    line = b""
    while not line.endswith(b"\n"):
        data = os.read(0, 1 << 16)
        if not data:
            return None
        line += data
    found: dict[str, Any] = json.loads(line)
    return found


def _child(content: Content, seed: int, ids: Sequence[str], observed: engine.Observed, work: Path) -> engine.Child:
    at_once = engine.side_by_side(len(os.sched_getaffinity(0)))  # as many workers as processors: so it is told to be
    return engine.Child(lambda tell: one.attempt(content, seed, ids, observed, work, tell, at_once))


def _relay(child: engine.Child, out: int) -> None:
    try:
        for lines in engine.said_by(child, _Nobody()):
            for line in lines:
                data = json.dumps(line).encode() + b"\n"
                while data:
                    data = data[os.write(out, data) :]
    finally:
        child.end()


if __name__ == "__main__":
    if sys.argv[1:] == [_EXAMINE]:
        print(json.dumps(_examine()))
    else:
        serve()
