"""Images made for tests: layers packed, a config and a manifest written, with OCI's or Docker's media types."""

import gzip
import hashlib
import io
import json
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
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


def describe(blob: bytes | Path, media_type: str) -> Descriptor:
    """The descriptor of these bytes, or of this file."""
    digest, size = hashlib.sha256(), 0
    for block in blocks(blob):
        digest.update(block)
        size += len(block)
    return {"mediaType": media_type, "digest": f"sha256:{digest.hexdigest()}", "size": size}


def build(
    layers: Sequence[bytes | Path], config: Mapping[str, Any], compression: Compression, media: Media, platform: str
) -> tuple[list[tuple[Descriptor, bytes | Path]], dict[str, Any], dict[str, str]]:
    """(blobs with their descriptors, manifest, platform) of an image; see Registry.add_image() for what it takes."""
    blobs: list[tuple[Descriptor, bytes | Path]] = []
    diffs: list[str] = []
    for layer in layers:
        packed = layer if isinstance(layer, Path) else compress(layer, compression)
        blobs.append((describe(packed, LAYER[media][compression]), packed))
        diff = hashlib.sha256()
        for block in unpacked(layer, compression) if isinstance(layer, Path) else (layer,):
            diff.update(block)
        diffs.append(f"sha256:{diff.hexdigest()}")
    where = dict(zip(("os", "architecture", "variant"), platform.split("/"), strict=False))
    rootfs = {"type": "layers", "diff_ids": diffs}
    written = json.dumps({**where, "config": dict(config), "rootfs": rootfs}).encode()
    manifest: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": MANIFEST[media],
        "config": describe(written, CONFIG[media]),
        "layers": [descriptor for descriptor, _ in blobs],
    }
    return [*blobs, (manifest["config"], written)], manifest, where


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
