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
Document = Mapping[str, Any]  # a manifest, index or config, as load() gives it
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


def platform_of(part: Mapping[str, Any]) -> list[str]:
    """The parts of the platform that a manifest in an index is for; [] if it names none. (Of what load() gives.)"""
    there = part.get("platform")
    there = there if isinstance(there, dict) else {}
    named = "/".join(str(there[key]) for key in ("os", "architecture", "variant") if there.get(key))
    return platform_parts(named) if named else []


def blob_path(store: str, digest: str) -> str:
    """Where a blob is in a store. A digest is a stranger's text: one that is none could be a path to anywhere."""
    if not re.fullmatch("sha256:[0-9a-f]{64}", digest):
        raise BadImage(f"{digest!r} is no digest of sha256")
    return f"{store}/blobs/sha256/{digest[7:]}"


def stored(store: str, digest: str) -> bool:
    """Whether this is the digest of a blob in the store. False for a tag, which has no ":" in it.

    What has one, and is no digest all the same ("sha256:../x"), is a BadImage, before anybody is asked for it.
    """
    return ":" in digest and os.path.exists(blob_path(store, digest))


def load(store: str, digest: str) -> dict[str, Any]:
    """A manifest, index or config in the store, which is a JSON object. Raises BadImage if it is not.

    What it may have under "config" is an object (or null), under "layers" and "manifests" a list of objects (or null).
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


def read_manifest(store: str, digest: str) -> tuple[Descriptor, list[Descriptor]]:
    """The config and the layers, the lowest first, of the manifest with this digest in the store.

    Raises BadImage if it is no manifest, if it is an index (those do not go on leading to others here), or if what it
    names is no descriptor. Source: "OCI Image Manifest Specification".
    """
    document = load(store, digest)
    if "manifests" in document:
        raise BadImage(f"{digest}: an index, where a manifest has to be; an index in an index is not followed")
    if not isinstance(document.get("layers"), list):
        raise BadImage(f"{digest}: no manifest of an image")
    return descriptor(document.get("config")), [descriptor(each) for each in document["layers"]]


def read_image(store: str, digest: str) -> Image:
    """What the config of the image with this digest in the store says. Raises BadImage if it is malformed.

    The config's "config" may have Entrypoint and Cmd (lists of texts), Env (a list of "NAME=value"), WorkingDir (an
    absolute path) and User (a text). Each may be missing, null or empty: then it is as Image has it. In none of it is a
    NUL. Source: "OCI Image Configuration".
    """
    config, layers = read_manifest(store, digest)
    given = load(store, config.digest).get("config") or {}
    lists = {key: given.get(key) or [] for key in ("Entrypoint", "Cmd", "Env")}
    texts = {key: given.get(key) or default for key, default in (("WorkingDir", "/"), ("User", ""))}
    for key, value in (*lists.items(), *((key, [text]) for key, text in texts.items())):
        if not isinstance(value, list) or not all(isinstance(each, str) and "\0" not in each for each in value):
            raise BadImage(f"{config.digest}: {key} is {str(value)[:200]!r}")
    pairs = [each.partition("=") for each in lists["Env"]]
    if not all(name and equals for name, equals, _ in pairs) or not texts["WorkingDir"].startswith("/"):
        raise BadImage(f"{config.digest}: Env is no list of NAME=value, or WorkingDir no absolute path")
    env = {name: value for name, _, value in pairs}
    return Image(layers, lists["Entrypoint"], lists["Cmd"], env, texts["WorkingDir"], texts["User"])


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
