"""A small root file system made from this machine's own programs and their libraries: nothing to download.

It is what the first stages stand in, until stage 6 pulls a real image.
"""

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

PROGRAMS = ("sh", "cat", "ls", "echo", "env", "id", "mkdir", "mount", "pwd", "sleep", "true")
_DIRECTORIES = ("bin", "dev", "etc", "proc", "root", "run", "sys", "tmp", "usr/bin", "var")
_SEARCH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_STALE = 60  # seconds after which an unfinished build is nobody's any more
_VERSION = "1"  # of what build() makes: a change of it makes old copies stale


class Unbuildable(OSError):
    """This machine lacks a program that the root file system is made of."""


def cached(programs: tuple[str, ...] = PROGRAMS) -> str:
    """The path of a root file system with these programs in /bin, built on first use; to be read, not written.

    It lies in $XDG_CACHE_HOME/thinwalls (~/.cache/thinwalls), under a name that changes with the programs' files, and
    that says what was built: one that somebody has written to is not used, and goes. Raises Unbuildable.
    """
    files = {name: _find(name) for name in programs}
    key = hashlib.sha256(_VERSION.encode())
    for name, path in files.items():
        found = os.stat(path)
        key.update(f"{name} {path} {found.st_size} {found.st_mtime_ns}\n".encode())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "thinwalls")
    prefix = f"rootfs-{key.hexdigest()[:16]}-"
    for tree in cache.glob(f"{prefix}*"):
        if tree.name == prefix + _content(tree):
            return str(tree)
        shutil.rmtree(tree, ignore_errors=True)
    cache.mkdir(parents=True, exist_ok=True)
    _sweep(cache)
    fresh = Path(tempfile.mkdtemp(prefix=".rootfs-", dir=cache))
    try:
        build(str(fresh), programs)
        rootfs = cache / (prefix + _content(fresh))
        with contextlib.suppress(OSError):  # somebody else was faster: theirs is as good
            os.rename(fresh, rootfs)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return str(rootfs)


def _content(tree: Path) -> str:
    """A short name for what a tree holds: whatever is made, changed or removed in it changes that."""
    key = hashlib.sha256()
    for path in sorted(tree.rglob("*")):
        with contextlib.suppress(FileNotFoundError):
            found = path.lstat()
            key.update(f"{path.relative_to(tree)} {found.st_mode:o} {found.st_size} {found.st_mtime_ns}\n".encode())
    return key.hexdigest()[:8]


def _sweep(cache: Path) -> None:
    """Remove what a build that was killed has left; a build takes well under a second."""
    for left in cache.glob(".rootfs-*"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _STALE:
                shutil.rmtree(left, ignore_errors=True)


def build(target: str, programs: tuple[str, ...] = PROGRAMS) -> None:
    """Fill the empty directory ``target`` with a root file system. Raises Unbuildable."""
    root = Path(target)
    root.chmod(0o755)
    for name in _DIRECTORIES:
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "tmp").chmod(0o1777)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\n")
    (root / "etc/os-release").write_text(
        'NAME="Thin Walls"\nID=thinwalls\nPRETTY_NAME="a root file system of this machine\'s own programs"\n'
    )
    for name in programs:
        path = _find(name)
        shutil.copy(path, root / "bin" / name)
        for library in _libraries(path):
            there = root / library.lstrip("/")
            if not there.exists():
                there.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(library, there)
    for there in root.rglob("*"):  # whatever the umask was: root's hosts read it with ids that are nobody's
        there.chmod(there.stat().st_mode | (0o755 if there.is_dir() else 0o444))
        os.utime(there, (0, 0))  # so that what is changed afterwards shows


def _find(name: str) -> str:
    path = shutil.which(name, path=_SEARCH)
    if path is None:
        raise Unbuildable(f"this machine has no program {name!r}, which the small root file system needs")
    return os.path.realpath(path)


def _libraries(program: str) -> list[str]:
    """The shared libraries of a program of this machine, its loader among them, as ldd(1) names them."""
    listing = subprocess.run(["ldd", program], capture_output=True, text=True, env={"PATH": _SEARCH, "LC_ALL": "C"})
    if listing.returncode and "not a dynamic executable" not in listing.stderr:
        raise Unbuildable(f"ldd {program}: {listing.stderr.strip()}")
    return re.findall(r"(?:^\s*|=> )(/\S+) \(0x", listing.stdout, re.MULTILINE)
