"""How long starting takes: a process, a container and a virtual machine, measured on the spot.

``python -m thinwalls.bench.lesson FILE`` measures with more repetitions, and stores the samples as JSON.
"""

import contextlib
import datetime
import fcntl
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from thinwalls import course, rootfs
from thinwalls.host import Host, HostError, Keeper, Late

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
_INIT = """\
#!/bin/sh
mount -t proc proc /proc
echo thinwalls: up
echo o > /proc/sysrq-trigger
sleep 1000
"""
_QEMU = {  # what differs: the machine type, the console's device, the processor where it is emulated
    "x86_64": ("pc", "ttyS0", "max"),
    "aarch64": ("virt", "ttyAMA0", "max"),
}


class Unmeasurable(Exception):
    """It cannot be measured here; the text says why."""


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
    except Unmeasurable:
        found.append(_stored_machine())
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
        "qemu": _first_line(_qemu(), "--version"),
        "booted": Path(next(_kernels())).name,
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


# The virtual machine


def _virtual_machine(machines: int, enough: float = _ENOUGH, patience: int = _PATIENCE) -> Start:
    """Boot a kernel to a shell script that powers off. Raises Unmeasurable."""
    if not machines:
        raise Unmeasurable("no virtual machine was asked for")
    qemu = _qemu()
    kernel = next(_kernels(), None)
    if kernel is None:
        raise Unmeasurable("there is no kernel image that we may read")
    samples: list[float] = []
    accelerated = _kvm()
    if accelerated:
        try:
            samples.append(_boot(qemu, kernel, accelerated, patience=8))
        except Unmeasurable:  # a /dev/kvm that cannot run this kernel
            accelerated = False
    while len(samples) < machines and sum(samples) < enough:
        samples.append(_boot(qemu, kernel, accelerated, patience))
    how = "QEMU with KVM" if accelerated else "QEMU without KVM: emulated"
    count = f"median of {len(samples)}" if len(samples) > 1 else "once"
    return Start("virtual machine", how, tuple(samples), f"measured here, {count}, {how}")


def _qemu() -> str:
    """The QEMU that has this machine's processor. Raises Unmeasurable."""
    name = f"qemu-system-{platform.machine()}"
    found = shutil.which(name)
    if found is None or platform.machine() not in _QEMU:
        raise Unmeasurable(f"there is no {name}")
    return found


def _first_line(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE).stdout.partition("\n")[0]


def _kernels() -> Iterator[str]:
    """Kernel images of this machine that this user may read, the running one first."""
    release = platform.release()
    paths = [Path(f"/boot/vmlinuz-{release}"), Path(f"/lib/modules/{release}/vmlinuz")]
    paths += sorted([*Path("/boot").glob("vmlinuz*"), *Path("/lib/modules").glob("*/vmlinuz")], reverse=True)
    return (str(path) for path in paths if path.is_file() and os.access(path, os.R_OK))


def _kvm() -> bool:
    """Whether this user can have a virtual machine run by the processor itself."""
    create_vm = 0xAE01  # KVM_CREATE_VM: linux/kvm.h
    processor = Path("/proc/cpuinfo").read_text()
    if platform.machine() == "x86_64" and not re.search(r"^flags\s*:.*\b(vmx|svm)\b", processor, re.MULTILINE):
        return False
    try:
        kvm = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
        try:
            os.close(fcntl.ioctl(kvm, create_vm, 0))
        finally:
            os.close(kvm)
    except OSError:
        return False
    return True


def _boot(qemu: str, kernel: str, accelerated: bool, patience: int) -> float:
    """Boot once; gives the seconds. Nothing is left of it, however it ends."""
    model, console, processor = _QEMU[platform.machine()]
    initramfs = os.memfd_create("initramfs")  # in memory: a file that is killed with us cannot be left behind
    try:
        with os.fdopen(os.dup(initramfs), "wb") as file:
            file.write(_initramfs())
        command = [
            *("timeout", "--kill-after=2", str(patience)),  # should we die, QEMU still ends
            *(qemu, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio"),
            *("-machine", model, "-m", "256"),
            *(("-accel", "kvm", "-cpu", "host") if accelerated else ("-accel", "tcg", "-cpu", processor)),
            *("-kernel", kernel, "-initrd", f"/proc/self/fd/{initramfs}"),
            *("-append", f"quiet panic=-1 console={console}"),
        ]
        began = time.perf_counter()
        with subprocess.Popen(
            command,
            pass_fds=[initramfs],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process:
            try:
                printed = process.communicate(timeout=patience + 5)[0]
            except BaseException:
                process.terminate()  # timeout(1) passes it on to QEMU
                raise
        took = time.perf_counter() - began
    finally:
        os.close(initramfs)
    if b"thinwalls: up" not in printed or process.returncode:
        raise Unmeasurable(f"QEMU did not boot {kernel}: {printed[-500:].decode(errors='backslashreplace')}")
    return took


def _initramfs() -> bytes:
    """A cpio archive with an /init that powers off; format newc, see initramfs-buffer-format in the kernel's docs."""
    small = Path(rootfs.cached(("sh", "mount", "sleep")))
    archive = bytearray()

    def add(name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)) -> None:
        fields = (0, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(name) + 1, 0)
        archive.extend(b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0")
        archive.extend(bytes(-len(archive) % 4) + data)
        archive.extend(bytes(-len(archive) % 4))

    for path in sorted(small.rglob("*")):
        name = str(path.relative_to(small))
        add(name, path.stat().st_mode, path.read_bytes() if path.is_file() else b"")
    add("dev/console", 0o020600, device=(5, 1))  # where init's output goes: console(4)
    add("init", 0o100755, _INIT.encode())
    add("TRAILER!!!", 0)
    return bytes(archive)


def _stored_machine() -> Start:
    """The figure that was measured elsewhere, labelled as such."""
    starts = [Start(**start) for start in json.loads(STORED.read_text())["starts"]]
    found = next(start for start in starts if start.what == "virtual machine")
    return replace(found, where=f"stored: measured on another machine, {found.how}")


if __name__ == "__main__":
    record(Path(sys.argv[1]))
    print(table([Start(**start) for start in json.loads(Path(sys.argv[1]).read_text())["starts"]]))
