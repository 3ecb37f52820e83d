"""Why no throwaway host can be made, and what one may lack: the causes that ./walls doctor knows.

Those that can be made to happen on any machine are made to happen; the others are put in its way.
"""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from thinwalls import causes, course, distribution, doctor, facts

# Each of these asks in a process in which it is so.

ASK = [sys.executable, "-B", "-c", "from thinwalls import doctor; print(doctor.why_no_host('it would not'))"]
FILTER = """
import os, struct, sys
from thinwalls import linux
code = [(0x20, 0, 0, 0)]
for number in map(int, sys.argv[1].split(",")):  # where the flag (0: any) is in its argument
    flag = int(sys.argv[2])
    test = [(0x20, 0, 0, 16), (0x45, 0, 1, flag)] if flag else []
    code += [(0x15, 0, len(test) + 1 + (2 if flag else 0), number), *test, (0x06, 0, 0, 0x00050001)]
    code += [(0x06, 0, 0, 0x7FFF0000)] * (2 if flag else 0)
code.append((0x06, 0, 0, 0x7FFF0000))
linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
linux.set_seccomp_filter(b"".join(struct.pack("HBBI", *each) for each in code))
os.execv(sys.argv[3], sys.argv[3:])
"""
CLONE, UNSHARE, MOUNT, SETHOSTNAME = {"x86_64": (56, 272, 165, 170), "aarch64": (220, 97, 40, 161)}.get(
    platform.machine(), (0, 0, 0, 0)
)


def ask(*before: str) -> str:
    """What the doctor says of hosts in a process that was started by way of the command ``before``."""
    done = subprocess.run([*before, *ASK], cwd=course.ROOT, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout


def in_user_namespace(*settings: str) -> list[str]:
    return ["unshare", "-U", "--map-root-user", "sh", "-c", f'{"; ".join(settings) or ":"}; exec "$@"', "sh"]


@pytest.mark.parametrize("kind", ["user", "net"])
def test_a_limit_of_no_namespaces_is_named_with_its_setting(kind):
    said = ask(*in_user_namespace(f"echo 0 > /proc/sys/user/max_{kind}_namespaces"))
    assert f"user.max_{kind}_namespaces is 0" in said
    assert f"sudo sysctl -w user.max_{kind}_namespaces=10000" in said


def test_root_in_a_rootless_container_is_recognised():
    assert "root only in a user namespace" in ask(*in_user_namespace())


def test_a_covered_proc_is_recognised():
    wall = ["unshare", "-mpf", "--mount-proc"]
    if os.geteuid() != 0:
        wall += ["-U", "--map-current-user", "--keep-caps"]
    said = ask(*wall, "sh", "-c", 'mount --bind /dev/null /proc/uptime; exec "$@"', "sh")
    assert "Parts of /proc are covered (/proc/uptime)" in said
    assert "systempaths=unconfined" in said


@pytest.mark.skipif(not CLONE, reason="system call numbers of this architecture are not known here")
@pytest.mark.parametrize(
    ("numbers", "flag", "what"),
    [((CLONE, UNSHARE), 0x10000000, "user namespaces"), ((MOUNT,), 0, "mounts"), ((SETHOSTNAME,), 0, "host names")],
)
def test_a_seccomp_filter_is_recognised(numbers, flag, what):
    said = ask(sys.executable, "-B", "-c", FILTER, ",".join(map(str, numbers)), str(flag))
    assert f"refuses {what}" in said
    assert "seccomp=unconfined" in said


@pytest.mark.parametrize(
    ("setting", "value", "says"),
    [
        ("kernel.unprivileged_userns_clone", "0", "Only root may make user namespaces here"),
        ("kernel.apparmor_restrict_unprivileged_userns", "1", "AppArmor"),
    ],
)
def test_settings_for_unprivileged_users_are_named(monkeypatch, setting, value, says):
    monkeypatch.setattr(causes, "_setting", lambda name: value if name == setting else "")
    monkeypatch.setattr(causes, "inside", lambda *_: "unshare(CLONE_NEWUTS): Operation not permitted")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    found = causes.no_host("it would not")
    assert says in found.cause
    assert f"sudo sysctl -w {setting}=" in found.mend


def test_a_chroot_is_recognised(monkeypatch):
    monkeypatch.setattr(causes, "inside", lambda *_: "clone(CLONE_NEWUSER): Operation not permitted")
    monkeypatch.setattr(causes, "_mounts", lambda: table("/proc proc", "/dev tmpfs"))
    assert "in a chroot" in causes.no_host("it would not").cause


def test_an_unknown_cause_is_told_as_it_was_said(monkeypatch):
    monkeypatch.setattr(causes, "_known", lambda: None)
    assert (
        doctor.why_no_host("mount: no such luck")
        == "mount: no such luck To mend it: show this line to whoever runs this machine."
    )
    said = doctor.why_no_host("newuidmap: write failed")
    assert "setuid root" in said
    assert distribution.install("newuidmap") in said


# What a host may lack.


def table(*lines: str) -> list[facts.Mount]:
    """A mount table: "POINT TYPE" or "POINT TYPE ro" for each mount."""
    mounts = []
    for line in lines:
        point, fstype, *options = line.split()
        mounts.append(facts.Mount(point, "/", frozenset(options or ["rw"]), fstype, False))
    return mounts


SAYS = "from thinwalls import causes; print(*vars(causes.no_cgroup()).values(), sep=chr(10))"
V2, V1 = "/sys/fs/cgroup cgroup2", "/sys/fs/cgroup/memory cgroup"
UNIFIED = "/sys/fs/cgroup/unified cgroup2"


def mounted(script: str) -> str:
    """What is said of cgroups where a shell has made mounts first."""
    command = ["unshare", "-Um", "--map-root-user", "sh", "-euc", f'{script}\nexec "$@"', "sh"]
    command += [sys.executable, "-B", "-c", SAYS]
    done = subprocess.run(command, cwd=course.ROOT, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_no_cgroup_file_system_is_recognised():
    assert "no cgroup file system is mounted" in mounted("mount -t tmpfs covers /sys/fs/cgroup")


@pytest.mark.skipif("cgroup" not in Path("/proc/self/mountinfo").read_text(), reason="no cgroup file system here")
def test_a_read_only_cgroup_file_system_is_recognised():
    each = r"sed -nE 's/^([^ ]+ ){4}([^ ]+) .* - cgroup2? .*/\2/p' /proc/self/mountinfo"
    said = mounted(f"for point in $({each}); do mount -o remount,bind,ro $point; done")
    assert "/sys/fs/cgroup is mounted read-only" in said
    assert "--security-opt writable-cgroups=true" in said
    assert "--security-opt unmask=/sys/fs/cgroup" in said


@pytest.mark.parametrize(
    ("lines", "controllers", "euid", "release", "cause", "mend"),
    [
        ([V1, UNIFIED], [], 1000, "5.15.1-microsoft-standard-WSL2", "the v2 mount /sys/fs/cgroup/unified has", ".wslconfig"),
        ([V2, V1], [], 1000, "5.15.1-microsoft-standard-WSL2", "the v2 mount /sys/fs/cgroup has none", "systemd=true"),
        ([V1, UNIFIED], [], 1000, "5.15.1", "(hybrid)", "systemd.unified_cgroup_hierarchy=1"),
        ([V2], ["cpu", "pids"], 1000, "6.6.1", "no cgroup here has the memory controller", "cgroup_enable=memory"),
        ([V2], ["cpu", "memory", "pids"], 1000, "6.6.1", "no cgroup can be made here", "loginctl user-status"),
        ([V2], ["cpu", "memory", "pids"], 0, "6.6.1", "no cgroup can be made here", "a writable /sys/fs/cgroup"),
        ([V1], [], 1000, "5.15.1", "no cgroup can be made here", "have root hand you a cgroup"),
        ([V2 + " ro", "/sys tmpfs", V2], ["memory"], 1000, "6.6.1", "can be made here (no luck), so", "loginctl"),
    ],
)  # fmt: skip
def test_why_there_is_no_cgroup(monkeypatch, lines, controllers, euid, release, cause, mend):
    monkeypatch.setattr(causes, "_mounts", lambda: table(*lines))
    monkeypatch.setattr(causes, "_controllers", lambda group: controllers)
    monkeypatch.setattr(os, "geteuid", lambda: euid)
    monkeypatch.setattr(platform, "release", lambda: release)
    found = causes.no_cgroup(" (no luck)")
    assert cause in found.cause
    assert "(no luck)" in found.cause
    assert mend in found.mend


def test_the_one_user_id_has_two_causes(monkeypatch):
    there = set()
    monkeypatch.setattr(Path, "exists", lambda self: str(self) in there)
    assert causes.one_id().mend == distribution.install("newuidmap")
    there |= {"/usr/bin/newuidmap", "/usr/bin/newgidmap"}
    assert "sudo usermod --add-subuids 100000-165535" in causes.one_id().mend


def test_the_kind_of_a_file_system_is_that_of_the_last_mount_over_a_path(monkeypatch):
    lines = ["/ ext4", "/data btrfs", "/data/image squashfs", "/data xfs", "/data2 9p"]
    monkeypatch.setattr(causes, "_mounts", lambda: table(*lines))
    for path, kind in (("/data/image/x", "xfs"), ("/data", "xfs"), ("/data2/x", "9p"), ("/elsewhere", "ext4")):
        assert causes.file_system(Path(path)) == kind
