"""``./walls bench limits``: how fast a neighbour without limits is beside three containers that take all they can get.

A fork bomb, a memory hog and a busy loop run behind the reference's cgroups on one processor, in a throwaway host; the
neighbour counts on another. It is measured by turns, alone and beside them, so that whatever else the machine does
slows both: read the ratio.
"""

import json
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any

from thinwalls import course, rootfs
from thinwalls.host import SLOWER, Host, Keeper, Late

_TURNS = 10
_PATIENCE = 120 * SLOWER  # seconds for all turns
_TIMED = """\
import json, os, signal, time
from stages.stage00_process import launch
from stages.stage02_pid_namespace import Init, Pids
from stages.stage04_cgroups import Cgroup
from thinwalls.wall import Program

BOMB = "bomb() { bomb & bomb & wait; }; bomb"
LOADS = {
    "a memory hog": ({"memory": "64m"}, "while :; do sh -c 'x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done'; done"),
    "a fork bomb": ({"pids": "32"}, "while :; do (" + BOMB + ") 2>/dev/null; done"),
    "a busy loop": ({"cpus": "0.5"}, "while :; do :; done"),
}

def contained(limits, script, processor):
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            os.sched_setaffinity(0, {processor})
            program = Program(["/bin/sh", "-c", script], {"PATH": "/bin:/usr/bin"}, "/")
            launch(program, [Cgroup(**limits), Pids(), Init()])
        finally:
            os._exit(0)
    return pid

def end(launcher):
    while not os.waitpid(launcher, os.WNOHANG)[0]:  # on a busy machine its init may not be there yet
        with open(f"/proc/{launcher}/task/{launcher}/children") as file:
            for init in file.read().split():
                try:
                    os.kill(int(init), signal.SIGKILL)
                except ProcessLookupError:
                    pass
        time.sleep(0.01)

def speed(seconds=0.5):
    counted, ends = 0, time.perf_counter() + seconds
    while time.perf_counter() < ends:
        for _ in range(1000):
            counted += 1
    return counted / seconds

def measure(turns, own, others):
    os.sched_setaffinity(0, {own})
    found = {"alone": [], "beside them": []}
    for turn in range(turns + 1):  # the first warms up
        alone = speed()
        launchers = [contained(limits, script, others) for limits, script in LOADS.values()]
        time.sleep(0.3)  # until they are at work
        beside = speed()
        for launcher in launchers:
            end(launcher)
        time.sleep(0.1)
        if turn:
            found["alone"].append(round(alone))
            found["beside them"].append(round(beside))
    print(json.dumps(found))
"""


def main(target: Path | None) -> int:
    """Measure, print the medians and their ratio, and write the samples to ``target``. Gives the exit status.

    That is 3 where it cannot be measured: no cgroup can be made here, or there is one processor alone.
    """
    processors = sorted(os.sched_getaffinity(0))
    files = {f"/course/stages/{stage.stem}.py": course.reference(stage) for stage in course.stages()}
    files |= {"/course/stages/__init__.py": "", "/course/stages/timed.py": _TIMED}
    with Keeper() as keeper:
        if not keeper.cgroup or len(processors) < 2:
            print("walls bench: limits need a cgroup and two processors: see ./walls doctor")
            return 3
        with Host(keeper, files, rootfs.cached(), delegate=True) as host:
            arguments = [_TURNS, processors[1], processors[0]]
            host.request({"module": "stages.timed", "function": "measure", "args": arguments})
            printed, ends = "", time.monotonic() + _PATIENCE
            try:
                while (event := host.next(max(0, ends - time.monotonic()))).kind == "line":
                    printed = event.body["text"] if event.body["text"].startswith("{") else printed
            except Late:
                print(f"walls bench: it was not measured in {_PATIENCE:.0f} seconds: the machine has too much to do")
                return 3
        if "returned" not in event.body:
            raise RuntimeError(f"the measurement failed: {event.body} {printed}")
        samples: dict[str, list[int]] = json.loads(printed)
        alone, beside = (statistics.median(samples[name]) for name in ("alone", "beside them"))
        found: dict[str, Any] = {
            "what": "limits",
            "kernel": platform.release(),
            "cpus": os.cpu_count(),
            "uid": os.getuid(),
            "cgroup": keeper.cgroup,
            "counted per second": samples,
            "ratio": round(beside / alone, 4),
        }
    print("a neighbour without limits, beside a fork bomb, a memory hog and a busy loop under limits")
    print(f"  alone         {alone / 1e6:7.2f} million counts a second, median of {_TURNS}")
    print(f"  beside them   {beside / 1e6:7.2f} million: {100 * found['ratio']:.1f} % of that")
    if target:
        target.write_text(json.dumps(found, indent=1) + "\n")
    return 0
