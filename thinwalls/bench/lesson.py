"""How long starting takes: a process, a container and a virtual machine, measured on the spot.

``python -m thinwalls.bench.lesson FILE`` measures with more repetitions, and stores the samples as JSON.
"""

import contextlib
import datetime
import json
import os
import platform
import statistics
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from thinwalls import course, machine, rootfs
from thinwalls.host import Host, HostError, Keeper, Late
from thinwalls.machine import Unmeasurable

STORED = course.ROOT / "docs" / "measured" / "start.json"
_PATIENCE = 12  # seconds that a virtual machine may take, or the measurements in a host together
_ENOUGH = 2.0  # seconds: no further virtual machine is started after so long
# What is timed in a host, by the reference's own functions, from a Python that is running already.
_TIMED = """\
import json, time
from thinwalls import linux
from thinwalls.wall import Program, Wall
from stages.stage00_process import launch, run
from stages.stage01_chroot import DEFAULT_ENV, Root

class Namespaces(Wall):
    flags = linux.CLONE_NEWNS | linux.CLONE_NEWPID | linux.CLONE_NEWNET | linux.CLONE_NEWIPC | linux.CLONE_NEWUTS

def timed(start, samples):
    began = time.perf_counter()
    status = start()
    samples.append(time.perf_counter() - began)
    if status:
        raise RuntimeError(f"exit status {status}")

def measure(repetitions):
    true = Program(["/bin/true"], DEFAULT_ENV)
    process, container = [], []
    for _ in range(repetitions + 1):  # by turns, so that whatever else this machine does slows both down
        timed(lambda: run(true), process)
        timed(lambda: launch(true, [Root("/srv/rootfs"), Namespaces()]), container)
    print(json.dumps(process[1:]))  # the first one warms up
    print(json.dumps(container[1:]))
"""


@dataclass(frozen=True)
class Start:
    """One way of starting a program. ``samples``: seconds, raw. ``where``: where and how they were taken."""

    what: str
    how: str
    samples: tuple[float, ...]
    where: str

    @property
    def median(self) -> float:
        """Seconds."""
        return statistics.median(self.samples)


def start_times(repetitions: int = 30, machines: int = 3, keeper: Keeper | None = None) -> list[Start]:
    """From a warm Python to the end of a program that does nothing: as a process, in a container, in a machine.

    repetitions: of the first two; machines: how many virtual machines at most (one that takes long is enough).
    keeper: one to use and leave running. Raises Unmeasurable where no throwaway host can be made.
    """
    found = _in_a_host(repetitions, keeper)
    try:
        found.append(_virtual_machine(machines))
    except Unmeasurable as error:
        found.append(_stored_machine(str(error).partition(":")[0]))
    return found


def table(starts: list[Start]) -> str:
    """The medians, one line each, in milliseconds and in multiples of the first."""
    lines = [f"{'what is started':<17}{'time':>11}  {'':>7}  where the figure is from"]
    for start in starts:
        ratio = start.median / starts[0].median
        times = f"{ratio:.0f}x" if ratio >= 10 else f"{ratio:.1f}x"
        lines.append(f"{start.what:<17}{start.median * 1000:>8.1f} ms  {times:>7}  {start.where}")
    return "\n".join(lines)


def record(path: Path) -> None:
    """Measure with more repetitions; store raw samples and where they were taken. Raises Unmeasurable."""
    found = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": {"kernel": platform.release(), "arch": platform.machine(), "cpus": os.cpu_count()},
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "qemu": machine.version(),
        "booted": Path(machine.kernel()).name,
        "starts": [asdict(start) for start in (*_in_a_host(100), _virtual_machine(5, enough=90, patience=60))],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")


def _in_a_host(repetitions: int, keeper: Keeper | None = None) -> list[Start]:
    """Process and container, timed in a throwaway host with the reference's stages."""
    files = {"/course/stages/__init__.py": "", "/course/timed.py": _TIMED}
    for stage in course.stages()[:2]:
        files[f"/course/stages/{stage.stem}.py"] = course.reference(stage)
    printed: list[str] = []
    try:
        with contextlib.ExitStack() as stack:
            keeper = keeper or stack.enter_context(Keeper())
            host = stack.enter_context(Host(keeper, files, rootfs.cached()))
            host.request({"module": "timed", "function": "measure", "args": [repetitions]})
            while len(printed) < 2:
                event = host.next(_PATIENCE)
                if event.kind == "line":
                    printed.append(event.body["text"])
                elif "returned" not in event.body:  # otherwise its two lines are on their way
                    raise Unmeasurable(f"no container can be timed here: {event.body}")
    except (HostError, Late, rootfs.Unbuildable) as error:
        raise Unmeasurable(f"no container can be timed here: {error or 'it took too long'}") from None
    process, container = (tuple(json.loads(line)) for line in printed)
    here = f"measured here, median of {repetitions}"
    return [
        Start("process", "clone, exec and wait", process, here),
        Start("container", "the same, with its own root and five own namespaces", container, here),
    ]


def _virtual_machine(machines: int, enough: float = _ENOUGH, patience: int = _PATIENCE) -> Start:
    """Boot a kernel to a shell script that powers off. Raises Unmeasurable."""
    if not machines:
        raise Unmeasurable("no virtual machine was asked for")
    samples: list[float] = []
    accelerated = not machine.kvm()
    if accelerated:
        try:
            samples.append(machine.boot(accelerated, patience=8))
        except Unmeasurable:  # a /dev/kvm that cannot run this kernel
            accelerated = False
    while len(samples) < machines and sum(samples) < enough:
        samples.append(machine.boot(accelerated, patience))
    how = "QEMU with KVM" if accelerated else "QEMU without KVM: emulated"
    count = f"median of {len(samples)}" if len(samples) > 1 else "once"
    return Start("virtual machine", how, tuple(samples), f"measured here, {count}, {how}")


def _stored_machine(why: str) -> Start:
    """The figure that was measured elsewhere, labelled as such. why: what stood in the way of measuring it here."""
    starts = [Start(**start) for start in json.loads(STORED.read_text())["starts"]]
    found = next(start for start in starts if start.what == "virtual machine")
    return replace(found, where=f"stored: measured on another machine, {found.how} (here: {why})")


if __name__ == "__main__":
    record(Path(sys.argv[1]))
    print(table([Start(**start) for start in json.loads(Path(sys.argv[1]).read_text())["starts"]]))
