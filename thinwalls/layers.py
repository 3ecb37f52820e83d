"""A layer of an image, read as a stream: the dull half of unpacking.

A layer is a tar archive, mostly compressed. It is read once, from front to back, and never held in memory: a second
thread decompresses ahead (zlib lets go of the interpreter's lock), while the caller puts files in place. Nothing
here decides where an entry may go, nor whether it may.
"""

import contextlib
import io
import os
import queue
import shutil
import subprocess
import tarfile
import threading
import zlib
from collections.abc import Generator, Iterator
from typing import BinaryIO

from thinwalls import dirfd
from thinwalls.image import LIMITS, BadImage, Limits

# The media types of layers (OCI image specification, layer.md; Docker's, image manifest v2 schema 2), and how each is
# compressed.
COMPRESSION = {
    "application/vnd.oci.image.layer.v1.tar": "",
    "application/vnd.oci.image.layer.v1.tar+gzip": "gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd": "zstd",
    "application/vnd.docker.image.rootfs.diff.tar": "",
    "application/vnd.docker.image.rootfs.diff.tar.gzip": "gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd": "zstd",
}
_XATTR = "SCHILY.xattr."
_CHUNK = 256 * 1024  # bytes that are read, decompressed and written at a time
_AHEAD = 16  # chunks that may be decompressed before anybody asks for them
_BROKEN = (tarfile.TarError, EOFError, zlib.error)
_HEADER = 2**20  # bytes that a header of an entry may have: names, extended attributes


class Unreadable(BadImage):
    """A layer is not what its media type says, or ends too early."""


def entries(path: str, media_type: str) -> Iterator[tuple[tarfile.TarInfo, Iterator[bytes]]]:
    """What is in a layer, in its order: each entry, and its data in pieces of at most 256 KiB.

    path: the layer's file. media_type: as its descriptor has it. The data has to be taken before the next entry; what
    is not taken is skipped. An entry's fields are as tarfile.TarInfo has them; its names are as they were written, and
    may be hostile. Raises Unreadable, and FileNotFoundError where a program for it is missing (zstd).
    """
    if media_type not in COMPRESSION:
        raise Unreadable(f"a layer of the type {media_type!r} is none that can be unpacked")
    chunks = _chunks(path, COMPRESSION[media_type])
    with contextlib.closing(_ahead(chunks)) as stream:
        source = _Stream(stream)
        try:
            archive = tarfile.TarFile(
                fileobj=source,  # type: ignore[arg-type]
                mode="r",
                encoding="utf-8",
                errors="surrogateescape",
            )
            while entry := archive.next():
                # It remembers every entry, which nobody here asks for.
                archive.members.clear()  # type: ignore[attr-defined]
                yield entry, _readable(_data(source, entry))
            if source.last.strip(b"\0"):  # tarfile takes a broken header for the end
                raise tarfile.ReadError("it has a broken header")
        except _BROKEN as error:
            raise Unreadable(f"the layer cannot be read: {error}") from None


def attributes(entry: tarfile.TarInfo) -> dict[str, bytes]:
    """The extended attributes of an entry, xattr(7), as archives have them (SCHILY.xattr.NAME in a PAX header).

    Without those of overlayfs, which would change what a container sees where the tree is a lower layer.
    """
    return {
        key.removeprefix(_XATTR): value.encode("utf-8", "surrogateescape")
        for key, value in entry.pax_headers.items()
        if key.startswith(_XATTR) and not key.startswith((f"{_XATTR}trusted.overlay.", f"{_XATTR}user.overlay."))
    }


class Unpacking:
    """Layers on their way into a directory. What becomes of an entry is for a subclass to say, in take()."""

    def __init__(self, rootfs: str, limits: Limits = LIMITS):
        """rootfs: an empty directory. limits: see there; a subclass counts."""
        self.root = os.open(rootfs, os.O_RDONLY | os.O_DIRECTORY)
        self.limits, self.size, self.entries = limits, 0, 0
        self.skipped: list[str] = []
        self.fresh: set[tuple[int, str]] = set()
        self.times = dirfd.Times(self.root)

    def take(self, entry: tarfile.TarInfo, data: Iterator[bytes]) -> None:
        """Do with an entry what it says. Raises OSError or ValueError."""
        raise NotImplementedError

    def apply(self, blob: str, media_type: str) -> None:
        """Unpack a layer on top of what is there. blob: its file. Raises BadImage, which names the entry."""
        self.fresh.clear()
        for entry, data in entries(blob, media_type):
            try:
                self.take(entry, data)
            except (OSError, ValueError, RecursionError) as error:
                raise BadImage(f"entry {entry.name!r}: {error}") from error
        self.times.settle()

    def close(self) -> None:
        """Let go of the directory."""
        os.close(self.root)


def rewritten(path: str, name: str, text: str) -> bytes:
    """The archive of a layer (compressed by gzip, or not at all) in which one file says something else, uncompressed.

    name: the file, such as "bin/sh"; the layer may spell it "./bin/sh". All other entries stay as they are. Raises
    ValueError if there is no such file.
    """
    said, packed, there = text.encode(), io.BytesIO(), False
    with tarfile.open(path) as old, tarfile.open(fileobj=packed, mode="w") as new:
        for entry in old:
            data = old.extractfile(entry) if entry.isreg() else None
            if entry.isreg() and os.path.normpath(entry.name) == name:
                entry.size, data, there = len(said), io.BytesIO(said), True
            new.addfile(entry, data)
    if not there:
        raise ValueError(f"there is no file {name!r} in the layer")
    return packed.getvalue()


class _Stream:
    """As much of a file as tarfile needs: reading, and seeking forward. Its position counts decompressed bytes."""

    def __init__(self, chunks: Iterator[bytes]):
        self._chunks, self._rest, self._position = chunks, memoryview(b""), 0
        self.last = b""  # what was read last: a header, for data is taken in pieces

    def read(self, size: int) -> bytes:
        """So many bytes, fewer only at the end."""
        if size > _HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        pieces: list[bytes] = []
        with contextlib.suppress(EOFError):
            pieces.extend(self.pieces(size))
        self.last = b"".join(pieces)
        return self.last

    def tell(self) -> int:
        """Where we are."""
        return self._position

    def seek(self, position: int) -> None:
        """Go forward."""
        for _ in self.pieces(position - self._position):
            pass

    def pieces(self, size: int) -> Iterator[bytes]:
        """The next ``size`` bytes, in pieces. Raises EOFError if there are fewer."""
        while size > 0:
            if not self._rest:
                self._rest = memoryview(next(self._chunks, b""))
                if not self._rest:
                    raise EOFError("it ends too early")
            piece, self._rest = bytes(self._rest[:size]), self._rest[size:]
            self._position += len(piece)
            size -= len(piece)
            yield piece


def _readable(data: Iterator[bytes]) -> Iterator[bytes]:
    """The same, for whoever takes it: what breaks in there is raised in the taker's frame, not in entries()."""
    try:
        yield from data
    except _BROKEN as error:
        raise Unreadable(f"the layer cannot be read: {error}") from None


def _data(source: _Stream, entry: tarfile.TarInfo) -> Iterator[bytes]:
    """The data of an entry, the holes of a sparse one filled with zeros."""
    if not entry.isreg():
        return
    if entry.sparse is None:
        yield from source.pieces(entry.size)
        return
    written = 0
    for offset, size in [*entry.sparse, (entry.size, 0)]:
        while written < offset:
            yield bytes(min(_CHUNK, offset - written))
            written += min(_CHUNK, offset - written)
        yield from source.pieces(size)
        written += size


def _chunks(path: str, compression: str) -> Generator[bytes, None, None]:
    """The bytes of the tar archive, decompressed."""
    if compression == "zstd":
        if not shutil.which("zstd"):
            raise FileNotFoundError(2, "this layer is compressed by zstd, and there is no program of that name", "zstd")
        with subprocess.Popen(["zstd", "-dc", "-q", "--", path], stdout=subprocess.PIPE) as process:
            assert process.stdout
            yield from iter(lambda: process.stdout.read(_CHUNK), b"")  # type: ignore[union-attr]
        if process.returncode:
            raise Unreadable("the layer cannot be read: zstd refused it")
        return
    with open(path, "rb") as file:
        if compression == "gzip":
            yield from _gunzip(file)
        else:
            yield from iter(lambda: file.read(_CHUNK), b"")


def _gunzip(file: BinaryIO) -> Iterator[bytes]:
    """The members of a gzip file, RFC 1952; however well it is compressed, a piece is no larger than any other."""
    compressed = file.read(_CHUNK)
    while compressed:
        member = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        while not member.eof:
            if not compressed:
                raise EOFError("its compressed data ends too early")
            piece = member.decompress(compressed, _CHUNK)
            compressed = member.unconsumed_tail
            if piece:
                yield piece
            if not compressed and not member.eof:
                compressed = file.read(_CHUNK)
        compressed = member.unused_data or file.read(_CHUNK)


def _ahead(chunks: Generator[bytes, None, None]) -> Generator[bytes, None, None]:
    """The same chunks, made by a thread that is a few of them ahead. It has ended when this generator has."""
    ready: queue.Queue[bytes | BaseException] = queue.Queue(_AHEAD)
    wanted = True

    def work() -> None:
        try:
            for chunk in chunks:
                ready.put(chunk)
                if not wanted:
                    break
            ready.put(b"")
        except BaseException as error:
            ready.put(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while chunk := ready.get():
            if isinstance(chunk, BaseException):
                raise chunk
            yield chunk
    finally:
        wanted = False
        while thread.is_alive():
            with contextlib.suppress(queue.Empty):
                ready.get(timeout=0.01)
        chunks.close()
