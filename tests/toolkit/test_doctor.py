"""The doctor: tries everything, hangs on nothing, leaves nothing, and knows why no host can be made here.

The causes that can be made to happen on any machine are made to happen; the others are put in its way.
"""

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import pytest

from thinwalls import cli, course, doctor, report
from thinwalls.doctor import LIMITED, MISSING, OK, Capability


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)


def test_every_capability_has_a_row_and_every_lack_a_mend(tmp_path):
    rows = doctor.examine()
    names = [row.name for row in rows]
    assert names == [
        "Python", "packages", "kernel", "architecture", "throwaway host", "user ids", "memory bound", "small rootfs",
        "disk: cache", "disk: checkout", "overlayfs", "ip", "nft", "QEMU",
    ]  # fmt: skip
    for row in rows:
        assert row.state in (OK, LIMITED, MISSING)
        assert row.found
        assert bool(row.mend) == (row.state != OK), row
        assert set(row.stages) <= set(doctor.EVERY)
        assert "check broke" not in row.found
    assert doctor.able(rows), "the tests themselves need what the stages need"
    text = doctor.as_text(rows)
    for line in text.splitlines():
        assert len(line) <= report.width() or len(line.split()) == 1, (
            "only a word that cannot be broken, a path, is longer"
        )
    assert list(tmp_path.iterdir()) == [], "it leaves nothing behind"
    body = json.loads(doctor.as_json(rows))
    assert body["able"] is True
    assert [row["name"] for row in body["capabilities"]] == names


@pytest.mark.parametrize(
    ("row", "status"),
    [
        (Capability("x", OK, "found", doctor.EVERY), 0),
        (Capability("x", LIMITED, "found", doctor.EVERY, "mend"), 0),
        (Capability("x", MISSING, "found", (), "mend"), 0),
        (Capability("x", MISSING, "found", ("06",), "mend"), 0 if len(course.stages()) < 7 else 3),
        (Capability("x", MISSING, "found", ("01",), "mend"), 3),
    ],
)
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_the_exit_status_counts_what_existing_stages_need(monkeypatch, capsys, row, status, options):
    monkeypatch.setattr(doctor, "examine", lambda: [row])
    assert cli.main(["doctor", *options]) == status
    out = capsys.readouterr().out
    assert "found" in out
    assert ("mend" in out) == (options == ["--json"] or row.state != OK)


def test_a_check_that_hangs_is_ended_with_all_it_started(monkeypatch, tmp_path):
    def _hangs(scratch):
        (tmp_path / "pid").write_text(str(subprocess.Popen(["sleep", "60"]).pid))
        time.sleep(60)

    def _breaks(scratch):
        raise RuntimeError("by chance")

    monkeypatch.setattr(doctor, "_CHECKS", (_hangs, _breaks))
    monkeypatch.setattr(doctor, "_PATIENCE", 0.5)
    hung, broken = doctor.examine()
    assert (hung.name, hung.state) == ("hangs", MISSING)
    assert "no answer" in hung.found
    assert "RuntimeError: by chance" in broken.found
    left = Path("/proc", (tmp_path / "pid").read_text(), "stat")
    for _ in range(100):
        if not left.exists() or left.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.01)
    pytest.fail("what the check had started still runs")


def test_no_place_for_temporary_files_is_a_row(monkeypatch):
    def refuse(**_):
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr("tempfile.TemporaryDirectory", refuse)
    (row,) = doctor.examine()
    assert (row.name, row.state) == ("temporary files", MISSING)


def test_a_full_or_forbidden_disk_is_seen(monkeypatch, tmp_path):
    monkeypatch.setattr("shutil.disk_usage", lambda path: os.terminal_size((0, 0)) and type("U", (), {"free": 10**6})())
    assert [row.state for row in doctor._disk(tmp_path)] == [MISSING, MISSING]
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert doctor._disk(tmp_path)[0].mend.endswith("set XDG_CACHE_HOME to a directory that is yours.")


# Why no host can be made. Each of these asks in a process in which it is so.

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
CLONE, UNSHARE, MOUNT = {"x86_64": (56, 272, 165), "aarch64": (220, 97, 40)}.get(platform.machine(), (0, 0, 0))


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
    ("numbers", "flag", "what"), [((CLONE, UNSHARE), 0x10000000, "user namespaces"), ((MOUNT,), 0, "mounts")]
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
    monkeypatch.setattr(doctor, "_setting", lambda name: value if name == setting else "")
    monkeypatch.setattr(doctor, "_inside", lambda *_: "unshare(CLONE_NEWUTS): Operation not permitted")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    cause, mend = doctor._cause()
    assert says in cause
    assert f"sudo sysctl -w {setting}=" in mend


def test_a_chroot_is_recognised(monkeypatch):
    monkeypatch.setattr(doctor, "_inside", lambda *_: "clone(CLONE_NEWUSER): Operation not permitted")
    monkeypatch.setattr(doctor, "_mount_points", lambda: ["/proc", "/dev"])
    assert "in a chroot" in doctor._cause()[0]


def test_an_unknown_cause_is_told_as_it_was_said(monkeypatch):
    monkeypatch.setattr(doctor, "_cause", lambda: ("", ""))
    assert (
        doctor.why_no_host("mount: no such luck")
        == "mount: no such luck To mend it: show this line to whoever runs this machine."
    )
    assert "setuid root" in doctor.why_no_host("newuidmap: write failed")
