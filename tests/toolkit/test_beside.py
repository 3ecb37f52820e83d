"""The container beside somebody else's: what is printed is what the kernel says, and afterwards nothing is left."""

import os
import shutil
from pathlib import Path

import machine_state
import pytest

from thinwalls import beside, xray
from thinwalls.host import Keeper

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def nothing_is_left():
    with Keeper():
        pass
    before, engines = machine_state.snapshot(), of_engines()
    yield
    assert machine_state.difference(before, machine_state.settled(before)) == []
    assert of_engines() == engines
    assert [path for path in Path("/tmp").glob("thinwalls-beside-*") if path.stat().st_uid == os.geteuid()] == []


def of_engines():
    """What a podman of root's makes for all of its containers, and leaves."""
    return {*Path("/sys/fs/cgroup").glob("*/libpod_parent"), *Path("/sys/fs/cgroup").glob("libpod_parent")}


def rows(printed):
    """label -> the words of its row, for the rows that have one for each column."""
    lines = printed.splitlines()
    names = lines[0].split()[1:]
    labels = {xray.label(wall): wall for wall in xray.WALLS}
    found = {}
    for line in lines[1 : 1 + len(labels)]:
        label = line[:14].strip()
        found[labels[label]] = dict(zip(names, line[14:].split(), strict=True))
    assert list(found) == list(xray.WALLS)
    return found


def test_the_whole_container_has_its_walls(capsys):
    given = beside.show("solutions", ())
    printed = capsys.readouterr().out
    found = rows(printed)
    assert given == {"yours": {wall: states["yours"] for wall, states in found.items()}}
    for wall in ("user", "pid", "mount", "root", "uts", "ipc", "net", "capabilities", "no_new_privs"):
        assert found[wall] == {"yours": "own"}
    assert "capabilities, yours: effective, bounding: all but" in printed


@pytest.mark.skipif(not shutil.which("podman"), reason="podman is not installed")
def test_podman_leaves_nothing_in_the_callers_places(capsys, tmp_path, monkeypatch):
    def mine():
        return {
            path for path in Path("/tmp").iterdir() if path.lstat().st_uid == os.geteuid() and "podman" in path.name
        }

    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    home, before = tmp_path / "home", mine()
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    beside.show("solutions", ("podman",))
    printed = capsys.readouterr().out
    assert rows(printed)["pid"] == {"yours": "own", "podman": "own"}
    assert list(home.iterdir()) == [] and mine() == before
    assert [path.name for path in tmp_path.iterdir() if path.name not in ("home", "cache")] == []


@pytest.mark.skipif(not shutil.which("bwrap"), reason="bubblewrap is not installed")
def test_a_peer_that_is_here_is_looked_at(capsys):
    beside.show("solutions", ("bwrap",))
    printed = capsys.readouterr().out
    if "did not run here" in printed:
        pytest.skip(printed.splitlines()[-1])
    assert {wall: found["bwrap"] for wall, found in rows(printed).items() if wall in ("pid", "net", "seccomp")} == {
        "pid": "own",
        "net": "own",
        "seccomp": "off",
    }


def test_a_peer_that_is_missing_is_shown_as_it_was_recorded(capsys, monkeypatch):
    monkeypatch.setattr(beside, "_SEARCH", "/nowhere")
    beside.show("solutions")
    printed = capsys.readouterr().out
    found = rows(printed)
    assert found["seccomp"]["podman"] == "own" and found["seccomp"]["bwrap"] == "off"
    for peer in ("podman", "bwrap"):
        assert (
            f"{peer} did not run here, and is shown as it was recorded on Debian 12, by root: it is not on" in printed
        )


def test_where_nothing_is_built_that_is_said(capsys, tmp_path):
    assert beside.show(str(tmp_path)) == {}
    assert "There is no container to look at: " in capsys.readouterr().out
