"""What is done at a name in a directory stays in that directory, whatever links there are."""

import contextlib
import os
import tarfile

import pytest

from thinwalls import dirfd


@pytest.fixture
def root(tmp_path):
    """A descriptor of tmp_path/root, beside which is an outside with a file."""
    (tmp_path / "root").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_text("mine")
    found = os.open(tmp_path / "root", os.O_RDONLY | os.O_DIRECTORY)
    yield found
    os.close(found)
    assert (tmp_path / "outside" / "file").read_text() == "mine"


@contextlib.contextmanager
def opened(root, path):
    found = dirfd.open_directory(root, path)
    try:
        yield os.readlink(f"/proc/self/fd/{found}")
    finally:
        os.close(found)


def test_a_directory_is_opened_and_made_where_it_is_missing(root, tmp_path):
    with opened(root, "a/b/c") as path:
        assert path == str(tmp_path / "root/a/b/c")
    assert (tmp_path / "root/a").stat().st_mode & 0o777 == 0o755
    with opened(root, "") as path:
        assert path == str(tmp_path / "root")


@pytest.mark.parametrize("leads", ["/deep", "../../../../deep"])
def test_a_link_on_the_way_is_followed_inside_the_root(root, tmp_path, leads):
    (tmp_path / "root/deep").mkdir()
    os.symlink(leads, tmp_path / "root/link")
    with opened(root, "link/below") as path:
        assert path == str(tmp_path / "root/deep/below")


def test_a_link_to_the_outside_leads_nowhere(root, tmp_path):
    os.symlink(tmp_path / "outside", tmp_path / "root/link")
    with pytest.raises(FileExistsError):
        dirfd.open_directory(root, "link/below")
    (tmp_path / "root/file").write_text("")
    with pytest.raises(NotADirectoryError):
        dirfd.open_directory(root, "file/below")


def test_what_is_in_the_way_goes_but_a_directory_for_a_directory(root, tmp_path):
    os.makedirs(tmp_path / "root/full/deep")
    os.symlink(tmp_path / "outside", tmp_path / "root/full/link")
    assert dirfd.make_room(root, "full", for_directory=True) is True
    assert dirfd.make_room(root, "full", for_directory=False) is False
    os.symlink(tmp_path / "outside", tmp_path / "root/link")
    assert dirfd.make_room(root, "link", for_directory=True) is False
    assert dirfd.make_room(root, "never-there", for_directory=True) is False
    assert os.listdir(root) == []


def test_what_is_to_be_kept_stays_with_the_directories_around_it(root, tmp_path):
    place = tmp_path / "root/top"
    os.makedirs(place / "sub/empty")
    for name in ("old", "sub/old", "sub/new"):
        (place / name).write_text("")
    os.makedirs(place / "made")
    (place / "made/old").write_text("")
    kept = {(os.stat(place / "sub").st_ino, "new"), (os.stat(place).st_ino, "made"), (0, "old")}
    dirfd.remove(root, "top", kept)
    assert sorted(str(path.relative_to(place)) for path in place.rglob("*")) == ["made", "sub", "sub/new"]
    dirfd.remove(root, "top")
    assert os.listdir(root) == []


def entry(name, kind=tarfile.REGTYPE, time=1_000_000_000.5):
    found = tarfile.TarInfo(name)
    found.type, found.mtime = kind, time
    return found


def test_directories_get_their_times_at_the_end(root, tmp_path):
    os.makedirs(tmp_path / "root/listed/below")
    os.makedirs(tmp_path / "root/kept")
    os.utime(tmp_path / "root/kept", (5, 5))
    times = dirfd.Times(root)
    times.set(root, "listed", entry("listed", tarfile.DIRTYPE))
    kept = dirfd.open_directory(root, "kept")
    times.keep("kept", kept)
    os.close(kept)
    for name in ("listed/file", "kept/file"):
        (tmp_path / "root" / name).write_text("")
    listed = dirfd.open_directory(root, "listed")
    times.set(listed, "file", entry("listed/file", time=7))
    os.close(listed)
    times.settle()
    found = {name: os.stat(tmp_path / "root" / name).st_mtime for name in ("listed", "listed/file", "kept")}
    assert found == {"listed": 1_000_000_000.5, "listed/file": 7, "kept": 5}


def test_a_link_has_a_time_of_its_own(root, tmp_path):
    os.symlink(tmp_path / "outside/file", tmp_path / "root/link")
    before = os.stat(tmp_path / "outside/file").st_mtime_ns
    dirfd.Times(root).set(root, "link", entry("link", tarfile.SYMTYPE))
    assert os.lstat(tmp_path / "root/link").st_mtime == 1_000_000_000.5
    assert os.stat(tmp_path / "outside/file").st_mtime_ns == before


def test_a_directory_that_is_another_by_now_keeps_its_time(root, tmp_path):
    os.mkdir(tmp_path / "root/one")
    times = dirfd.Times(root)
    times.set(root, "one", entry("one", tarfile.DIRTYPE))
    os.rename(tmp_path / "root/one", tmp_path / "root/other")
    os.symlink(tmp_path / "outside", tmp_path / "root/one")
    before = os.stat(tmp_path / "outside").st_mtime_ns
    times.settle()
    assert os.stat(tmp_path / "outside").st_mtime_ns == before


def test_attributes_are_set_on_a_link_itself_and_refused_ones_left_out(root, tmp_path):
    os.symlink(tmp_path / "outside/file", tmp_path / "root/link")
    (tmp_path / "root/file").write_text("")
    dirfd.set_attributes(root, "link", {"user.word": b"x"})  # the kernel refuses it on a link
    assert "user.word" not in os.listxattr(tmp_path / "outside/file")
    try:
        os.setxattr(tmp_path / "outside/file", "user.probe", b"")
        os.removexattr(tmp_path / "outside/file", "user.probe")
    except OSError:
        pytest.skip("this file system has no extended attributes")
    dirfd.set_attributes(root, "file", {"nonsense": b"x", "user.word": b"hello"})
    assert os.getxattr(tmp_path / "root/file", "user.word") == b"hello"
