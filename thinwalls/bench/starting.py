"""``./walls bench start``: starting a container by this runtime, beside the others that this machine has, in one run.

Three lanes. *In a host*: /bin/true behind the walls of stages 1 to 3, from a Python that runs already, and by bubblewrap
and unshare(1), inside one throwaway host, with the same namespaces, mounts and masks. *As root*: the same with stage 4's
cgroup and a network namespace, beside crun and runc, and with stage 5's bridge and a published port, beside podman
(``containers``). *Whole*: one command from its start to its end: ``./walls run`` beside ``runc run`` and ``crun run``.
Everything takes turns, so that whatever else the machine does slows all of them; read the ratios.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from thinwalls import course, rootfs
from thinwalls.bench.containers import OURS, PAUSE
from thinwalls.bench.figures import Aim, Measurement, Table
from thinwalls.host import SLOWER, Host, Keeper

_TIMES = {"warm": 40, "root": 20, "whole": 12}  # how often, unless the caller says otherwise
_PATIENCE = 280 * SLOWER  # seconds for each lane
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
    lanes = {"a process": process, "Thin Walls": ours}
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


def measure(samples: int | None = None) -> Measurement:
    """Measure all three lanes. samples: how often each. Raises HostError, and Unmeasurable."""
    absent: dict[str, str] = {}
    tables = [warm(samples or _TIMES["warm"]), *as_root(samples or _TIMES["root"], absent)]
    tables.append(whole(samples or _TIMES["whole"], absent))
    return Measurement("start", tables, absent)


def warm(samples: int) -> Table:
    """Seconds per start, by runtime, inside one throwaway host. Raises HostError."""
    files = {"/course/stages/__init__.py": "", "/course/stages/warm.py": _WARM}
    for stage in course.stages():
        files[f"/course/stages/{stage.stem}.py"] = course.reference(stage)
    with Keeper() as keeper, Host(keeper, files, rootfs.cached(), masked=()) as host:
        host.request({"module": "stages.warm", "function": "measure", "args": [samples]})
        printed = ""
        while (event := host.next(_PATIENCE)).kind == "line":
            printed = event.body["text"]
    if "returned" not in event.body:
        raise RuntimeError(f"the measurement failed: {event.body} {printed}")
    title = "From a running Python to the end of /bin/true, behind stages 1 to 3, in a throwaway host"
    return Table(title, "ms", json.loads(printed), [Aim(OURS, "bwrap")])


def as_root(samples: int, absent: dict[str, str]) -> list[Table]:
    """Stages 1 to 5 beside OCI runtimes and podman, on this machine. absent: who was left out, and why."""
    if os.geteuid():
        absent["crun, runc and podman beside stages 1 to 5"] = "only root can start them with the same cgroup"
        return []
    with tempfile.TemporaryDirectory(prefix="thinwalls-bench-") as place:
        reference(Path(place))
        words = [sys.executable, "-m", "thinwalls.bench.containers", place, rootfs.cached(), str(samples)]
        done = subprocess.run(words, capture_output=True, text=True, cwd=course.ROOT, timeout=_PATIENCE)
    if done.returncode:
        raise RuntimeError(f"the measurement failed: {done.stderr[-2000:]}")
    found = json.loads(done.stdout)
    absent.update(found["absent"])
    behind = "behind stages 1 to 4 and a network namespace with lo"
    beside = [Aim(OURS, "crun run", 0.6), Aim(OURS, "runc run", 0.5)]
    return [
        Table(f"From a running Python to the end of /bin/true, {behind}", "ms", found["limited"], beside),
        Table(f"The same, with {PAUSE} s before each start", "ms", found["spaced"], [*beside]),
        Table("The same without a cgroup", "ms", found["without"], [Aim(OURS, "crun run")]),
        Table(
            "With a cgroup, stage 5's bridge and a published port",
            "ms",
            found["published"],
            [Aim(OURS, "podman run", 0.2)],
        ),
    ]


def reference(place: Path) -> None:
    """Write the reference's stages below ``place``, as the package ``stages``."""
    package = place / "stages"
    package.mkdir()
    (package / "__init__.py").touch()
    for stage in course.stages():
        (package / f"{stage.stem}.py").write_text(course.reference(stage))


def whole(repetitions: int, absent: dict[str, str]) -> Table:
    """Seconds per command, by runtime, on this machine. absent: which does not start here, and why."""
    small = rootfs.cached()
    ours = [str(course.ROOT / "walls"), "run", "--impl", "solutions", small, "/bin/true"]
    if not os.access(course.ROOT / ".venv/bin/python", os.X_OK):  # not set up by ./walls: without its few milliseconds
        ours = [sys.executable, "-c", "from thinwalls.cli import main; raise SystemExit(main())", *ours[1:]]
    modules = "import thinwalls.cli, thinwalls.run"
    host = "from thinwalls.host import Host, Keeper\nwith Keeper() as keeper, Host(keeper) as host: host.runner"
    lanes: dict[str, Callable[[], None]] = {
        "./walls run": lambda: _command(ours),
        # Where its time goes: the rest is the launch itself, and the way there and back.
        "of it Python, and modules": lambda: _command([sys.executable, "-c", modules]),
        "these and a throwaway host": lambda: _command([sys.executable, "-c", f"{modules}\n{host}"]),
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
                absent[f"{name}, as a whole command"] = f"it does not start here: {lines[-1][:200]}"
        for _ in range(repetitions):
            for name in samples:
                began = time.perf_counter()
                lanes[name]()
                samples[name].append(round(time.perf_counter() - began, 6))
    beside = [Aim("./walls run", tool) for tool in ("crun run", "runc run")]
    return Table("A whole command, from its start to its end", "ms", samples, beside)


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
