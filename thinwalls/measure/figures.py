"""``./walls bench vm``: measure all that is claimed of containers and virtual machines, once, and keep the figures.

The course's own figures are in docs/measured/machines.json. Whoever runs the command has figures of their own, in the
cache (``own()``), and the lesson shows those instead. A file of figures is never edited: it is what one run wrote.
"""

import datetime
import json
import os
import platform
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from thinwalls import course, machine, notebook, whole
from thinwalls.host import HostError, Keeper
from thinwalls.machine import Unmeasurable
from thinwalls.measure import claims, guest

SCHEMA = "thinwalls/machines/v1"
STORED = course.ROOT / "docs" / "measured" / "machines.json"
# What installs QEMU and a kernel to boot, by ID of os-release(5).
_INSTALL = {
    "debian": "apt install qemu-system-x86 linux-image-amd64",
    "ubuntu": "apt install qemu-system-x86",
    "fedora": "dnf install qemu-system-x86-core",
    "arch": "pacman -S qemu-system-x86",
    "alpine": "apk add qemu-system-x86_64",
    "opensuse": "zypper install qemu-x86",
}


def main(target: Path | None, sizes: claims.Sizes | None = None) -> int:
    """Measure, say so, keep the figures, and write them to ``target`` too if there is one. Gives the exit status.

    That is 3 where no container can be made here. Without QEMU the rest is measured, and 0.
    """
    sizes = sizes or claims.Sizes()
    accelerated, why = accelerator()
    label = "KVM" if accelerated else "emulated"
    print(f"virtual machines here: {label}{f', because {why}' if why else ''}", flush=True)
    said: list[str] = []
    files = notebook.stages(said)
    found: dict[str, Any] = {
        "schema": SCHEMA,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "label": label,
        "why no KVM": why,
        "machine": describe(),
        "stages": os.environ.get("THINWALLS_IMPL") or "stages",
        "load before": os.getloadavg()[0],
        "seconds": {},
        "claims": {},
    }
    try:
        with Keeper() as keeper:
            found["machine"]["cgroup"] = keeper.cgroup
            place = claims.Place(keeper, files, accelerated, sizes)
            for name in claims.CLAIMS:
                began = time.monotonic()
                print(f"  {name:<14}", end="", flush=True)
                found["claims"][name] = claims.measure(place, name)
                found["seconds"][name] = round(time.monotonic() - began, 1)
                print(f"{found['seconds'][name]:>7.1f} s{''.join(missing(found['claims'][name]))}", flush=True)
    except HostError as error:
        print(f"walls bench: nothing can be measured here: {error} (./walls doctor)", file=sys.stderr)
        return 3
    text = json.dumps(rounded(found), indent=1) + "\n"
    for path in filter(None, (own(), target)):
        path.parent.mkdir(parents=True, exist_ok=True)
        whole.write(path, text)
        print(f"written: {path}")
    if wanted := lack():
        print(f"no virtual machines: {wanted}; then measure again")
    return 0


def missing(found: Mapping[str, Any]) -> list[str]:
    """What an experiment has not measured, and why, as the command says it after the seconds: "" for the whole of it."""
    parts = {"not measured": "not measured: "} | {
        name: f"{name.removeprefix('no ')}: not measured, because " for name in found if name.startswith("no ")
    }
    return [f"  {words}{found[name]}" for name, words in parts.items() if name in found]


def own() -> Path:
    """Where the figures of this user's last run are, or will be."""
    return guest.cache() / "measured" / "machines.json"


def load() -> tuple[dict[str, Any], str]:
    """The figures that a lesson shows, and one sentence on whose they are: this user's, or else the stored ones.

    Figures that are damaged, or of another version of the course, are passed over. A lesson that is proved on the
    solutions (THINWALLS_IMPL) shows the stored ones, as they were when it was made.
    """
    theirs = [] if os.environ.get("THINWALLS_IMPL") == "solutions" else [(own(), "yours, measured on this machine")]
    for path, whose in (*theirs, (STORED, "the course's, measured on another machine")):
        try:
            found = json.loads(path.read_text())
            if found["schema"] == SCHEMA and set(found["claims"]) == set(claims.CLAIMS):
                here = found["machine"]
                how = "with KVM" if found["label"] == "KVM" else "emulated, without KVM"
                return found, (
                    f"These figures are {whose} on {found['date']}: {here['cpus']} processors ({here['processor']}), "
                    f"{here['memory'] / 1e9:.0f} GB, Linux {here['kernel']}, Python {here['python']}. "
                    f"Its virtual machines: {here['qemu'] or 'none, there is no QEMU'}, {how}."
                )
        except (OSError, ValueError, KeyError, TypeError):
            continue
    raise FileNotFoundError(f"there are no figures: {STORED} is missing or damaged")


def accelerator() -> tuple[bool, str]:
    """Whether KVM boots a kernel here, and if not, why."""
    why = machine.kvm()
    if why:
        return False, why
    try:
        machine.boot(True, patience=20)
        return True, ""
    except Unmeasurable as error:
        return False, f"/dev/kvm is there and does not boot a kernel: {error}"


def describe() -> dict[str, Any]:
    """This machine, in the words that readers of its figures need."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    processor = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    there = machine_is_there()
    return {
        "kernel": platform.release(),
        "arch": platform.machine(),
        "processor": (processor or [platform.machine()])[0],
        "cpus": os.cpu_count(),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "python": platform.python_version(),
        "uid": os.getuid(),
        "qemu": machine.version() if there else None,
        "booted": Path(machine.kernel()).name if there else None,
    }


def machine_is_there() -> bool:
    """Whether QEMU and a kernel to boot are here."""
    return not lack()


def lack() -> str:
    """What to do, on this distribution, to have virtual machines here; "" where they can be had."""
    try:
        machine.qemu()
        machine.kernel()
        return ""
    except Unmeasurable as error:
        closed = sorted(Path("/boot").glob("vmlinuz*"))
        if "kernel" in str(error) and closed:  # Ubuntu lets nobody but root read them
            return f"{error}: sudo chmod a+r {closed[-1]}"
        return f"{error}: {install()}"


def install(release: Mapping[str, str] | None = None) -> str:
    """What installs QEMU, and a kernel to boot, on this distribution. release: in place of os-release(5)."""
    if release is None:
        try:
            release = platform.freedesktop_os_release()
        except OSError:
            release = {}
    for name in (release.get("ID", ""), *release.get("ID_LIKE", "").split()):
        for known, command in _INSTALL.items():
            if name.startswith(known):
                return command.replace("x86", "arm").replace("amd64", "arm64") if _arm() else command
    return f"install the program qemu-system-{platform.machine()}, and a kernel image in /boot"


def _arm() -> bool:
    return platform.machine() == "aarch64"


def rounded(value: Any) -> Any:
    """The same with numbers of at most six digits: more is noise."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {name: rounded(each) for name, each in value.items()}
    return [rounded(each) for each in value] if isinstance(value, list | tuple) else value
