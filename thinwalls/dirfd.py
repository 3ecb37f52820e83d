"""What is done to a name in a directory that is held by its descriptor: the dull half of putting files in place.

A path can be led elsewhere by a link between two looks at it. A descriptor cannot: what is here follows no link at a
name, and no path but from a root that openat2(2) does not leave.
"""

import contextlib
import os
import stat
import tarfile
from collections.abc import Collection, Iterator

from thinwalls import linux

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY


def open_directory(root: int, path: str) -> int:
    """Open a directory as a process would that is chrooted to ``root``; gives a descriptor.

    root: a descriptor. path: links on it are followed, inside the root; "" is the root. Directories that are missing
    are made, with mode 755. A link that leads nowhere inside is a FileExistsError, a file on the way a
    NotADirectoryError.
    """
    try:
        return linux.open_in_root(root, path or ".", _DIRECTORY)
    except FileNotFoundError:
        os.close(linux.mount_point_in_root(f"/proc/self/fd/{root}", path))
        return linux.open_in_root(root, path, _DIRECTORY)


def is_directory(parent: int, name: str) -> bool:
    """Whether a directory is there, and not a link to one."""
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def remove(parent: int, name: str, kept: Collection[tuple[int, str]] = ()) -> None:
    """Remove what is at a name, with all that is below it. What is not there is no error.

    kept: what stays, each as the inode of a directory and a name in it. A directory stays if something in it does.
    """
    stays = bool(kept) and (os.fstat(parent).st_ino, name) in kept
    if not is_directory(parent, name):
        if not stays:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=parent)
        return
    directory = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    try:
        for child in os.listdir(directory):
            remove(directory, child, kept)
        empty = not os.listdir(directory)
    finally:
        os.close(directory)
    if empty and not stays:
        os.rmdir(name, dir_fd=parent)


def make_room(parent: int, name: str, for_directory: bool) -> bool:
    """Remove what is at a name, unless it is a directory and one is wanted there. Gives whether it stays."""
    stays = for_directory and is_directory(parent, name)
    if not stays:
        remove(parent, name)
    return stays


def set_attributes(parent: int, name: str, attributes: dict[str, bytes]) -> None:
    """Give extended attributes, xattr(7), to what is at a name; those that the kernel refuses here are left out."""
    for key, value in attributes.items():
        with contextlib.suppress(OSError):  # setxattr(2) knows no dir_fd
            os.setxattr(f"/proc/self/fd/{parent}/{name}", key, value, follow_symlinks=False)


class Times:
    """Modification times. What is made in a directory changes the directory's, so theirs are set at the end."""

    def __init__(self, root: int):
        """root: a descriptor of the directory that all paths start from."""
        self._root = root
        self._times: dict[int, tuple[str, int]] = {}  # inode -> path, nanoseconds

    def keep(self, path: str, directory: int) -> None:
        """A directory is to have the time that it has now, unless it has been named before.

        path: of the directory, from the root, as the layer has it ("usr/bin"; "" is the root). directory: a descriptor
        of it.
        """
        found = os.fstat(directory)
        self._times.setdefault(found.st_ino, (path, found.st_mtime_ns))

    def set(self, parent: int, name: str, entry: tarfile.TarInfo) -> None:
        """What was made of an entry is to have the entry's time: a directory at the end, anything else now."""
        time = int(entry.mtime * 10**9)
        if entry.isdir():
            inode = os.stat(name, dir_fd=parent, follow_symlinks=False).st_ino
            self._times[inode] = entry.name, time
        else:
            os.utime(name, ns=(time, time), dir_fd=parent, follow_symlinks=False)

    def settle(self) -> None:
        """Give the directories their times, and forget them. What is gone, or another one by now, is left out."""
        for inode, (path, time) in self._times.items():
            with contextlib.suppress(OSError), self._opened(path) as directory:
                if os.fstat(directory).st_ino == inode:
                    os.utime(directory, ns=(time, time))
        self._times.clear()

    @contextlib.contextmanager
    def _opened(self, path: str) -> Iterator[int]:
        directory = linux.open_in_root(self._root, path or ".", _DIRECTORY)
        try:
            yield directory
        finally:
            os.close(directory)
