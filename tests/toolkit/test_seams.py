"""The seam holds what later stages will put on it: sketches of a mount, a network and a cgroup wall, run through the
reference's launcher in a two-level host, and judged by what the kernel says of the program from outside.
"""

from pathlib import Path

import pytest

from thinwalls import course, rootfs
from thinwalls.grading.machine import Machine
from thinwalls.host import Keeper

SKETCH = '''
import os, subprocess
from thinwalls import linux
from thinwalls.wall import Wall

class Mounts(Wall):
    flags = linux.CLONE_NEWNS | linux.CLONE_NEWPID
    def __init__(self, rootfs):
        self.rootfs = rootfs
    def inside(self):
        linux.mount(None, "/", None, linux.MS_REC | linux.MS_PRIVATE)
        linux.mount(self.rootfs, self.rootfs, None, linux.MS_BIND | linux.MS_REC)
        linux.mount("proc", self.rootfs + "/proc", "proc", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC)
        os.chdir(self.rootfs)
        linux.pivot_root(".", ".")
        linux.umount(".", linux.MNT_DETACH)
        os.chdir("/")

class Init(Wall):
    """PID 1 stays to reap, the child goes on to exec."""
    def inside(self):
        pid = os.fork()
        if pid:
            while True:
                ended, status = os.waitpid(-1, 0)
                if ended == pid:
                    os._exit(os.waitstatus_to_exitcode(status) & 255)

class Network(Wall):
    flags = linux.CLONE_NEWNET
    def outside(self, pid):
        for command in (f"ip link add outer0 type veth peer name inner0 netns {pid}", "ip address add 10.0.0.1/24 dev outer0",
                        "ip link set outer0 up"):
            subprocess.run(command.split(), check=True)
    def close(self):
        subprocess.run("ip link delete outer0".split(), check=False, stderr=subprocess.DEVNULL)

class Cgroup(Wall):
    def __init__(self, limit):
        self.limit = limit
    def outside(self, pid):
        os.mkdir("/sys/fs/cgroup/memory/box")
        open("/sys/fs/cgroup/memory/box/memory.limit_in_bytes", "w").write(str(self.limit))
        open("/sys/fs/cgroup/memory/box/cgroup.procs", "w").write(str(pid))
    def close(self):
        os.rmdir("/sys/fs/cgroup/memory/box")
'''


@pytest.fixture(scope="module")
def keeper():
    with Keeper() as keeper:
        yield keeper


@pytest.fixture
def machine(keeper):
    files = {"/course/stages/__init__.py": "", "/course/stages/sketch.py": SKETCH}
    for stage in course.stages():
        files[f"/course/stages/{stage.stem}.py"] = course.reference(stage)
    with Machine(keeper, "sketch", "1", files, rootfs.cached(), delegate=True) as machine:
        machine.allow(10)
        yield machine


def test_a_mount_wall_with_an_init(machine):
    walls = [machine.made("sketch.Mounts", machine.rootfs), machine.made("sketch.Init")]
    machine.call("stage00_process.launch", machine.probe(), walls)
    probe = machine.meet()
    status = probe.process.status()
    assert status["NSpid"].split()[-1] == "2"
    assert probe.process.namespaces()["mnt"] != machine.runner.namespaces()["mnt"]
    assert {line.split()[4] for line in Path(f"/proc/{probe.process.pid}/mountinfo").read_text().splitlines()} == {
        "/",
        "/proc",
    }
    assert probe.ask("echo /proc/[0-9]*") == "/proc/1 /proc/2"
    probe.tell("exit 7")
    assert machine.outcome().returned == 7
    assert not machine.left()


def test_a_network_wall(machine):
    machine.call("stage00_process.launch", machine.probe(), [machine.made("sketch.Network")])
    probe = machine.meet()
    assert probe.process.namespaces()["net"] != machine.runner.namespaces()["net"]
    links = {
        line.split(":")[0].strip()
        for line in Path(f"/proc/{probe.process.pid}/net/dev").read_text().splitlines()
        if ":" in line
    }
    assert "inner0" in links
    probe.tell("exit 0")
    assert machine.outcome().returned == 0
    assert "outer0" not in Path(f"/proc/{machine.runner.pid}/net/dev").read_text()


def test_a_cgroup_wall(machine, keeper):
    if keeper.cgroup != "v1":
        pytest.skip("no v1 memory cgroup can be handed to a host here")
    machine.call("stage00_process.launch", machine.probe(), [machine.made("sketch.Cgroup", 64 * 2**20)])
    probe = machine.meet()
    group = next(
        line.split(":")[2]
        for line in Path(f"/proc/{probe.process.pid}/cgroup").read_text().splitlines()
        if ":memory:" in line
    )
    assert group.endswith("/box")
    assert Path(f"/sys/fs/cgroup/memory{group}/memory.limit_in_bytes").read_text().strip() == str(64 * 2**20)
    probe.tell("x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done")
    assert machine.outcome().returned == 137
