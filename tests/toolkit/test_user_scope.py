"""Where only systemd can give an unprivileged user a cgroup, the keeper is started by way of systemd-run(1).

A program of that name stands for the real one here, which needs a manager that runs as this user: it shows how it is
called, what becomes of the keeper, and what happens if it fails. That a group comes of it takes a systemd.
"""

import os
import socket
import stat
from pathlib import Path

import pytest

from thinwalls import doctor
from thinwalls.host import Host, HostError, Keeper, limits, start

WORKS = '#!/bin/sh\nprintf "%s\\n" "$@" >"$0.called"\nwhile [ "$1" != -- ]; do shift; done\nshift\nexec "$@"\n'
REFUSES = (
    '#!/bin/sh\necho called >>"$0.called"\necho "Failed to start transient scope unit: no such luck" >&2\nexit 1\n'
)
SILENT = "#!/bin/sh\nexec sleep 60\n"


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """Write a systemd-run, in a directory that is searched first; nothing else about this machine is made up."""

    def write(text: str) -> Path:
        path = tmp_path / "bin" / "systemd-run"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")
        words = [str(path), "--user", "--scope", "--"]
        monkeypatch.setattr(limits, "user_scope", lambda: words)
        return path

    monkeypatch.setattr(Keeper, "no_scope", "")
    return write


def test_the_keeper_is_started_by_it_and_is_as_ever(tool, monkeypatch):
    monkeypatch.setenv("SECRET", "of the grader's")
    path = tool(WORKS)
    with Keeper() as keeper:
        assert keeper.cgroup in ("v1", "v2", None)
        called = path.with_name("systemd-run.called").read_text().splitlines()
        assert called[:3] == ["--user", "--scope", "--"]
        process = Path("/proc", str(keeper._process.pid))
        environment = process.joinpath("environ").read_text().split("\0")
        assert {each.partition("=")[0] for each in environment} <= {"", "PATH", "LANG", "LD_LIBRARY_PATH"}
        assert process.joinpath("cmdline").read_text().split("\0")[1:4] == ["-I", "-S", "-"]
        assert os.readlink(process / "fd/2") == os.readlink("/proc/self/fd/2"), "its errors are seen"
        assert os.getsid(keeper._process.pid) == keeper._process.pid
        assert len(list(process.joinpath("fd").iterdir())) <= 4, "nothing is left open in it that a host would inherit"
        with Host(keeper) as host:
            assert host.runner
        assert keeper.scope
        assert Keeper.no_scope == ""
    assert not process.exists()


def test_one_that_fails_changes_nothing_and_is_asked_once(tool):
    path = tool(REFUSES)
    for _ in range(2):
        with Keeper() as keeper, Host(keeper) as host:
            assert host.runner
            assert not keeper.scope
    assert Keeper.no_scope == "Failed to start transient scope unit: no such luck"
    assert path.with_name("systemd-run.called").read_text() == "called\n"


def test_one_that_hangs_is_given_up(tool, monkeypatch):
    tool(SILENT)
    monkeypatch.setattr("thinwalls.host._PATIENCE", 0.3)
    with Keeper() as keeper:
        asked = keeper._process
        assert keeper.cgroup in ("v1", "v2", None)
        assert asked.poll() is not None
        assert not keeper.scope
    assert "exit status" in Keeper.no_scope


def test_a_keeper_that_dies_without_it_is_still_an_error(monkeypatch):
    monkeypatch.setattr(limits, "user_scope", list)
    keeper = Keeper()
    keeper._process.kill()
    with pytest.raises(HostError, match="has died"):
        _ = keeper.cgroup
    keeper.close()


def test_the_doctor_says_what_it_said(tool, tmp_path):
    tool(REFUSES)
    row = next(row for row in doctor._host(tmp_path) if row.name == "memory bound")
    if row.state == doctor.LIMITED:
        assert "(systemd-run: Failed to start transient scope unit: no such luck)" in row.found
    else:
        assert "scope" not in row.found


# When it is asked at all: told by files alone.


@pytest.fixture
def desktop(tmp_path, monkeypatch):
    """A user on cgroup v2 alone who can make no group, and a manager that listens."""
    (tmp_path / "systemd").mkdir()
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "systemd/private"))
    tool = tmp_path / "systemd-run"
    tool.write_text("")
    tool.chmod(0o755)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(limits, "_own_directories", lambda: {"": tmp_path / "none"})
    yield tmp_path
    listening.close()


def test_it_is_asked_where_nothing_else_is_left(desktop):
    words = limits.user_scope()
    assert words[0] == f"{desktop}/systemd-run"
    assert words[-1] == "--"
    assert {"--user", "--scope", "--collect", "--property=Delegate=yes"} <= set(words)


@pytest.mark.parametrize("but", ["root", "v1", "a group can be made", "no manager", "no systemd-run"])
def test_it_is_not_asked_where(desktop, monkeypatch, but):
    match but:
        case "root":
            monkeypatch.setattr(os, "geteuid", lambda: 0)
        case "v1":
            monkeypatch.setattr(limits, "_own_directories", lambda: {"memory": desktop})
        case "a group can be made":
            monkeypatch.setattr(limits, "_parents", lambda home: {"": desktop})
        case "no manager":
            (desktop / "systemd/private").unlink()
        case "no systemd-run":
            (desktop / "systemd-run").unlink()
    assert limits.user_scope() == []


def test_nobody_but_systemd_makes_groups_in_its_slices(tmp_path, monkeypatch):
    """A directory tree stands for a cgroupfs: what is written, and where, is what is looked at."""
    scope = tmp_path / "user@1000.service/app.slice/run-r1.scope"
    for directory in (scope, scope.parent):
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "cgroup.procs").write_text("")
        (directory / "cgroup.controllers").write_text("")
        (directory / "cgroup.subtree_control").write_text("memory pids")
    monkeypatch.setattr(limits, "_TOP", tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert limits._parents({"": scope}) == {"": scope}
    assert limits._parents({"": scope.parent}) == {}
    assert (scope.parent / "cgroup.subtree_control").read_text() == "memory pids"
    # Where there are processes nothing is enabled: cpu and pids would be, and memory not.
    (scope / "cgroup.controllers").write_text("cpu memory pids")
    (scope / "cgroup.subtree_control").write_text("")
    (scope / "cgroup.procs").write_text("17\n")
    assert limits._parents({"": scope}) == {}
    assert (scope / "cgroup.subtree_control").read_text() == ""


def test_a_command_that_ends_before_it_listens_is_told():
    import subprocess

    process = subprocess.Popen(["sh", "-c", "echo first >&2; echo last >&2"], stderr=subprocess.PIPE)
    process.wait()
    assert start.said(process) == "last"
