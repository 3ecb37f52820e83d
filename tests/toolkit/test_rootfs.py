"""The small root file system: built from this machine, cached, whole or not at all."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_host import CHECKOUT, ask, guest

from thinwalls import rootfs
from thinwalls.host import Keeper


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    tmp_path.chmod(0o755)
    return tmp_path / "cache" / "thinwalls"


def run_in(root: str, line: str) -> str:
    import os

    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.chroot(root)
            os.chdir("/")
            os.dup2(write, 1)
            os.dup2(write, 2)
            os.execve("/bin/sh", ["sh", "-c", line], {"PATH": "/bin"})
        except OSError as error:
            os.write(write, str(error).encode())
        finally:
            os._exit(126)
    os.close(write)
    text = b""
    while part := os.read(read, 4096):
        text += part
    os.close(read)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return f"{status} {text.decode()}"


def test_every_program_of_it_runs_when_it_is_the_root_of_a_host_process(cache):
    with Keeper() as keeper, guest(keeper, run_in, rootfs=rootfs.cached()) as host:
        assert ask(host, run_in, "/srv/rootfs", "echo hello; exit 7") == "7 hello\n"
        line = "mkdir /tmp/d && cd /tmp/d && pwd && ls / && cat /etc/os-release && id -u && env && sleep 0 && exit 3"
        said = ask(host, run_in, "/srv/rootfs", line)
        assert said.startswith("3 /tmp/d\n")
        for word in ("bin", "etc", "tmp", "NAME=", "\n0\n", "PATH=/bin"):
            assert word in said
        assert "not found" not in said


def test_it_lies_in_the_cache_and_is_built_once(cache):
    began = time.monotonic()
    first = Path(rootfs.cached())
    built = time.monotonic() - began
    assert built < 3, "well under a second, on a machine that does nothing else"
    assert first.parent == cache
    assert re.fullmatch(r"rootfs-[0-9a-f]{16}-[0-9a-f]{8}", first.name)
    marker = first / "bin/sh"
    inode = marker.stat().st_ino
    began = time.monotonic()
    assert Path(rootfs.cached()) == first
    assert time.monotonic() - began < 0.1
    assert marker.stat().st_ino == inode
    assert [path.name for path in cache.iterdir()] == [first.name]
    assert first.stat().st_mode & 0o777 == 0o755
    assert (first / "tmp").stat().st_mode & 0o7777 == 0o1777
    assert all((first / "bin" / name).stat().st_mode & 0o111 for name in rootfs.PROGRAMS)
    assert not [path for path in first.rglob("*") if path.is_symlink()]


@pytest.mark.parametrize("name", ["etc/passwd", "etc/hosts", "bin/sh", "tmp"])
def test_one_that_was_written_to_is_not_used(cache, name):
    first = Path(rootfs.cached())
    if name == "tmp":
        (first / name).chmod(0o700)
    else:
        (first / name).write_text("somebody else's")
    second = Path(rootfs.cached())
    assert [path.name for path in cache.iterdir()] == [second.name]
    assert (second / "etc/passwd").read_text().startswith("root:")
    assert (second / "bin/sh").read_bytes().startswith(b"\x7fELF")
    assert (second / "tmp").stat().st_mode & 0o7777 == 0o1777
    assert not (second / "etc/hosts").exists()
    assert Path(rootfs.cached()) == second


def test_without_the_variable_it_is_below_home(tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Path(rootfs.cached(("true",))).parent == tmp_path / ".cache" / "thinwalls"


def test_other_programs_or_another_version_of_one_are_another_root(cache, tmp_path, monkeypatch):
    tools = tmp_path / "tools"
    tools.mkdir()
    shutil.copy(shutil.which("true", path="/usr/bin:/bin") or "", tools / "tool")
    monkeypatch.setattr(rootfs, "_SEARCH", f"{tools}:{rootfs._SEARCH}")
    found = {rootfs.cached(("tool",)), rootfs.cached(("tool", "sh"))}
    os.utime(tools / "tool", (1, 1))
    found.add(rootfs.cached(("tool",)))
    assert len(found) == 3
    assert rootfs.cached(("tool",)) in found


def test_a_missing_program_is_a_sentence(cache):
    with pytest.raises(
        rootfs.Unbuildable,
        match="this machine has no program 'no-such-program', which the small root file system needs",
    ):
        rootfs.cached(("sh", "no-such-program"))
    assert not cache.exists() or list(cache.iterdir()) == []


def test_a_failed_build_leaves_nothing(cache, monkeypatch):
    def fail(target: str, programs: tuple[str, ...]) -> None:
        Path(target, "half").write_text("")
        raise OSError("the disk is full")

    monkeypatch.setattr(rootfs, "build", fail)
    with pytest.raises(OSError, match="the disk is full"):
        rootfs.cached()
    assert list(cache.iterdir()) == []


def test_a_script_or_a_static_program_needs_no_libraries(cache, tmp_path, monkeypatch):
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "script").write_text("#!/bin/sh\nexit 0\n")
    (tools / "script").chmod(0o755)
    monkeypatch.setattr(rootfs, "_SEARCH", f"{tools}:{rootfs._SEARCH}")
    made = Path(rootfs.cached(("script",)))
    assert (made / "bin/script").read_text().startswith("#!")


BUILD = "import sys; sys.path.insert(0, sys.argv[1]); from thinwalls import rootfs; print(rootfs.cached())"


def test_many_builders_at_once_agree(cache):
    command = [sys.executable, "-B", "-c", BUILD, str(CHECKOUT)]
    builders = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(6)]
    said = [builder.communicate(timeout=30) for builder in builders]
    assert {error for _, error in said} == {""}
    assert len({out for out, _ in said}) == 1
    made = Path(said[0][0].strip())
    assert [path.name for path in cache.iterdir()] == [made.name]
    assert all((made / "bin" / name).exists() for name in rootfs.PROGRAMS)


def test_nothing_of_it_depends_on_the_callers_environment(cache, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/nowhere")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    old = os.umask(0o077)
    try:
        made = Path(rootfs.cached(("sh", "true")))
    finally:
        os.umask(old)
    assert (made / "bin/sh").exists()
    # as root a host reads it with ids that are nobody's: what is in it must be for everybody
    for path in made.rglob("*"):
        assert path.stat().st_mode & 0o004, path
        assert not path.is_dir() or path.stat().st_mode & 0o001, path
