"""The eleven claims about containers and virtual machines, each an experiment whose figures are plain values."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thinwalls import machine, rootfs
from thinwalls.host import SLOWER, Host, HostError, Keeper, Late
from thinwalls.machine import UP, Machine, Unmeasurable
from thinwalls.measure import bare, guest, memory

Figures = dict[str, Any]
_HERE = Path(__file__).parent
_PATIENCE = 120 * SLOWER  # seconds for one experiment's part
_MANY_MACHINES = 400 * 2**20  # bytes that one may take, when several are to run at a time
# What a program can learn of the computer under it. The same words are run as a process, in a container, in a machine.
ASK = r"""
ask() { name=$1; shift; answer=$("$@" 2>&1); echo "= $name = ${answer%%
*}"; }
word() { while read -r a b c; do case "$a $b" in "$2"*) echo "$b $c"; return;; esac; done < "$1"; }
count() { echo $#; }
ask kernel uname -r
ask architecture uname -m
ask 'switched on' word /proc/stat btime
ask 'boot id' cat /proc/sys/kernel/random/boot_id
ask clock date +%Y
ask memory word /proc/meminfo MemTotal
ask processor word /proc/cpuinfo 'model name'
ask processes count /proc/[0-9]*
ask disks count /sys/class/block/*
ask devices count /sys/bus/pci/devices/*
ask 'open files' cat /proc/sys/fs/file-nr
ask load cat /proc/loadavg
ask 'kernel log' dmesg
"""


@dataclass(frozen=True)
class Sizes:
    """How much is measured: repetitions of a start, how many containers and machines at a time."""

    starts: int = 30
    boots: int = 3
    processes: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    machines: tuple[int, ...] = (1, 2, 4, 8)
    in_a_machine: tuple[int, ...] = (1, 2, 4, 8)
    guest_starts: int = 5
    count: int = bare.COUNT


SMALL = Sizes(2, 1, (1, 2), (1,), (1,), 1, 1_000_000)


class Place:
    """Where it is measured: the throwaway hosts for containers, the accelerator for machines."""

    def __init__(self, keeper: Keeper, files: dict[str, str], accelerated: bool, sizes: Sizes):
        self.keeper, self.accelerated, self.sizes = keeper, accelerated, sizes
        self.files = dict(files)
        for name in ("inside", "apart"):
            self.files[f"/course/measured/{name}.py"] = (_HERE / f"{name}.py").read_text()
        self.files["/course/measured/__init__.py"] = ""

    def host(self, call: str, *args: Any, network: bool = False) -> list[Figures]:
        """Call a function of inside or apart ("apart.tries") in a host of its own; what it found.

        Raises Unmeasurable.
        """
        module, _, function = call.partition(".")
        found, said = [], ""
        try:
            with Host(
                self.keeper,
                self.files,
                rootfs.cached(guest.PROGRAMS),
                delegate=bool(self.keeper.cgroup),
                network=network,
            ) as host:
                host.request({"module": f"measured.{module}", "function": function, "args": list(args)})
                ends = time.monotonic() + _PATIENCE
                while (event := host.next(max(0, ends - time.monotonic()))).kind == "line":
                    said = event.body["text"]
                    if said.startswith("thinwalls: {"):
                        found.append(json.loads(said.partition(": ")[2]))
                if "returned" not in event.body:
                    raise Unmeasurable(f"{call} failed in the throwaway host: {event.body}")
                while not found:  # its lines are still on their way
                    said = host.next(5).body.get("text", "")
                    if said.startswith("thinwalls: {"):
                        found.append(json.loads(said.partition(": ")[2]))
        except Late:
            raise Unmeasurable(f"{call} took too long") from None
        except (HostError, rootfs.Unbuildable) as error:
            raise Unmeasurable(f"no container can be made here: {error}") from None
        return found

    def plain(self, commands: str = "", **options: Any) -> Machine:
        """A virtual machine with a shell alone."""
        return self.machine(guest.plain(commands), **options)

    def machine(self, image: bytes, *options: str, **more: Any) -> Machine:
        """A virtual machine with this machine's kernel."""
        return Machine(image, *options, kernel=machine.kernel(), accelerated=self.accelerated, **more)


def computer(place: Place) -> Figures:
    """1 and 10: what a program can learn of the computer under it: as a process, in a container, in a machine."""
    answers = place.host("inside.asked", ASK)[0]
    found = {name: _answers(text) for name, text in answers.items()}
    with contextlib.ExitStack() as stack:
        try:
            image = guest.plain(ASK)
            clock = ("-rtc", "base=2001-01-01T00:00:00")
            booted = stack.enter_context(place.machine(image, *clock))
            booted.line("thinwalls: over", _PATIENCE)
            found["machine"] = _answers("\n".join(booted.lines))
        except Unmeasurable as error:
            return {"answers": found, "no machine": str(error)}
    return {"answers": found}


def _answers(text: str) -> dict[str, str]:
    return dict(re.findall(r"^= ([^=]+) = (?:name\s*: )?(.*?)\s*$", text, re.MULTILINE))


def architecture(place: Place) -> Figures:
    """2: a computer of another kind, with no kernel, and with one if somebody has put it there."""
    found: Figures = {"here": os.uname().machine, "its program here": bare.not_for_this_machine()}
    found["says"] = bare.run_arm(60 * SLOWER)
    if given := guest.foreign():
        kernel, image = given
        with Machine(image, kernel=kernel, arch=guest.FOREIGN) as booted:
            found["uname"], found["seconds"] = booted.line("thinwalls:", _PATIENCE)
    return found


def nesting(place: Place) -> Figures:
    """3: counting to the same number by a process, a computer in it, and a computer in that one."""
    count = place.sizes.count
    program, sector = bare.counting_program(count), bare.counting_computer(count)
    levels: list[Figures] = [{"level": 0, "whole": min(bare.run_program(program) for _ in range(3))}]
    levels[0]["counting"] = levels[0]["whole"]
    levels.append({"level": 1, **bare.run_computer(sector, place.accelerated, _PATIENCE)})
    with place.machine(guest.with_a_machine(sector), memory=1024) as outer:
        began = outer.line("thinwalls: begins", _PATIENCE)[1]
        first = outer.line("from here", 3 * _PATIENCE)[1]
        last = outer.line("to here", 3 * _PATIENCE)[1]
        whole = outer.line("thinwalls: ended", _PATIENCE)[1] - began
    levels.append({"level": 2, "first word": first - began, "counting": last - first, "whole": whole})
    said = {
        path.parent.parent.name: path.read_text().strip()
        for path in Path("/sys/module").glob("kvm_*/parameters/nested")
    }
    return {"count": count, "levels": levels, "nested KVM": said}


def share(place: Place) -> Figures:
    """4: a container's own namespaces, its limits, its disk."""
    return place.host("apart.shares")[0]


def isolation(place: Place) -> Figures:
    """5: tries on a victim's file, process and memory."""
    return place.host("apart.tries")[0]


def communication(place: Place) -> Figures:
    """6: by which ways one container hears another."""
    cabled = all(shutil.which(tool, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin") for tool in ("ip", "nft"))
    return place.host("apart.talks", cabled)[0]


def lightness(place: Place) -> Figures:
    """7: seconds of a start, bytes of disk, system calls. (Memory is in ``many``.)"""
    found: Figures = {"starts": place.host("inside.starts", place.sizes.starts)[0]}
    image = Path(rootfs.cached(guest.PROGRAMS))
    found["disk"] = {"process": 0, "container": _bytes(image), "next container": 0}
    try:
        found["calls"] = _calls(place)
    except Unmeasurable as error:
        found["no calls"] = str(error)
    boots = []
    initramfs = guest.plain()
    try:
        for _ in range(place.sizes.boots):
            with place.machine(initramfs) as booted:
                boots.append(booted.line(UP, _PATIENCE)[1])
        found["starts"]["machine"] = boots
        found["disk"]["machine"] = len(initramfs) + Path(machine.kernel()).stat().st_size
        found["disk"]["next machine"] = 0
    except Unmeasurable as error:
        found["no machine"] = str(error)
    return found


def _calls(place: Place) -> dict[str, int]:
    """System calls of all processes, from the first to the last, as strace(1) counts them."""
    if not shutil.which("strace"):
        raise Unmeasurable("there is no strace")
    found = place.host("inside.calls")[0]
    with tempfile.NamedTemporaryFile("r", prefix="thinwalls-") as table, contextlib.suppress(Unmeasurable):
        wrapper = ("strace", "-f", "-c", "-q", "-o", table.name)
        with place.plain(wrapper=wrapper) as booted:
            booted.end(3 * _PATIENCE)
        found["machine"] = memory.calls(table.read())
    return found


def disposable(place: Place) -> Figures:
    """8: containers of one image, one after the other; a machine of one image, twice."""
    found: Figures = {"container": place.host("apart.twice")[0]}
    look = "ls /marked 2>/dev/null && echo = mark = found || echo = mark = none; echo x > /marked\n"
    try:
        image, marks = guest.plain(look), []
        for _ in range(2):
            with place.machine(image) as booted:
                booted.line("thinwalls: over", _PATIENCE)
                marks.append(_answers("\n".join(booted.lines))["mark"])
        found["machine"] = marks
    except Unmeasurable as error:
        found["no machine"] = str(error)
    return found


def many(place: Place) -> Figures:
    """7 and 9: N at once: seconds until all are up, memory, seconds until all are gone."""
    limited = bool(place.keeper.cgroup)
    found: Figures = {
        kind: place.host("inside.many", place.sizes.processes, kind, limited) for kind in ("process", "container")
    }
    counts, rows = _affordable(place.sizes.machines), []
    try:
        for count in counts:
            rows.append(_machines(place, count))
    except Unmeasurable as error:
        found["no machine"] = f"of {counts[len(rows)]} at once: {error}"
    if rows:
        found["machine"] = rows
    elif not counts:
        found["no machine"] = f"less than {_MANY_MACHINES / 2**20:.0f} MiB of memory are free"
    return found


def _affordable(counts: Sequence[int]) -> list[int]:
    """Those for which there is memory."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    return [count for count in counts if count * _MANY_MACHINES < free]


def _machines(place: Place, count: int) -> Figures:
    """So many virtual machines at once."""
    image = guest.plain("while :; do sleep 1000; done")
    with memory.Group() as group, contextlib.ExitStack() as stack:
        began = time.perf_counter()
        running = [stack.enter_context(place.machine(image, cgroup=group.directory)) for _ in range(count)]
        for booted in running:
            booted.line(UP, _PATIENCE * count)
        up = time.perf_counter() - began
        pss, charged = sum(memory.pss(booted.pid) for booted in running), group.bytes()
        began = time.perf_counter()
        stack.close()
        return {"n": count, "up": up, "pss": pss, "cgroup": charged, "down": time.perf_counter() - began}


def setting_up(place: Place) -> Figures:
    """10: what it takes until there is an image: programs found, their libraries, files copied."""
    samples = []
    with tempfile.TemporaryDirectory(prefix="thinwalls-rootfs-") as folder:
        for number in range(3):
            target = Path(folder, str(number))
            target.mkdir()
            began = time.perf_counter()
            rootfs.build(str(target), guest.PROGRAMS)
            samples.append(time.perf_counter() - began)
        files = [path for path in target.rglob("*") if path.is_file()]
        return {"seconds": samples, "files": len(files), "bytes": _bytes(target), "programs": len(guest.PROGRAMS)}


def in_a_machine(place: Place) -> Figures:
    """11: containers in a virtual machine, as on a Mac or Windows: the first one's start, and N of them."""
    counts = list(place.sizes.in_a_machine)
    call = f"inside.own_root(); inside.starts({place.sizes.guest_starts}); inside.many({counts}, 'container', rest=2)"
    rows = []
    machine.qemu()  # before an archive is made for it
    with place.machine(guest.with_containers(place.files, call), memory=512) as booted:
        up = booted.line(UP, _PATIENCE)[1]
        alone = memory.pss(booted.pid)
        starts = json.loads("{" + booted.line("thinwalls: {", _PATIENCE)[0])
        for count in counts:
            took = float(booted.line(f"thinwalls: up {count} ", _PATIENCE)[0])
            rows.append({"n": count, "up": up + took, "pss": memory.pss(booted.pid)})
    return {"machine up": up, "pss of the machine": alone, "starts in it": starts, "containers": rows}


def _bytes(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


# In the order in which they are measured: what is short first.
CLAIMS: dict[str, Callable[[Place], Figures]] = {
    "computer": computer,
    "architecture": architecture,
    "share": share,
    "isolation": isolation,
    "communication": communication,
    "disposable": disposable,
    "setting up": setting_up,
    "lightness": lightness,
    "many": many,
    "in a machine": in_a_machine,
    "nesting": nesting,
}


def measure(place: Place, name: str) -> Figures:
    """One experiment's figures, or why there are none."""
    try:
        return CLAIMS[name](place)
    except (Unmeasurable, subprocess.SubprocessError, OSError) as error:
        return {"not measured": str(error)}
