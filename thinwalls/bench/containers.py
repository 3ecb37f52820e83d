"""What is timed beside OCI runtimes and podman, in network and mount namespaces of its own that end with it.

``python -m thinwalls.bench.containers STAGES ROOTFS SAMPLES`` is started by ``starting``, as root. STAGES: a folder
with a package ``stages``, of the reference. It prints JSON: for each table the samples, and who is absent and why.
Our launches go from this process, which runs already; the others are programs that this process starts.
"""

import importlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from thinwalls import cgroupfs, linux
from thinwalls.wall import Program, Wall

OURS, PLACE = "Thin Walls", "/run/bench"  # /run is a tmpfs of this mount namespace's own
LIMITS = {"memory": "64m", "pids": "64", "cpus": "0.5"}
PAUSE = 0.2  # seconds between two starts that are spaced
PORT = (8080, 80)
_ADDRESSES = "/var/lib/cni"  # where podman's network plugins note which they have given away
_TRUE = Program(["/bin/true"], {"PATH": "/bin"}, "/")
_NAMESPACES = {
    linux.CLONE_NEWPID: "pid",
    linux.CLONE_NEWNET: "network",
    linux.CLONE_NEWIPC: "ipc",
    linux.CLONE_NEWUTS: "uts",
    linux.CLONE_NEWNS: "mount",
}
_QUIET = ["nosuid", "nodev", "noexec"]
Lanes = dict[str, Callable[[], None]]


def walls(root: str, network: Wall, limited: bool) -> list[Wall]:
    """The walls of stages 1 to 4 and a network's."""
    two, three, four = _stage("02_pid_namespace"), _stage("03_mount_namespace"), _stage("04_cgroups")
    cgroup = [four.Cgroup(**LIMITS)] if limited else []
    mounts = [three.Filesystem(root), three.Caps(), three.Sealed()]
    return [*cgroup, two.Uts("bench"), two.Pids(), network, *mounts, two.Init()]


def bundle(root: str, place: Path, alike: list[Wall]) -> Path:
    """An OCI bundle with the namespaces of those walls, and the mounts, masks and limits of stages 3 and 4."""
    three = _stage("03_mount_namespace")
    capabilities = ["CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_SETUID", "CAP_SETGID"]
    flags = 0
    for wall in alike:
        flags |= wall.flags
    mounts: list[tuple[str, str, str, list[str]]] = [
        ("/proc", "proc", "proc", _QUIET),
        ("/sys", "sysfs", "sysfs", [*_QUIET, "ro"]),
        ("/dev", "tmpfs", "dev", ["nosuid", "noexec", "mode=755", "size=64k"]),
        *((f"/dev/{name}", "bind", f"/dev/{name}", ["bind"]) for name in three.DEVICES),
        ("/dev/pts", "devpts", "devpts", ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=620"]),
        ("/dev/shm", "tmpfs", "shm", [*_QUIET, "mode=1777", "size=64m"]),
        ("/dev/mqueue", "mqueue", "mqueue", _QUIET),
    ]
    config: dict[str, Any] = {
        "ociVersion": "1.0.2",
        "hostname": "bench",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": list(_TRUE.argv),
            "env": ["PATH=/bin"],
            "cwd": "/",
            "noNewPrivileges": True,
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), capabilities),
        },
        "root": {"path": root},
        "mounts": [
            {"destination": where, "type": kind, "source": source, "options": options}
            for where, kind, source, options in mounts
        ],
        "linux": {
            "namespaces": [{"type": name} for flag, name in _NAMESPACES.items() if flags & flag],
            "maskedPaths": list(three.MASKED),
            "readonlyPaths": list(three.READ_ONLY),
            "cgroupsPath": f"/{_group()}/oci",
            "resources": {
                "memory": {"limit": 64 << 20, "swap": 64 << 20},
                "pids": {"limit": 64},
                "cpu": {"quota": cgroupfs.PERIOD // 2, "period": cgroupfs.PERIOD},
            },
        },
    }
    place.mkdir()
    (place / "config.json").write_text(json.dumps(config))
    return place


def lanes(root: str, absent: dict[str, str]) -> tuple[Lanes, Lanes, Lanes]:
    """What starts /bin/true: with a cgroup and lo; without a cgroup; with a bridge and a published port."""
    launch, five = _stage("00_process").launch, _stage("05_networking")

    def ours(network: Callable[[], Wall], limited: bool = True) -> Callable[[], None]:
        def start() -> None:
            status = launch(_TRUE, walls(root, network(), limited))
            if status:
                raise RuntimeError(f"exit status {status}")

        return start

    limited: Lanes = {OURS: ours(five.Isolated)}
    without: Lanes = {OURS: ours(five.Isolated, False)}
    published: Lanes = {OURS: ours(lambda: five.Network([PORT]))}
    alike = bundle(root, Path(PLACE, "bundle"), walls(root, five.Isolated(), False))
    for tool in ("crun", "runc"):
        if path := _found(tool, absent):
            state = ["--root", f"{PLACE}/{tool}"]
            run = ["run", "--bundle", str(alike), "bench"]
            limited[f"{tool} run"] = _command(path, *state, *run)
            if tool == "crun":
                without["crun run"] = _command(path, *state, "--cgroup-manager=disabled", *run)
    if path := _found("podman", absent):
        published["podman run"] = _podman(path, root)
    return limited, without, published


def measure(root: str, samples: int) -> dict[str, Any]:
    """All tables, their lanes by turns, so that whatever else the machine does slows all of them."""
    absent: dict[str, str] = {}
    limited, without, published = lanes(root, absent)
    for each in (limited, without, published):
        for name in list(each):
            try:
                each[name]()  # the first warms up
            except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
                why = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
                absent[name] = f"it does not start here: {why[-1][:200] if why else error}"
                del each[name]
    found = {
        "limited": _by_turns(limited, samples),
        "without": _by_turns(without, samples),
        "spaced": _by_turns(limited, max(1, samples // 2), PAUSE),
        "published": _by_turns(published, max(1, samples // 2)),
    }
    return {**found, "absent": absent}


def _stage(name: str) -> Any:
    """A module of the reference's."""
    return importlib.import_module(f"stages.stage{name}")


def _by_turns(each: Lanes, samples: int, pause: float = 0) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in each}
    for _ in range(samples):
        for name, start in each.items():
            time.sleep(pause)
            began = time.perf_counter()
            start()
            found[name].append(round(time.perf_counter() - began, 6))
    return found


def _podman(path: str, root: str) -> Callable[[], None]:
    """``podman run`` of the same, with all that it would keep in this mount namespace's own /run."""
    own = ["--root", f"{PLACE}/podman", "--runroot", f"{PLACE}/podman-run", "--tmpdir", f"{PLACE}/podman-tmp"]
    options = ["--cgroup-manager", "cgroupfs", "--events-backend", "none"]
    if shutil.which("crun"):
        options += ["--runtime", "crun"]
    most = [
        "--ulimit",
        "nofile=1024:1024",
        "--ulimit",
        "nproc=1024:1024",
    ]  # its own default may be more than is allowed
    limits = ["--memory", "64m", "--memory-swap", "64m", "--pids-limit", "64", "--cpus", "0.5", *most]
    rest = ["--cgroup-parent", f"/{_group()}", "--hostname", "bench", "--publish", "{}:{}".format(*PORT)]
    return _command(path, *own, *options, "run", "--rm", *limits, *rest, "--rootfs", root, *_TRUE.argv)


def _found(tool: str, absent: dict[str, str]) -> str | None:
    found = shutil.which(tool, path="/usr/bin:/usr/sbin:/usr/local/bin:/usr/local/sbin")
    if not found:
        absent[tool] = "there is no such program"
    return found


def _command(*words: str) -> Callable[[], None]:
    return lambda: _run(words)


def _run(words: tuple[str, ...]) -> None:
    subprocess.run(
        words, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def _group() -> str:
    """The cgroup below which the others make theirs."""
    return f"thinwalls-bench-{os.getpid()}"


def main(stages: str, rootfs: str, samples: int) -> None:
    """Go into namespaces of our own, make the mounts fit, measure, print JSON."""
    sys.path.insert(0, stages)
    linux.unshare(linux.CLONE_NEWNS | linux.CLONE_NEWNET)
    linux.mount(None, "/", None, linux.MS_REC | linux.MS_PRIVATE)
    linux.set_link_up("lo")
    linux.mount("run", "/run", "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=755")
    missing = not os.path.isdir(_ADDRESSES)
    os.makedirs(_ADDRESSES, exist_ok=True)
    linux.mount("cni", _ADDRESSES, "tmpfs")
    if os.path.ismount(f"{cgroupfs.TOP}/unified"):  # crun refuses to work where both versions have controllers
        linux.mount("hidden", f"{cgroupfs.TOP}/unified", "tmpfs")
    os.mkdir(PLACE)
    root = f"{PLACE}/rootfs"
    shutil.copytree(rootfs, root, symlinks=True)  # some make mount points in it
    try:
        found = measure(root, samples)
    finally:
        cgroupfs.remove_everywhere(_group())
        if missing:
            linux.umount(_ADDRESSES)
            os.rmdir(_ADDRESSES)
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
