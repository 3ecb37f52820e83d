"""``./walls bench start``: starting a container by this runtime, beside the others that this machine has, in one run.

Two lanes. *Warm*: /bin/true behind the walls of stages 1 to 3, from a Python that runs already, and by bubblewrap and
unshare(1) as processes of their own, all inside one throwaway host, with the same namespaces, mounts and masks.
*Whole*: one command from its start to its end, on this machine: ``./walls run`` beside ``runc run`` and ``crun run``.
Everything takes turns, so that whatever else the machine does slows all of them; read the ratios.
"""

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from thinwalls import course, rootfs
from thinwalls.host import Host, Keeper

_REPETITIONS = {"warm": 40, "whole": 12}
_WARM = """\
import json, os, shutil, subprocess, time
from thinwalls import linux
from thinwalls.wall import Program, Wall
from stages.stage00_process import launch
from stages.stage02_pid_namespace import Init, Pids, Uts
from stages.stage03_mount_namespace import MASKED, READ_ONLY, Caps, Filesystem, Sealed

ROOT = "/srv/rootfs"
class Rest(Wall):
    flags = linux.CLONE_NEWNET | linux.CLONE_NEWCGROUP  # what bubblewrap --unshare-all has too

def process():
    assert launch(Program(["/bin/true"], {"PATH": "/bin"}, "/")) == 0

def ours():
    walls = [Uts("bench"), Pids(), Rest(), Filesystem(ROOT), Caps(), Sealed(), Init()]
    assert launch(Program(["/bin/true"], {"PATH": "/bin"}, "/"), walls) == 0

def bubblewrap():
    masks = []
    for path in filter(os.path.exists, MASKED):
        masks += ["--tmpfs", path] if os.path.isdir(path) else ["--ro-bind", "/dev/null", path]
    for path in filter(os.path.exists, READ_ONLY):
        masks += ["--ro-bind", path, path]
    subprocess.run(["bwrap", "--unshare-all", "--hostname", "bench", "--bind", ROOT, "/", "--proc", "/proc", "--ro-bind",
                    "/sys", "/sys", "--dev", "/dev", "--mqueue", "/dev/mqueue", *masks, "--cap-drop", "CAP_SYS_ADMIN",
                    "/bin/true"], check=True)

def unshare():
    subprocess.run(["unshare", "-mnpiuf", "--mount-proc", "/bin/true"], check=True)

def measure(repetitions):
    lanes = {"a process": process, "Thin Walls, stages 1 to 3": ours}
    for tool, lane in (("bwrap", bubblewrap), ("unshare", unshare)):
        if shutil.which(tool):
            lanes[tool] = lane
    samples = {name: [] for name in lanes}
    for turn in range(repetitions + 1):  # the first warms up
        for name, lane in lanes.items():
            began = time.perf_counter()
            lane()
            if turn:
                samples[name].append(round(time.perf_counter() - began, 6))
    print(json.dumps(samples))
"""


def main(what: str, target: Path | None) -> int:
    """Measure, print a table, and write the samples to ``target`` if there is one. Gives the exit status 0."""
    found: dict[str, Any] = {
        "what": what,
        "kernel": platform.release(),
        "cpus": os.cpu_count(),
        "uid": os.getuid(),
        "warm": warm(),
        "whole": whole(),
    }
    print(_table("warm: from a running process to the end of /bin/true", found["warm"], "bwrap"))
    print(_table("whole: one command, from its start to its end", found["whole"], "runc run"))
    if target:
        target.write_text(json.dumps(found, indent=1) + "\n")
    return 0


def warm() -> dict[str, list[float]]:
    """Seconds per start, by runtime, inside one throwaway host. Raises HostError."""
    files = {"/course/stages/__init__.py": "", "/course/stages/warm.py": _WARM}
    for stage in course.stages():
        files[f"/course/stages/{stage.stem}.py"] = course.reference(stage)
    with Keeper() as keeper, Host(keeper, files, rootfs.cached(), masked=()) as host:
        host.request({"module": "stages.warm", "function": "measure", "args": [_REPETITIONS["warm"]]})
        printed = ""
        while (event := host.next(120)).kind == "line":
            printed = event.body["text"]
    if "returned" not in event.body:
        raise RuntimeError(f"the measurement failed: {event.body} {printed}")
    return dict(json.loads(printed))


def whole() -> dict[str, list[float]]:
    """Seconds per command, by runtime, on this machine; a runtime that does not start here is left out, and said so."""
    small = rootfs.cached()
    ours = [str(course.ROOT / "walls"), "run", "--impl", "solutions", small, "/bin/true"]
    if not os.access(course.ROOT / ".venv/bin/python", os.X_OK):  # not set up by ./walls: without its few milliseconds
        ours = [sys.executable, "-c", "from thinwalls.cli import main; raise SystemExit(main())", *ours[1:]]
    modules = "import thinwalls.cli, thinwalls.run"
    host = "from thinwalls.host import Host, Keeper\nwith Keeper() as keeper, Host(keeper) as host: host.runner"
    lanes: dict[str, Callable[[], None]] = {
        "./walls run": lambda: _command(ours),
        # Where its time goes: the rest is the launch itself, and the way there and back.
        "  of it Python, and modules": lambda: _command([sys.executable, "-c", modules]),
        "  these and a throwaway host": lambda: _command([sys.executable, "-c", f"{modules}\n{host}"]),
    }
    with tempfile.TemporaryDirectory(prefix="thinwalls-bench-") as work:
        for tool in ("runc", "crun"):
            if path := shutil.which(tool, path="/usr/bin:/usr/sbin:/usr/local/bin"):
                lanes[f"{tool} run"] = _oci(path, small, Path(work, tool))
        samples: dict[str, list[float]] = {}
        for name, lane in lanes.items():
            try:
                lane()
                samples[name] = []
            except subprocess.CalledProcessError as error:
                lines = (error.stderr or "").strip().splitlines() or [f"exit status {error.returncode}"]
                print(f"{name} does not start here: {lines[-1][:200]}", file=sys.stderr)
        for _ in range(_REPETITIONS["whole"]):
            for name in samples:
                began = time.perf_counter()
                lanes[name]()
                samples[name].append(round(time.perf_counter() - began, 6))
    return samples


def _oci(tool: str, small: str, bundle: Path) -> Callable[[], None]:
    """A start by an OCI runtime, with the namespaces and mounts of its own default configuration."""
    bundle.mkdir()
    rootless = ["--rootless"] if os.geteuid() else []
    subprocess.run([tool, "spec", *rootless], cwd=bundle, check=True, capture_output=True)
    config: dict[str, Any] = json.loads((bundle / "config.json").read_text())
    config["process"] |= {"terminal": False, "args": ["/bin/true"]}
    config["root"] |= {"path": small, "readonly": True}
    (bundle / "config.json").write_text(json.dumps(config))
    name = f"thinwalls-bench-{os.getpid()}"
    return lambda: _command([tool, "--root", str(bundle / "state"), "run", "--bundle", str(bundle), name])


def _command(words: list[str]) -> None:
    environment = {**os.environ, "PYTHONPATH": str(course.ROOT)}
    subprocess.run(words, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=environment)


def _table(title: str, samples: dict[str, list[float]], beside: str) -> str:
    lines = [title]
    base = statistics.median(samples[beside]) if beside in samples else None
    for name, seconds in samples.items():
        median = statistics.median(seconds)
        ratio = f"{median / base:5.2f} times {beside}" if base else ""
        lines.append(f"  {name:<28}{1000 * median:8.1f} ms   least {1000 * min(seconds):6.1f}   {ratio}")
    return "\n".join(lines) + "\n"
