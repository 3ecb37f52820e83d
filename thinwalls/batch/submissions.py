"""Submissions: which there are, and the stage files in each, whatever else it may be.

Nothing is unpacked. An archive is read from front to back, and of its entries only those that are stage files are
kept, in memory. An archive or folder is believed in nothing: each is read by a process of its own, which may take so
much memory and time and no more (setrlimit(2)), so one that is made to take a machine down costs itself only.
"""

import contextlib
import gzip
import hashlib
import json
import os
import resource
import signal
import stat
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NoReturn

from thinwalls import course
from thinwalls.batch import similar

MOST_BYTES = 256 * 2**20  # of an archive, packed or unpacked
MOST_ENTRIES = 20_000  # of an archive or a folder
_MEMORY = 512 * 2**20  # bytes that reading one may take, besides what this process has
_SECONDS = 10  # of processor time
_ARCHIVES = (".tar.gz", ".tgz", ".zip", ".tar")
_OTHERS = (".rar", ".7z", ".gz", ".bz2", ".xz", ".zst")  # archives too, which cannot be read: said of each that comes
_NOT_OURS = ("__MACOSX", "node_modules")  # besides what begins with a dot
LINK, ODD = "link", "odd"


class Unusable(Exception):
    """A submission that cannot be graded; the text says why, and may hold what a hostile archive says."""


class Misnamed(Exception):
    """What was named is not a class; the text says why."""


@dataclass(frozen=True)
class Submission:
    """Something that was handed in. id: its name without the ending of an archive."""

    id: str
    path: Path


@dataclass(frozen=True)
class Content:
    """What is in a submission. files: by the name of the stage file, its text, or LINK or ODD for what is no file.

    problem: why there is nothing, or "". fingerprints: as ``thinwalls.batch.similar`` makes them, by stage id.
    """

    files: dict[str, bytes | str] = field(default_factory=dict)
    problem: str = ""
    fingerprints: dict[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """The same for the same content."""
        hashed = hashlib.sha256(self.problem.encode(errors="backslashreplace"))
        for name, data in sorted(self.files.items()):
            hashed.update(f"{name} {type(data).__name__} {len(data)}\n".encode())
            hashed.update(data if isinstance(data, bytes) else data.encode())
        return hashed.hexdigest()

    def write(self, folder: Path) -> None:
        """Put the stage files into an empty folder; what is no file is put there as something that is none either."""
        for name, data in self.files.items():
            if isinstance(data, bytes):
                (folder / name).write_bytes(data)
            elif data == LINK:
                os.symlink("nowhere", folder / name)
            else:
                (folder / name).mkdir()


def find(named: Sequence[str]) -> tuple[list[Submission], list[str]]:
    """The submissions that were named, or those in the one folder that was; and the names there that are none.

    A folder is one submission if it has stage files, or a folder ``stages``; otherwise it is a class. Raises Misnamed.
    """
    paths = [Path(name) for name in named]
    ignored: list[str] = []
    for path in paths:
        if not os.path.lexists(path):
            raise Misnamed(f"there is no {str(path)!r}")
    if len(paths) == 1 and paths[0].is_dir() and not _holds_stages(paths[0]):
        try:
            inside = sorted(each for each in paths[0].iterdir() if not _hidden(each.name))
        except OSError as error:
            raise Misnamed(f"{str(paths[0])!r} cannot be read: {error.strerror}") from None
        paths = [each for each in inside if _is_handed_in(each)]
        ignored = [each.name for each in inside if each not in paths]
        if not paths:
            raise Misnamed(f"there is no submission in {named[0]!r}: no folder, no .zip, no .tar.gz")
    found: dict[str, Submission] = {}
    for path in paths:
        made = Submission(_id(path), path)
        if made.id in found:
            raise Misnamed(f"{str(found[made.id].path)!r} and {str(path)!r} would both be the submission {made.id!r}")
        found[made.id] = made
    return list(found.values()), ignored


def _holds_stages(folder: Path) -> bool:
    names = {f"{stage.stem}.py" for stage in course.stages()}
    return (folder / "stages").is_dir() or any(os.path.lexists(folder / name) for name in names)


def _hidden(name: str) -> bool:
    return name.startswith(".") or name in _NOT_OURS


def _is_handed_in(path: Path) -> bool:
    return path.is_symlink() or path.is_dir() or path.name.lower().endswith((*_ARCHIVES, *_OTHERS))


def _id(path: Path) -> str:
    name = Path(os.path.abspath(path)).name or "submission"
    for ending in () if path.is_dir() else _ARCHIVES:
        if name.lower().endswith(ending) and len(name) > len(ending):
            name = name[: -len(ending)]
            break
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)


def read(path: Path) -> Content:
    """What is in a submission, read by a process of its own. Never raises for what the submission is."""
    receive, send = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        os.close(receive)
        _read_apart(path, send)
    os.close(send)
    with open(receive, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(pid, 0)
    try:
        told = json.loads(said)
    except ValueError:
        too_much = os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL)
        why = (
            "it took too long" if too_much else f"the process that read it ended ({os.waitstatus_to_exitcode(status)})"
        )
        return Content(problem=f"it cannot be read: {why}")
    files = {name: bytes.fromhex(data) if kind == "file" else kind for name, (kind, data) in told["files"].items()}
    return Content(files, told["problem"], told["fingerprints"])


def _read_apart(path: Path, send: int) -> NoReturn:
    """The process that reads. Whatever becomes of it, it writes what it knows, or nothing, and ends."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + _MEMORY,) * 2)
        resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
        files: dict[str, bytes | str] = {}
        problem = ""
        try:
            files = stage_files(path)
        except Unusable as error:
            problem = str(error)
        except (MemoryError, RecursionError):
            problem = "it cannot be read: that would take too much memory"
        except OSError as error:
            problem = f"it cannot be read: {error.strerror or error}"
        except Exception as error:  # zipfile and tarfile raise whatever a broken archive makes them stumble over
            problem = f"it is broken: {type(error).__name__}: {error}"
        told = {name: ("file", data.hex()) if isinstance(data, bytes) else (data, "") for name, data in files.items()}
        with open(send, "wb") as pipe:
            prints = {} if problem else _fingerprints(files)
            pipe.write(json.dumps({"files": told, "problem": problem[:1000], "fingerprints": prints}).encode())
    finally:
        os._exit(0)


def _fingerprints(files: dict[str, bytes | str]) -> dict[str, str]:
    found = {}
    for stage in course.stages():
        data = files.get(f"{stage.stem}.py", "")
        with contextlib.suppress(UnicodeDecodeError, MemoryError):
            if isinstance(data, bytes) and len(data) <= course.SOURCE_LIMIT:
                made = similar.fingerprint(data.decode("utf-8-sig"), stage)
                if made:
                    found[stage.id] = made
    return found


def stage_files(path: Path) -> dict[str, bytes | str]:
    """The stage files of a folder or archive. Raises Unusable, and whatever the reader of a broken archive raises."""
    mode = os.lstat(path).st_mode
    if stat.S_ISLNK(mode):
        raise Unusable("it is a symbolic link: the folder or the archive itself is needed")
    if stat.S_ISDIR(mode):
        return _chosen(_in_folder(path))
    if not stat.S_ISREG(mode):
        raise Unusable("it is neither a folder nor a file")
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > MOST_BYTES:
            raise Unusable(f"it has more than {MOST_BYTES >> 20} MiB")
        if size == 0:
            raise Unusable("it is empty")
        first = file.read(512)
        file.seek(0)
        if first.startswith(b"PK"):
            return _chosen(_in_zip(file))
        try:
            if first.startswith(b"\x1f\x8b"):
                with gzip.open(file) as unpacked:
                    return _chosen(_in_tar(_Counted(unpacked)))  # type: ignore[arg-type]
            if first[257:262] == b"ustar":
                return _chosen(_in_tar(_Counted(file)))
        except (EOFError, zlib.error, gzip.BadGzipFile, tarfile.TarError) as error:
            raise Unusable(f"the archive is broken: {error}") from None
    raise Unusable("it is no archive that can be read: .zip and .tar.gz can")


Entry = tuple[PurePosixPath, bytes | str]


def _chosen(entries: Iterable[Entry]) -> dict[str, bytes | str]:
    """Of all stage files that were found those that count: of the one folder ``stages``, or else of the one that has any.

    Raises Unusable where there is none, or several.
    """
    folders: dict[PurePosixPath, dict[str, bytes | str]] = {}
    for path, data in entries:
        if path.name in folders.setdefault(path.parent, {}):
            raise Unusable(f"it has {str(path)!r} twice")
        folders[path.parent][path.name] = data
    named = [folder for folder in folders if folder.name == "stages"]
    found = named or list(folders)
    if not found:
        raise Unusable(f"it has no stage file, such as {course.stages()[0].stem}.py")
    if len(found) > 1:
        names = ", ".join(repr(str(each)) for each in sorted(found)[:10])
        raise Unusable(f"it has stage files in {len(found)} folders, and only one can count: {names}")
    return folders[found[0]]


def _stage_file(path: PurePosixPath) -> bool:
    return path.name in {f"{stage.stem}.py" for stage in course.stages()} and not any(map(_hidden, path.parts[:-1]))


def _in_folder(top: Path) -> Iterator[Entry]:
    """No link is followed."""
    number = 0
    for folder, folders, files, handle in os.fwalk(top, follow_symlinks=False, onerror=_raise):
        number += len(folders) + len(files)
        if number > MOST_ENTRIES:
            raise Unusable(f"it has more than {MOST_ENTRIES} files and folders")
        relative = PurePosixPath(os.path.relpath(folder, top))
        for name in [*files, *folders]:
            if _stage_file(relative / name):
                yield relative / name, _regular(name, handle)
        folders[:] = sorted(name for name in folders if not _hidden(name))


def _raise(error: OSError) -> NoReturn:
    raise error


def _regular(name: str, folder: int) -> bytes | str:
    """At most one byte more than a stage file may have. It is not waited for, so a FIFO is no trap."""
    try:
        handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError:
        return LINK if stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode) else ODD
    with contextlib.closing(open(handle, "rb")) as file:
        return file.read(course.SOURCE_LIMIT + 1) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else ODD


def _in_zip(file: BinaryIO) -> Iterator[Entry]:
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            if len(entries) > MOST_ENTRIES:
                raise Unusable(f"it has more than {MOST_ENTRIES} entries")
            for entry in entries:
                path = _inside(entry.filename.replace("\\", "/"))
                kind = entry.external_attr >> 16
                if stat.S_IFMT(kind) not in (0, stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
                    raise Unusable(f"its entry {entry.filename!r} is a device, a FIFO or a socket")
                if not _stage_file(path):
                    continue
                if stat.S_ISLNK(kind):
                    yield path, LINK
                elif entry.is_dir():
                    yield path, ODD
                elif entry.flag_bits & 1:
                    raise Unusable(f"its entry {entry.filename!r} is encrypted")
                else:
                    with archive.open(entry) as data:
                        yield path, data.read(course.SOURCE_LIMIT + 1)
    except (zipfile.BadZipFile, EOFError, zlib.error, NotImplementedError) as error:
        raise Unusable(f"the archive is broken: {error}") from None


def _in_tar(stream: "_Counted") -> Iterator[Entry]:
    links: set[PurePosixPath] = set()
    number = 0
    with tarfile.open(fileobj=stream, mode="r|", errors="backslashreplace") as archive:  # type: ignore[call-overload]
        for entry in archive:
            archive.members.clear()
            number += 1
            if number > MOST_ENTRIES:
                raise Unusable(f"it has more than {MOST_ENTRIES} entries")
            path = _inside(entry.name)
            if not (entry.isfile() or entry.isdir() or entry.issym() or entry.islnk()):
                raise Unusable(f"its entry {entry.name!r} is a device, a FIFO or something else that is no file")
            if below := links.intersection(path.parents):
                raise Unusable(f"its entry {entry.name!r} goes through a link, {str(below.pop())!r}")
            if not entry.isfile() and not entry.isdir():
                links.add(path)
            if not _stage_file(path):
                continue
            data = archive.extractfile(entry) if entry.isfile() else None
            if data:
                yield path, data.read(course.SOURCE_LIMIT + 1)
            else:
                yield path, ODD if entry.isdir() else LINK


def _inside(name: str) -> PurePosixPath:
    """The path that an entry has in its archive. Raises Unusable for one that leads out of it."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or name[1:2] == ":":
        raise Unusable(f"its entry {name!r} leads out of the archive")
    return path


class _Counted:
    """A stream that has only so much in it."""

    def __init__(self, file: BinaryIO):
        self._file, self._left = file, MOST_BYTES

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise Unusable(f"it unpacks to more than {MOST_BYTES >> 20} MiB")
        return data
