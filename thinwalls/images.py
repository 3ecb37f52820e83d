"""Images made for tests: layers packed, a config and a manifest written, with OCI's or Docker's media types."""

import gzip
import io
import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal

Descriptor = dict[str, Any]  # mediaType, digest, size, and platform in an index
Compression = Literal["none", "gzip", "zstd"]
Media = Literal["oci", "docker"]
OCI, DOCKER = "application/vnd.oci.image.", "application/vnd.docker."
MANIFEST = {"oci": OCI + "manifest.v1+json", "docker": DOCKER + "distribution.manifest.v2+json"}
INDEX = {"oci": OCI + "index.v1+json", "docker": DOCKER + "distribution.manifest.list.v2+json"}
CONFIG = {"oci": OCI + "config.v1+json", "docker": DOCKER + "container.image.v1+json"}
LAYER = {
    "oci": {"none": OCI + "layer.v1.tar", "gzip": OCI + "layer.v1.tar+gzip", "zstd": OCI + "layer.v1.tar+zstd"},
    "docker": {
        "none": DOCKER + "image.rootfs.diff.tar",
        "gzip": DOCKER + "image.rootfs.diff.tar.gzip",
        "zstd": DOCKER + "image.rootfs.diff.tar.zstd",
    },
}
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}
HERE = "linux/" + _ARCHITECTURES.get(platform.machine(), platform.machine())
BLOCK = 256 << 10  # bytes that are read at once


def compress(tar: bytes, compression: str) -> bytes:
    """Pack a layer. zstd needs the program of that name."""
    if compression == "zstd":
        return subprocess.run(["zstd", "-q", "-c"], input=tar, stdout=subprocess.PIPE, check=True).stdout
    return gzip.compress(tar, mtime=0) if compression == "gzip" else tar


def blocks(blob: bytes | Path) -> Iterator[bytes]:
    """These bytes, or this file's, a block at a time."""
    with opened(blob) as file:
        while block := file.read(BLOCK):
            yield block


def opened(blob: bytes | Path) -> BinaryIO:
    """These bytes, or this file, to read from."""
    return io.BytesIO(blob) if isinstance(blob, bytes) else blob.open("rb")


def unpacked(path: Path, compression: str) -> Iterator[bytes]:
    """The tar archive in a packed file, block by block."""
    if compression == "gzip":
        with gzip.open(path) as file:
            while block := file.read(BLOCK):
                yield block
    elif compression == "zstd":
        with subprocess.Popen(["zstd", "-q", "-d", "-c", str(path)], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            while block := process.stdout.read(BLOCK):
                yield block
    else:
        yield from blocks(path)
