"""What an image is made of: descriptors, manifests, configs, and where a store keeps them.

The words are those of the OCI image specification. Everything that comes from an image is a stranger's: what is read
here is bounded, and checked before it is given to anybody.
"""

import json
import os
import platform
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from thinwalls import linux

# The media types of manifests and of indexes: the OCI's (image specification) and Docker's (v2 schema 2).
MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}  # of uname(2), and as images name them

# The device files that an image may have because a container has them anyway: (major, minor), as in mknod(2) and
# admin-guide/devices of the kernel's documentation. null, zero, full, random, urandom; tty, console, ptmx.
DEFAULT_DEVICES = {(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)}

MANIFEST_LIMIT = 4 * 2**20  # bytes of a manifest or config; the distribution specification asks for no more
NOBODY = 2**32 - 1  # as an id, chown(2) and setresuid(2) take it for "leave it as it is"
PASSWD_LIMIT = 2**20  # bytes of an /etc/passwd or /etc/group


class BadImage(ValueError):
    """An image is not what it has to be. The text names the part: a digest, or an entry of a layer."""


@dataclass(frozen=True)
class Descriptor:
    """What a manifest says of a blob: its media type, its digest ("sha256:" and 64 hex digits), its size in bytes."""

    media_type: str
    digest: str
    size: int


@dataclass(frozen=True)
class Image:
    """What an image's config says, and which layers it has, the lowest first."""

    layers: Sequence[Descriptor] = ()
    entrypoint: Sequence[str] = ()
    command: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str = "/"
    user: str = ""


@dataclass(frozen=True)
class Ids:
    """Who a program is to be: its user, its group, its other groups; and where it is at home."""

    uid: int = 0
    gid: int = 0
    groups: Sequence[int] = ()
    home: str = "/"


@dataclass(frozen=True)
class Limits:
    """What all layers of an image may have together: bytes of data in their files, and entries."""

    size: int = 64 * 2**30
    entries: int = 2_000_000


LIMITS = Limits()


def platform_parts(text: str = "") -> list[str]:
    """The parts of a platform's name ("linux/arm/v7"; "": this machine's). arm64/v8 is arm64, the only one there is."""
    text = text or f"linux/{ARCHITECTURES.get(platform.machine(), platform.machine())}"
    parts = text.split("/")
    return parts[:2] if parts[1:] == ["arm64", "v8"] else parts


def blob_path(store: str, digest: str) -> str:
    """Where a blob is in a store. A digest is a stranger's text: one that is none could be a path to anywhere."""
    if not re.fullmatch("sha256:[0-9a-f]{64}", digest):
        raise BadImage(f"{digest!r} is no digest of sha256")
    return f"{store}/blobs/sha256/{digest[7:]}"


def load(store: str, digest: str) -> dict[str, Any]:
    """A manifest, index or config in the store, which is a JSON object. Raises BadImage if it is not.

    What it may have under "config" is an object (or null), under "layers" and "manifests" a list of objects.
    """
    with open(blob_path(store, digest), "rb") as file:
        text = file.read(MANIFEST_LIMIT + 1)
    try:
        found = json.loads(text) if len(text) <= MANIFEST_LIMIT else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise BadImage(f"{digest}: no JSON object of at most {MANIFEST_LIMIT} bytes")
    if not isinstance(found.get("config") or {}, dict):
        raise BadImage(f"{digest}: its config is no object")
    for name in ("layers", "manifests"):
        parts = found.get(name) or []
        if not isinstance(parts, list) or not all(isinstance(each, dict) for each in parts):
            raise BadImage(f"{digest}: {name} is no list of objects")
    return found


def descriptor(found: Any) -> Descriptor:
    """The descriptor that a piece of a manifest is. Raises BadImage if it is none."""
    match found:
        case {"mediaType": str(kind), "digest": str(digest), "size": int(size)} if size >= 0:
            return Descriptor(kind, digest, size)
    raise BadImage(f"{str(found)[:200]!r} is no descriptor")


def lines_of(rootfs: str, path: str, fields: int) -> list[list[str]]:
    """The lines of a file of the image that have so many fields; none if there is no such regular file in its root."""
    try:
        found = linux.open_in_root(rootfs, path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return []
    with open(found, "rb") as file:
        text = file.read(PASSWD_LIMIT) if stat.S_ISREG(os.fstat(found).st_mode) else b""
    found_lines = [line.split(":") for line in text.decode(errors="surrogateescape").split("\n")]
    return [line for line in found_lines if len(line) == fields]
