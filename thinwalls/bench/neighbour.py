"""``./walls bench limits``: how fast a neighbour without limits is beside three containers that take all they can get.

A fork bomb, a memory hog and a busy loop run behind the reference's cgroups on one processor, in a throwaway host; the
neighbour counts on another. It is measured by turns, alone and beside them, so that whatever else the machine does
slows both: read the ratio.
"""

import json
import os
import time

from thinwalls import course, rootfs
from thinwalls.bench.figures import Aim, Measurement, Table, Unmeasurable
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


def measure(samples: int | None = None) -> Measurement:
    """Measure by turns. Raises Unmeasurable: no cgroup can be made here, or there is one processor alone."""
    turns = samples or _TURNS
    processors = sorted(os.sched_getaffinity(0))
    files = {f"/course/stages/{stage.stem}.py": course.reference(stage) for stage in course.stages()}
    files |= {"/course/stages/__init__.py": "", "/course/stages/timed.py": _TIMED}
    with Keeper() as keeper:
        if not keeper.cgroup or len(processors) < 2:
            raise Unmeasurable("limits need a cgroup and two processors: see ./walls doctor")
        with Host(keeper, files, rootfs.cached(), delegate=True) as host:
            arguments = [turns, processors[1], processors[0]]
            host.request({"module": "stages.timed", "function": "measure", "args": arguments})
            printed, ends = "", time.monotonic() + _PATIENCE
            try:
                while (event := host.next(max(0, ends - time.monotonic()))).kind == "line":
                    printed = event.body["text"] if event.body["text"].startswith("{") else printed
            except Late:
                why = f"it was not measured in {_PATIENCE:.0f} seconds: the machine has too much to do"
                raise Unmeasurable(why) from None
        if "returned" not in event.body:
            raise RuntimeError(f"the measurement failed: {event.body} {printed}")
    title = "How far a neighbour without limits counts, beside a fork bomb, a memory hog and a busy loop under limits"
    beside = [Aim("beside them", "alone", 0.9, least=True)]
    return Measurement("limits", [Table(title, "a second", json.loads(printed), beside)])
