"""Trying things where they do no harm: in a child, in new namespaces, by a shell. What goes wrong is words, not an error.

Nothing that is tried reaches this process or outlives it.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from thinwalls import linux
from thinwalls.iproute import SEARCH


class Aside:
    """A function that runs in a child process, which leads a session of its own, beside whatever else is done."""

    def __init__(self, function: Callable[[], Any]):
        """Start it. What it gives has to be such as json.dumps takes."""
        self._answer, write = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                os.setsid()
                os.close(self._answer)
                try:
                    said = {"gave": function()}
                except BaseException as error:
                    said = {"broke": f"{type(error).__name__}: {error}"}
                os.write(write, json.dumps(said).encode())
            finally:
                os._exit(0)
        os.close(write)

    def finish(self, deadline: float) -> dict[str, Any]:
        """{"gave": what it gave}, or {"broke": the exception}; {} if it has not answered by then (time.monotonic)."""
        data = b""
        while select.select([self._answer], [], [], max(0.0, deadline - time.monotonic()))[0]:
            chunk = os.read(self._answer, 65536)
            if not chunk:
                break
            data += chunk
        self.kill()
        try:
            answer = json.loads(data)
        except ValueError:
            return {}
        return answer if isinstance(answer, dict) else {}

    def kill(self) -> None:
        """End it, and whatever it has started and not waited for."""
        if self._pid:
            for kill in (os.killpg, os.kill):  # the second for one that does not lead its session yet
                with contextlib.suppress(ProcessLookupError):
                    kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            os.close(self._answer)
            self._pid = 0


def inside(flags: int, try_it: Callable[[], object] = lambda: None) -> str:
    """Do something in a child that is born into new namespaces, its user mapped to 0; what went wrong, or ""."""
    with contextlib.ExitStack() as cleanup:
        report, reports = os.pipe()
        mapped, go = os.pipe()
        for fd in (report, mapped):
            cleanup.callback(os.close, fd)
        try:
            pid = linux.clone(flags)
        except OSError as error:
            os.close(reports)
            os.close(go)
            return str(error)
        if pid == 0:
            try:
                os.close(go)
                if os.read(mapped, 1):
                    try_it()
            except BaseException as error:
                os.write(reports, str(error).encode()[:1000] or b"?")
            finally:
                os._exit(0)
        os.close(reports)
        said = ""
        try:
            with contextlib.suppress(FileNotFoundError):
                Path(f"/proc/{pid}/setgroups").write_text("deny")
            Path(f"/proc/{pid}/uid_map").write_text(f"0 {os.geteuid()} 1")
            Path(f"/proc/{pid}/gid_map").write_text(f"0 {os.getegid()} 1")
            os.write(go, b"1")
        except OSError as error:
            said = f"its ids cannot be mapped: {error.strerror}"
        os.close(go)
        said = said or os.read(report, 1000).decode(errors="replace")
        os.waitpid(pid, 0)
        return said


def tell(program: str, *words: str, text: str = "") -> str:
    """What a program prints that is told something on its standard input.

    It looks for others in the folders that a host has. Raises OSError with what it complains of, if it fails.
    """
    environment = {"PATH": SEARCH, "LC_ALL": "C"}
    done = subprocess.run([program, *words], input=text, capture_output=True, text=True, env=environment)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise OSError(f"{os.path.basename(program)}: {lines[0] if lines else f'exit status {done.returncode}'}")
    return done.stdout
