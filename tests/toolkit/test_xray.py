"""The x-ray against containers that other tools made, with lsns(8), nsenter(1) and stat(2) as the second opinion.

Where a tool is missing, or cannot start a container on this machine, its test is skipped with the tool's own words.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from rich.console import Console

from thinwalls import course, facts, linux, rootfs, xray
from thinwalls.grading.machine import Machine
from thinwalls.host import SLOWER, Keeper

pytestmark = pytest.mark.slow

ROOT = os.geteuid() == 0
KINDS = {"mount": "mnt"} | {name: name for name in ("user", "pid", "uts", "ipc", "net", "time", "cgroup")}
SLEEP = ["sleep", "60"]
needs_root = pytest.mark.skipif(not ROOT, reason="needs root")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory for a tool's files, with a root file system in rootfs; afterwards nothing of it may be left."""
    place = tmp_path_factory.mktemp("xray")
    (place / "rootfs").mkdir()
    rootfs.build(str(place / "rootfs"), ("sh", "sleep"))
    yield place
    left = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(place) in line]
    left += [path for path, below, _ in os.walk("/sys/fs/cgroup") for name in below if name.startswith("xray-test")]
    deadline = time.monotonic() + 3  # a monitor of podman ends a moment after its container
    while (running := _named(str(place))) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left + running, "left behind"


def _named(word):
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and word in (line := (entry / "cmdline").read_bytes().decode(errors="replace")):
                found.append(line)
    return found


def tool(name):
    return shutil.which(name) or pytest.skip(f"{name} is not installed")


def called(argv):
    """Run a tool to its end; skip with its last words when it cannot do that here."""
    # Not pipes: what it starts would keep them open.
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        status = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=err, timeout=15 * SLOWER).returncode
        out.seek(0)
        err.seek(0)
        if status:
            pytest.skip(f"{Path(argv[0]).name} does not work here: {(err.read().strip().splitlines() or ['?'])[-1]}")
        return out.read().strip()


@contextlib.contextmanager
def started(argv, name="sleep"):
    """Start a tool that stays, and give the process of this name that comes out of it."""
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    with subprocess.Popen(argv, text=True, **streams) as tool:
        try:
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline:
                for pid in (tool.pid, *facts.descendants(tool.pid)):
                    with contextlib.suppress(OSError):
                        if facts.Process(pid).name() == name:
                            yield pid
                            return
                if tool.poll() is not None:
                    pytest.skip(f"{argv[0]} does not work here: {tool.stderr.read().strip()}")
                time.sleep(0.01)
            raise AssertionError(f"{argv} did not start {name}")
        finally:
            for pid in (*facts.descendants(tool.pid), tool.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def against_us(pid):
    return xray.compare(xray.examine(pid), xray.examine(os.getpid()))


def namespaces_of(pid):
    """What lsns says: kind -> inode."""
    argv = [tool("lsns"), "-n", "-r", "-o", "TYPE,NS", "-p", str(pid)]
    for _ in range(20):  # it gives up when any process of the machine ends while it reads
        if (done := subprocess.run(argv, capture_output=True, text=True)).returncode == 0:
            return {kind: int(inode) for kind, inode in (line.split() for line in done.stdout.splitlines())}
    pytest.skip("lsns does not work here")


def judged(pid):
    """The x-ray of a process against this one, where lsns, nsenter and stat are of the same opinion."""
    found = against_us(pid)
    theirs, ours = namespaces_of(pid), namespaces_of(os.getpid())
    for name, kind in KINDS.items():
        assert found[name].fact == theirs[kind], name
        assert found[name].state == ("shared" if theirs[kind] == ours[kind] else "own"), name
    same = os.path.samestat(os.stat(f"/proc/{pid}/root"), os.stat("/"))
    assert found["root"].state == ("shared" if same else "own")
    enter = [tool("nsenter"), "-t", str(pid)] + ([] if ROOT else ["-U", "--preserve-credentials"])
    uname = subprocess.run([*enter, "-u", "uname", "-n"], capture_output=True, text=True)
    seen = os.uname().nodename if theirs["uts"] == ours["uts"] else uname.stdout.strip()
    assert found["uts"].evidence.endswith(f", {seen}" if seen else "")  # where nsenter may not, the x-ray still may
    listed = subprocess.run([*enter, "-n", "cat", "/proc/self/net/dev"], capture_output=True, text=True).stdout
    links = [line.partition(":")[0].strip() for line in listed.splitlines()[2:]]
    assert " ".join(links[:4]) in found["net"].evidence
    assert str(len(facts.Process(pid).mounts())) in found["mount"].evidence
    return found


def own(found):
    return {wall.name for wall in found.walls if wall.state == "own"}


VARIES = {"cgroup", "cgroup_path", "lsm"}  # what a tool adds where the machine has cgroups v2, or AppArmor


def bundle(place, name, **linux_):
    """An OCI bundle around the root file system, made by `runc spec`."""
    there = place / name
    there.mkdir()
    called([tool("runc"), "spec", "--bundle", str(there), *([] if ROOT else ["--rootless"])])
    config = json.loads((there / "config.json").read_text())
    config["process"] |= {"terminal": False, "args": SLEEP}
    config["root"] = {"path": str(place / "rootfs"), "readonly": True}
    config["hostname"] = name
    config["mounts"] = [mount for mount in config["mounts"] if mount["type"] not in ("cgroup", "mqueue")]
    config["linux"] |= {"resources": {}, **linux_}
    (there / "config.json").write_text(json.dumps(config))
    return there


@contextlib.contextmanager
def running(argv, there):
    """A container by an OCI runtime."""
    name = f"xray-test-{there.name}"
    try:
        called([*argv, "run", "--detach", "--bundle", str(there), "--pid-file", str(there / "pid"), name])
        yield int((there / "pid").read_text())
    finally:
        subprocess.run([*argv, "delete", "--force", name], capture_output=True)


def crun_here(place):
    """crun; where both versions of cgroups are mounted, which it refuses, in a mount namespace that shows neither."""
    found = tool("crun")
    if Path("/sys/fs/cgroup/unified").exists():
        (place / "bin").mkdir(exist_ok=True)
        hide = f'mount -t tmpfs none /sys/fs/cgroup && exec {found} "$@"'
        (place / "bin/crun").write_text(f"#!/bin/sh\nexec unshare -m sh -c '{hide}' crun \"$@\"\n")
        (place / "bin/crun").chmod(0o755)
        return str(place / "bin/crun")
    return found


def test_a_plain_child_has_no_wall_of_its_own():
    with started(SLEEP) as pid:
        assert not own(judged(pid))


def test_runc(place):
    with running([tool("runc"), "--root", str(place / "runc-state")], bundle(place, "runc")) as pid:
        found = judged(pid)
    walls = {"pid", "mount", "root", "paths", "uts", "ipc", "capabilities", "no_new_privs"}
    # `runc spec --rootless` leaves the network shared.
    assert own(found) - VARIES == walls | ({"net"} if ROOT else {"user", "ids"})
    assert found["capabilities"].evidence == "effective, bounding: kill net_bind_service audit_write"
    assert found["pid"].evidence.endswith("number 1 inside") and "pivoted" in found["root"].evidence
    assert found["paths"].fact["/proc/sys"] == "read-only" and "masked" in found["paths"].fact.values()
    assert found["seccomp"].state == "off" and not found["no_new_privs"].beside.startswith("set")


@needs_root
def test_crun(place):
    no_reboot = {"names": ["reboot"], "action": "SCMP_ACT_ERRNO"}
    there = bundle(place, "crun", seccomp={"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [no_reboot]})
    crun = [crun_here(place), "--root", str(place / "crun-state"), "--cgroup-manager=disabled"]
    with running(crun, there) as pid:
        found = judged(pid)
    walls = {"pid", "mount", "root", "paths", "uts", "ipc", "net", "capabilities", "no_new_privs", "seccomp"}
    assert own(found) - VARIES == walls
    assert found["seccomp"].fact == {"mode": "filter", "filters": 1}


def test_podman(place, monkeypatch):
    # Not into the caller's own store, home or runtime directory. vfs: overlay would leave a mount of the store behind.
    (place / "run").mkdir(mode=0o700)
    monkeypatch.setenv("HOME", str(place))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(place / "run"))
    store = [f"--{key}={place / key}" for key in ("root", "runroot", "tmpdir")]
    podman = [tool("podman"), *store, "--storage-driver=vfs", "--events-backend=none", f"--runtime={crun_here(place)}"]
    shutil.copytree(place / "rootfs", place / "podman-rootfs", symlinks=True)  # it writes /etc/hosts and others into it
    limits = ["--ulimit=nofile=1024:1024", "--ulimit=nproc=512:512"]  # its own defaults may be above what is allowed
    try:
        name = called(
            [
                *podman,
                "run",
                "--detach",
                "--cgroups=disabled",
                "--network=none",
                "--hostname=podbox",
                *limits,
                "--rootfs",
                str(place / "podman-rootfs"),
                *SLEEP,
            ]
        )
        found = judged(int(called([*podman, "inspect", "--format={{.State.Pid}}", name])))
    finally:
        subprocess.run([*podman, "rm", "--all", "--force", "--time=0"], capture_output=True)
        if not ROOT:  # ends the process that keeps a user's namespaces
            subprocess.run([*podman, "system", "migrate"], capture_output=True)
    walls = {"pid", "mount", "root", "paths", "uts", "ipc", "net", "capabilities", "seccomp"}
    assert walls | ({"user", "ids"} if not ROOT else set()) == own(found) - VARIES
    assert "podbox" in found["uts"].evidence and found["net"].evidence.endswith("links lo")
    assert found["no_new_privs"].state == "off" and "pivoted" in found["root"].evidence
    if not ROOT:
        assert found["ids"].fact[0] == [0, os.geteuid(), 1]


def test_bubblewrap(place):
    argv = [tool("bwrap"), "--bind", str(place / "rootfs"), "/", "--proc", "/proc", "--dev", "/dev", "--unshare-all"]
    with started([*argv, "--hostname", "bubble", "--cap-drop", "ALL", *SLEEP]) as pid:
        found = judged(pid)
    walls = {"user", "ids", "pid", "mount", "root", "paths", "uts", "ipc", "net", "cgroup", "no_new_privs"}
    assert walls <= own(found) and found["paths"].fact["/sys"] == "absent"
    assert found["pid"].evidence.endswith("number 2 inside")  # 1 is bubblewrap's own
    assert found["capabilities"].fact["effective"] == []
    assert found["ids"].fact == [[os.geteuid(), os.geteuid(), 1]] or found["ids"].fact == [[0, 0, 1]]


def test_bubblewrap_on_the_machines_own_root_is_not_a_root_of_its_own():
    with started([tool("bwrap"), "--bind", "/", "/", "--dev", "/dev", *SLEEP]) as pid:
        found = judged(pid)
    assert found["mount"].state == "own" and found["root"].state == "shared"


@needs_root
def test_chroot(place):
    with started([tool("chroot"), str(place / "rootfs"), *SLEEP]) as pid:
        found = judged(pid)
    assert own(found) == {"root", "paths"}  # paths: no /proc in it
    assert found["root"].evidence == f"chroot to {place / 'rootfs'}" and found["mount"].state == "shared"


@needs_root
def test_a_chroot_in_a_mount_namespace_is_no_pivot_even_where_a_mount_is_the_root(place):
    script = 'mount --bind "$0" "$0" && exec chroot "$0" sleep 60'
    with started([tool("unshare"), "-m", "sh", "-c", script, str(place / "rootfs")]) as pid:
        found = judged(pid)
    assert own(found) == {"mount", "root", "paths"} and found["root"].evidence == f"chroot to {place / 'rootfs'}"


def test_unshare_of_every_namespace():
    argv = ["--user", "--map-root-user", "--mount", "--uts", "--ipc", "--net", "--pid", "--fork", "--cgroup"]
    with started([tool("unshare"), *argv, "--time", "--boottime", "100", *SLEEP]) as pid:
        found = judged(pid)
    assert own(found) >= set(KINDS) | {"ids"} and found["root"].state == "shared"
    assert found["ids"].evidence == f"its 0 is uid {os.geteuid()} outside, 1 id"


def test_two_containers_beside_each_other(place):
    argv = [tool("bwrap"), "--bind", str(place / "rootfs"), "/", "--proc", "/proc", "--unshare-pid", *SLEEP]
    with started(argv) as one, started(argv) as two:
        found = xray.compare(xray.examine(one), xray.examine(two))
    assert found.reference == xray.Reference(two, "sleep", "given")
    assert found["pid"].state == found["mount"].state == "own"
    assert found["root"].state == found["net"].state == found["no_new_privs"].state == "shared"
    assert found["pid"].beside != found["pid"].evidence


def test_our_own_container_in_a_throwaway_host():
    files = {"/course/stages/__init__.py": ""}
    for stage in course.stages():
        files[f"/course/stages/{stage.stem}.py"] = course.reference(stage)
    with Keeper() as keeper, Machine(keeper, "xray", "1", files, rootfs.cached()) as machine:
        machine.allow(10)
        named = (
            ("02_pid_namespace.Uts", "thin"),
            ("02_pid_namespace.Pids",),
            ("03_mount_namespace.Filesystem", machine.rootfs),
            ("02_pid_namespace.Init",),
        )
        walls = [machine.made(f"stage{name}", *given) for name, *given in named]
        machine.call("stage00_process.launch", machine.probe(), walls)
        pid = machine.meet().process.pid
        found = xray.compare(xray.examine(pid), xray.examine(machine.runner.pid))
        host = against_us(machine.runner.pid)
    assert {"uts", "ipc", "pid", "mount", "root"} <= own(found)
    assert {found[name].state for name in ("user", "ids", "net", "cgroup", "time")} == {"shared"}
    assert "pivoted" in found["root"].evidence and found["pid"].evidence.endswith("number 2 inside")
    assert {"user", "ids", "pid", "mount", "root", "uts", "ipc", "net", "cgroup", "seccomp"} <= own(host)


@needs_root
def test_limits_of_a_cgroup_and_of_the_one_above():
    parents = {"memory": "memory.limit_in_bytes", "pids": "pids.max", "cpu": "cpu.cfs_quota_us"}
    own_paths = facts.Process(os.getpid()).cgroups()
    above = {name: Path(f"/sys/fs/cgroup/{name}{own_paths.get(name)}/xray-test-{os.getpid()}") for name in parents}
    if not all(path.parent.is_dir() for path in above.values()):
        pytest.skip("no v1 cgroups here")
    groups = [path / "below" for path in above.values()]
    try:
        for name, group in zip(parents, groups, strict=True):
            group.mkdir(parents=True)
            (group.parent / parents[name]).write_text({"memory": "67108864", "pids": "32", "cpu": "50000"}[name])
        with subprocess.Popen(SLEEP) as child:
            for group in groups:
                (group / "cgroup.procs").write_text(str(child.pid))
            found = against_us(child.pid)
            child.kill()
    finally:
        for group in (*groups, *above.values()):
            with contextlib.suppress(FileNotFoundError):
                group.rmdir()
    assert own(found) == {"cgroup_path", "limits"}
    assert found["limits"].evidence == "memory 64 MiB, pids 32, cpu 0.5"


@needs_root
def test_limits_of_a_cgroup_and_of_the_one_above_on_version_2():
    top = Path("/sys/fs/cgroup")
    if not (top / "cgroup.controllers").exists():
        pytest.skip("cgroups v2 alone are not mounted here")
    above = top / f"xray-test-{os.getpid()}"
    group = above / "below"
    try:
        (top / "cgroup.subtree_control").write_text("+memory +pids +cpu")
        group.mkdir(parents=True)
        for name, text in {"memory.max": "67108864", "pids.max": "32", "cpu.max": "50000 100000"}.items():
            (above / name).write_text(text)
        with subprocess.Popen(SLEEP) as child:
            (group / "cgroup.procs").write_text(str(child.pid))
            found = against_us(child.pid)
            child.kill()
    finally:
        for each in (group, above):
            with contextlib.suppress(FileNotFoundError):
                each.rmdir()
    assert own(found) == {"cgroup_path", "limits"}
    assert found["limits"].evidence == "memory 64 MiB, pids 32, cpu 0.5"


def test_limits_are_read_from_files_of_version_2_too(tmp_path):
    for name, text in {"memory.max": "67108864", "pids.max": "max", "cpu.max": "150000 100000"}.items():
        (tmp_path / name).write_text(f"{text}\n")
    assert facts._limits_of(tmp_path) == {"memory": 67108864, "cpu": 1.5}
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert facts._limits_of(tmp_path) == {}


def test_who_may_not_read_is_told_so():
    """What uid 65534 sees of this very process, or an unprivileged caller of the machine's PID 1."""
    pid, answer, says = os.getpid() if ROOT else 1, *os.pipe()
    child = linux.clone()
    if child == 0:
        try:
            if ROOT:
                os.setgroups([])
                os.setresgid(65534, 65534, 65534)
                os.setresuid(65534, 65534, 65534)
            os.write(says, json.dumps(xray.as_json(xray.examine(pid))).encode())
        finally:
            os._exit(0)
    os.close(says)
    with open(answer, "rb") as pipe:
        found = json.loads(pipe.read())
    os.waitpid(child, 0)
    for name in (*KINDS, "root"):
        assert found["walls"][name]["state"] == "unknown" and found["walls"][name]["fact"] is None
        assert found["walls"][name]["evidence"].startswith("may not be read by uid ")
    assert found["walls"]["ids"]["state"] != "unknown" and found["walls"]["capabilities"]["fact"]


def test_what_has_no_walls_is_a_sentence(capsys):
    zombie = subprocess.Popen(["true"])
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
    event = threading.Event()
    thread = threading.Thread(target=event.wait)
    thread.start()
    said = {}
    for given in (str(zombie.pid), str(thread.native_id), "0", "4194999", "9" * 30, "seven", "-1", "1\x1b[2J", "²"):
        assert xray.main(given) == 2
        out, said[given] = capsys.readouterr()
        assert not out and said[given].count("\n") == 1 and "\x1b" not in said[given]
    event.set()
    thread.join()
    zombie.wait()
    assert "zombie" in said[str(zombie.pid)] and "thread" in said[str(thread.native_id)]
    assert "There is no process" in said["4194999"] and "There is no process" in said["9" * 30]
    assert "a number is needed" in said["seven"]
    with contextlib.suppress(OSError):
        if facts.Process(2).kernel_thread():
            assert xray.main("2") == 2 and "kernel thread" in capsys.readouterr().err


def test_hostile_names_are_escaped_everywhere(tmp_path, capsys):
    name = "[red]\x1b[2J\n<b>&"
    shutil.copy(tool("sleep"), tmp_path / name)
    code = r"import os, socket, sys; socket.sethostname(b'<i>[b]\x1b\xff'); os.execv(sys.argv[1], sys.argv[1:])"
    python = [sys.executable, "-I", "-S", "-c", code, str(tmp_path / name), "60"]
    with started([tool("unshare"), "--user", "--map-root-user", "--uts", *python], name) as pid:
        found = against_us(pid)
        assert xray.main(str(pid), svg_file=str(tmp_path / "x.svg")) == 0
    shown = capsys.readouterr().out
    assert "\x1b[2J" not in shown
    assert "[red]\\x1b[2J\\n<b>&" in shown
    assert "<i>[b]\\x1b\\udcff" in shown
    json.dumps(xray.as_json(found), ensure_ascii=False).encode()  # no lone surrogate
    tree = ElementTree.parse(tmp_path / "x.svg")
    title, desc = (tree.find(f"{{http://www.w3.org/2000/svg}}{each}").text for each in ("title", "desc"))
    assert title.endswith("[red]\\x1b[2J\\n<b>&") and "<i>[b]\\x1b" in desc and "Shared: " in desc


def test_the_table_fits_80_columns_and_names_every_state(place):
    argv = [tool("bwrap"), "--bind", str(place / "rootfs"), "/", "--unshare-pid", *SLEEP]
    with started(argv) as pid:
        alone, beside = xray.examine(pid), against_us(pid)
    for found in (alone, beside):
        console = Console(width=80, file=open(os.devnull, "w"), record=True)  # noqa: SIM115
        console.print(xray.as_table(found))
        console.file.close()
        text = console.export_text()
        assert max(map(len, text.splitlines())) <= 80
        assert all(word in text for word in ("own", "shared", "off", "mount", "pivoted", "no_new_privs", "LSM label"))
    assert "mounts in sight" in text and str(os.getpid()) in text


def test_the_drawing_tells_the_states_apart_without_colour(place):
    with started([tool("bwrap"), "--bind", str(place / "rootfs"), "/", "--unshare-pid", *SLEEP]) as pid:
        found = against_us(pid)
    tree = ElementTree.fromstring(xray.as_svg(found))
    boxes = [each for each in tree.iter("{http://www.w3.org/2000/svg}rect") if each.get("stroke")]
    assert len(boxes) == len(found.walls) and {each.get("stroke") for each in boxes} == {"currentColor"}
    looks = {wall.state: set() for wall in found.walls}
    for wall, box in zip(found.walls, boxes, strict=True):
        looks[wall.state].add((box.get("stroke-width"), box.get("stroke-dasharray")))
    assert all(len(look) == 1 for look in looks.values()) and len(set.union(*looks.values())) == len(looks)
    words = [each.text for each in tree.iter("{http://www.w3.org/2000/svg}text")]
    assert all(wall.label in words and wall.state in words for wall in found.walls)


def test_the_command_line(tmp_path, capsys):
    assert xray.main() == 0 and str(os.getppid()) in capsys.readouterr().out
    assert xray.main(str(os.getpid()), str(os.getppid()), json=True, svg_file=str(tmp_path / "x.svg")) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == "thinwalls/xray/v1" and found["pid"] == os.getpid()
    assert found["reference"]["pid"] == os.getppid() and found["reference"]["why"] == "given"
    assert list(found["walls"]) == list(xray.WALLS)
    assert all(set(wall) == {"state", "evidence", "beside", "fact"} for wall in found["walls"].values())
    assert xray.main(svg_file=str(tmp_path / "no/x.svg")) == 2 and "cannot be written" in capsys.readouterr().err
    assert xray.main(str(os.getpid()), "nobody") == 2


def test_the_reference_is_pid_1_or_whoever_asks():
    found = xray.examine(os.getpid())
    try:
        os.stat("/proc/1/ns/mnt")
        assert found.reference.pid == 1 and found.reference.why == "pid 1"
    except PermissionError:
        assert found.reference.pid == os.getpid() and found.reference.why == "caller"


@pytest.mark.skipif(not shutil.which("capsh"), reason="capsh is not installed")
def test_the_capabilities_are_those_of_the_field():
    names = called(["capsh", f"--decode={(1 << len(xray.CAPABILITIES)) - 1:x}"]).partition("=")[2].split(",")
    assert [f"cap_{name}" for name in xray.CAPABILITIES] == names


def test_strict_seccomp():
    code = "import ctypes, os; ctypes.PyDLL(None).prctl(22, 1); ctypes.PyDLL(None).read(0, b' ', 1)"
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", code], stdin=subprocess.PIPE) as child:
        deadline = time.monotonic() + 5
        while (found := xray.examine(child.pid))["seccomp"].fact["mode"] == "off" and time.monotonic() < deadline:
            time.sleep(0.02)
        child.kill()
    assert found["seccomp"].state == "own" and found["seccomp"].evidence.startswith("strict")
