"""./walls start --vm: what it lacks is said with its mend; what it boots is a copy, and hands its exit status on."""

import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from thinwalls import cli, course, machine, vm


@pytest.fixture
def complete(tmp_path, monkeypatch):
    """A machine that has all that it takes: programs of these names, a kernel with its modules, a fitting folder."""
    monkeypatch.setattr(course, "ROOT", Path("/srv/thin-walls"))
    for name in ("vng", f"qemu-system-{os.uname().machine}"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(vm, "_kernel", lambda: "/boot/vmlinuz-6")
    return tmp_path


def refused(capsys, *words):
    assert cli.main(["start", *words]) == cli.UNABLE
    return " ".join(capsys.readouterr().err.split())


def test_what_is_missing_is_named_with_its_mend(complete, capsys):
    (complete / f"qemu-system-{os.uname().machine}").unlink()
    assert "no virtual machine can be started. there is no QEMU here" in refused(capsys, "--vm")
    (complete / "vng").unlink()
    said = refused(capsys, "--vm", "true")
    assert "there is no virtme-ng here" in said and "-m pip install virtme-ng" in said


def test_a_kernel_that_root_alone_may_read_is_told_from_none(monkeypatch):
    monkeypatch.setattr(machine, "kernels", lambda: iter(()))
    monkeypatch.setattr(Path, "glob", lambda *_: iter([Path("/boot/vmlinuz-6")]))
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(vm.Missing, match="root alone: sudo chmod a\\+r /boot/vmlinuz-6"):
        vm._kernel()
    monkeypatch.setattr(Path, "glob", lambda *_: iter(()))
    with pytest.raises(vm.Missing, match="no kernel with its modules"):
        vm._kernel()


def test_a_copy_of_a_kernel_is_booted_where_one_is_named(tmp_path, monkeypatch):
    copy = tmp_path / "vmlinuz-6.1.0-copied"
    monkeypatch.setenv("THINWALLS_KERNEL", str(copy))
    assert str(copy) not in machine.kernels()
    copy.touch()
    assert next(machine.kernels()) == str(copy)
    monkeypatch.setattr(Path, "is_dir", lambda path: path == Path("/lib/modules/6.1.0-copied/kernel"))
    assert vm._kernel() == str(copy)


@pytest.mark.parametrize("slow", ["", "no /dev/kvm"])
def test_the_folder_of_the_course_alone_is_shared_to_be_written(slow, complete, monkeypatch):
    monkeypatch.setattr(machine, "kvm", lambda: slow)
    line = vm.command(["./walls", "check", "a b"])
    assert [word for word in line if "rw" in word and "dir" in word] == [f"--rwdir={course.ROOT}"]
    assert "--rw" not in line
    assert ("--disable-kvm" in line) == bool(slow)
    assert line[-2:] == ["--", f"{vm._GUEST} ./walls check 'a b'"]
    shell = vm.command([])
    assert shell[-1] == f"--shell={vm._GUEST}"
    for each in (line, shell):  # the graders' patience
        assert f"thinwalls.patience={10 if slow else 1}" in each[each.index("--append") + 1].split()


@pytest.mark.parametrize("name", ["a b", "a$(touch pwned)", "a;b", "a(b", "a=b", "a,b", "é", 'a"b', "a\nb"])
def test_a_folder_whose_name_a_shell_would_read_is_refused(name, complete, monkeypatch, capsys):
    """virtme-ng puts the path bare into a line for a shell."""
    monkeypatch.setattr(course, "ROOT", Path("/srv", name))
    assert "Move the course to such a folder" in refused(capsys, "--vm", "true")
    assert "Move the course to such a folder" in refused(capsys, "--vm")
    monkeypatch.setattr(course, "ROOT", Path("/srv/some-one@home/thin_walls-0.1+2"))
    assert "--rwdir=/srv/some-one@home/thin_walls-0.1+2" in vm.command(["true"])


def test_a_folder_that_is_covered_in_the_guest_is_refused(complete, monkeypatch, capsys):
    monkeypatch.setattr(course, "ROOT", Path("/var/tmp/thin-walls"))
    assert "where /var/tmp is another" in refused(capsys, "--vm", "true")
    assert "where /var/tmp is another" in refused(capsys, "--vm")


def test_a_command_is_for_the_virtual_machine_alone(capsys):
    assert cli.main(["start", "./walls"]) == cli.USAGE
    assert "--vm alone" in capsys.readouterr().err


@pytest.mark.skipif(not shutil.which("setpriv"), reason="setpriv is not installed")
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_machine_ends_with_whoever_started_it(sent, tmp_path):
    """In place of virtme-ng a shell, and a sleep in place of QEMU; both have a pipe open, which ends when they do."""
    os.mkfifo(tmp_path / "alive")
    stand_in = ["/bin/sh", "-c", f"exec 9>{tmp_path}/alive; echo up >&9; sleep 60 & wait"]
    script = f"from thinwalls import vm; vm.command = lambda words: {stand_in!r}; vm.main(['true'])"
    started = subprocess.Popen([sys.executable, "-c", script], cwd=course.ROOT, stderr=subprocess.DEVNULL)
    with open(tmp_path / "alive", "rb", buffering=0) as alive:
        assert alive.read(3) == b"up\n"
        started.send_signal(sent)
        assert started.wait(timeout=20) != 0
        assert select.select([alive], [], [], 20)[0], "it still runs"
        assert alive.read(1) == b""


def test_the_exit_status_of_a_command_is_handed_on(monkeypatch, capsys):
    monkeypatch.setattr(vm, "command", lambda words: ["/bin/sh", "-c", "echo said; exit 7"])
    assert vm.main(["true"]) == 7
    assert capsys.readouterr().out == "said\n"


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() == 0, reason="booted in the lane of a user; as root, .ci/second-kernel boots one")
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="not tried yet on aarch64")
@pytest.mark.skipif(not shutil.which("qemu-system-x86_64"), reason="QEMU is not installed")
@pytest.mark.skipif(
    not os.environ.get("CI") and next(machine.kernels(), None) is None, reason="no kernel image here may be read"
)
def test_a_copy_of_this_machine_grades_and_leaves_nothing(tmp_path):
    """One boot: a stage is graded, a file is written beside the course and one into it, and the status comes out."""
    inside, outside = course.ROOT / ".thinwalls-from-a-guest", Path.home() / ".thinwalls-from-a-guest"
    before = set(os.listdir("/tmp"))
    script = "id -u; ./walls check 0 --impl solutions || exit; touch {} {}; exit 7"
    command = [sys.executable, "-P", "-m", "thinwalls.cli", "start", "--vm", "sh", "-c", script.format(inside, outside)]
    try:
        done = subprocess.run(command, cwd=course.ROOT, capture_output=True, text=True, timeout=900)
        assert done.returncode == 7, done.stdout + done.stderr
        assert done.stdout.startswith("0\n") and "9 of 9 points" in done.stdout
        assert inside.exists() and not outside.exists()
    finally:
        inside.unlink(missing_ok=True)
    new = [Path("/tmp", name) for name in set(os.listdir("/tmp")) - before]
    assert [path.name for path in new if path.name.startswith("virtme") and path.stat().st_uid == os.getuid()] == []
