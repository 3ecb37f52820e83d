"""Stage 6: the image.

So far the container's root was made of this machine's own programs. The rest of the world keeps root file systems in
registries: an image is a list of layers, each layer an archive of files, and everything has the hash of its content
for a name. That is what makes it possible to take it from strangers: whoever knows the name can check the content.

What cannot be checked that way is whether the content means well. A layer is unpacked by a program with power, into
a directory of the machine, and says itself where its files are to go.
"""

import base64
import contextlib
import errno
import functools
import gzip
import hashlib
import io
import json
import os
import re
import shutil
import stat
import sys
import tarfile
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from thinwalls import layers, linux
from thinwalls.image import (
    DEFAULT_DEVICES,
    INDEXES,
    LIMITS,
    MANIFEST_LIMIT,
    MANIFESTS,
    NOBODY,
    BadImage,
    Descriptor,
    Ids,
    Image,
    Limits,
    blob_path,
    descriptor,
    lines_of,
    load,
    platform_parts,
)
from thinwalls.transport import Reference, Refused, Transport, parallel, parse_reference
from thinwalls.wall import Program, Wall

from .stage01_chroot import DEFAULT_ENV
from .stage03_mount_namespace import keep_mounts_private

WHITEOUT, OPAQUE = ".wh.", ".wh..wh..opq"

# Fetching


class Repository:
    """Where an image is: a repository of a registry. It has the token with which we ask there."""

    def __init__(self, reference: Reference, transport: Transport, credentials: tuple[str, str] | None = None):
        self.reference, self.transport, self.credentials = reference, transport, credentials
        self.token: dict[str, str] = {}  # headers for every request: {}, or {"Authorization": "Bearer …"}

    def url(self, path: str) -> str:
        """The URL of "manifests/TAG", "manifests/DIGEST" or "blobs/DIGEST"."""
        return self.transport.url(self.reference.registry, f"/v2/{self.reference.repository}/{path}")

    def manifest(self, name: str, store: str, size: int | None = None) -> str:
        """Task 6.1: have the manifest (or index) with this tag or digest in the store; gives its digest.

        Ask for it with a header Accept that names all of MANIFESTS and INDEXES, separated by ", ". Its digest is that of
        the bytes that came: "sha256:" and the hexdigest.

        Task 6.4 adds: what has a digest for a name and is in the store is not asked for; and what came has to have that
        digest, and the size that an index said (None: nobody did).

        Read: "Pulling manifests" in the OCI distribution specification; Transport.get; hashlib.sha256.
        """
        here = False
        here = stored(store, name)  # task 6.4
        if here:
            return name
        body = self.get(self.url(f"manifests/{name}"), {"Accept": ", ".join((*MANIFESTS, *INDEXES))})
        digest = name if ":" in name else f"sha256:{hashlib.sha256(body).hexdigest()}"
        data: Iterable[bytes] = [body]
        data = verified(data, digest, size)  # task 6.4
        write_blob(store, digest, data)
        return digest

    def blob(self, blob: Descriptor, store: str) -> None:
        """Task 6.1: have a blob in the store: write_blob() of what download() gives.

        Task 6.4 adds: what is stored() is not asked for, and only what is verified() gets there.
        """
        here = False
        here = stored(store, blob.digest)  # task 6.4
        if not here:
            data: Iterable[bytes] = self.download(blob)
            data = verified(data, blob.digest, blob.size)  # task 6.4
            write_blob(store, blob.digest, data)

    def get(self, url: str, headers: Mapping[str, str]) -> bytes:
        """Task 6.1: the body of the answer to one request, with self.token among its headers.

        Task 6.2 adds: whoever is Refused calls authorize() and asks once more.
        """
        try:
            return self.transport.get(url, {**headers, **self.token}, MANIFEST_LIMIT).body
        except Refused as refused:
            self.authorize(refused)
        return self.transport.get(url, {**headers, **self.token}, MANIFEST_LIMIT).body

    def download(self, blob: Descriptor) -> Iterator[bytes]:
        """Task 6.1: the bytes of a blob, in pieces, as Transport.download gives them; it is to know the size.

        Task 6.2 adds: the token may have expired, at the start or where a connection broke. Whoever is Refused calls
        authorize() and goes on from the byte where it was; but who is refused twice at the same byte gives up.
        """
        done, refused_at = 0, -1
        while True:
            try:
                for piece in self.transport.download(self.url(f"blobs/{blob.digest}"), self.token, blob.size, done):
                    done += len(piece)
                    yield piece
                return
            except Refused as refused:
                if refused_at == done:
                    raise
                refused_at = done
                self.authorize(refused)

    def authorize(self, refused: Refused) -> None:
        """Task 6.2: get a token, for the next requests. refused: the answer that asks for one. Raises it if it does not.

        An answer 401 has a header WWW-Authenticate: `Bearer realm="https://…",service="…",scope="…"`. GET realm, with
        the query service (if there is one) and scope (ours is repository:NAME:pull), gives JSON with the token under
        "token" or "access_token". Without credentials nothing else is sent; with them, the header Authorization of
        the Basic scheme.

        A password goes to nobody but the realm that the registry itself has named: not a host that it redirected us to
        (refused.url). And it never goes unencrypted where the registry was asked encrypted: that is a BadImage.

        Read: RFC 6750, 3; "Token Authentication Specification" in the documentation of Docker's registry (distribution);
        RFC 7617; urllib.parse.urlencode; base64.b64encode.
        """
        ours = refused.url.startswith(self.url(""))
        challenge = parse_challenge(refused.headers.get("WWW-Authenticate", ""))
        if refused.status != 401 or not ours or "realm" not in challenge:
            raise refused
        realm = challenge["realm"]
        if refused.url.startswith("https:") and not realm.startswith("https:"):
            raise BadImage(f"the registry would have a token fetched unencrypted, from {realm!r}")
        query = {name: challenge[name] for name in ("service",) if name in challenge}
        query["scope"] = f"repository:{self.reference.repository}:pull"
        headers = {}
        if self.credentials:
            headers["Authorization"] = f"Basic {base64.b64encode(':'.join(self.credentials).encode()).decode()}"
        url = f"{realm}{'&' if '?' in realm else '?'}{urllib.parse.urlencode(query)}"
        answer = json.loads(self.transport.get(url, headers, MANIFEST_LIMIT).body)
        self.token = {"Authorization": f"Bearer {answer.get('token') or answer['access_token']}"}


def pull(
    name: str,
    store: str,
    transport: Transport,
    credentials: tuple[str, str] | None = None,
    platform: str = "",
) -> str:
    """Task 6.1: have the image ``name`` ("debian:12") in the directory ``store``; gives the digest of its manifest.

    In the store each blob, manifests too, is the file blob_path(): the layout of an OCI image. The blobs, which are the
    manifest's config and its layers, are fetched several at a time, each once. credentials: user and password.

    Task 6.3 adds: where there is an index, it is that of choose() for ``platform`` whose manifest is fetched and told.

    Read: parse_reference, parallel and Transport in thinwalls/transport.py; functools.partial.
    """
    reference = parse_reference(name)
    repository = Repository(reference, transport, credentials)
    digest = repository.manifest(reference.digest or reference.tag, store)
    document = load(store, digest)
    if "manifests" in document:
        chosen = choose(document, platform)
        digest = repository.manifest(chosen.digest, store, chosen.size)
    config, blobs = read_manifest(store, digest)
    wanted = {blob.digest: blob for blob in (config, *blobs)}
    parallel([functools.partial(repository.blob, blob, store) for blob in wanted.values()])
    return digest


def parse_challenge(header: str) -> dict[str, str]:
    """Task 6.2: the parameters of a challenge of the scheme Bearer (in any case of letters): name -> value.

    A value stands between quotation marks, where a comma is a comma and a backslash before a character means that
    character; or it has none of these and stands alone. {} for another scheme, or none.

    Read: RFC 9110, 11.2 and 11.6.1, and 5.6.4 on quoted strings.
    """
    scheme, _, rest = header.strip().partition(" ")
    if scheme.lower() != "bearer":
        return {}
    found = re.findall(r'([\w-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s",]+))', rest)
    return {name.lower(): re.sub(r"\\(.)", r"\1", quoted) or plain for name, quoted, plain in found}


def choose(index: Mapping[str, Any], platform: str = "") -> Descriptor:
    """Task 6.3: the manifest in an index that is for a platform: "linux/amd64", "linux/arm/v7"; "": this machine's.

    Of several the first. arm64 without a variant is arm64/v8, and the other way round; otherwise a variant that was
    asked for has to be that one, and none asked for is any. What has no platform, or an unknown one (an attestation),
    is for nobody. Raises BadImage where there is none, which names those that are there; and for an index that has
    "layers" or "config" as well, empty or not: it could be taken for a manifest by others (CVE-2021-41190).

    Read: "OCI Image Index Specification"; platform_parts() and descriptor() in thinwalls/image.py.
    """
    if "layers" in index or "config" in index:
        raise BadImage("an index that has layers, or a config, is ambiguous")
    wanted = platform_parts(platform)
    offered = []
    for each in index["manifests"]:
        where = each.get("platform") or {}
        named = "/".join(str(where[key]) for key in ("os", "architecture", "variant") if where.get(key))
        if named and platform_parts(named)[: len(wanted)] == wanted:
            return descriptor(each)
        offered.append(named)
    raise BadImage(f"the image is not there for {platform or '/'.join(wanted)}, only for {', '.join(offered)}")


def verified(data: Iterable[bytes], digest: str, size: int | None) -> Iterator[bytes]:
    """Task 6.4: the same pieces, and after the last one BadImage if all of them are not what they have to be.

    That is: so many bytes (None: nobody said how many), and this digest. At no time are more bytes given than that; and
    never is all of it held in memory.

    Read: hashlib.sha256 and its update().
    """
    found, length = hashlib.sha256(), 0
    for piece in data:
        found.update(piece)
        length += len(piece)
        if size is not None and length > size:
            break
        yield piece
    if size is not None and length != size:
        raise BadImage(f"{digest}: it has {'more than ' * (length > size)}{min(length, size + 1)} bytes, not {size}")
    if f"sha256:{found.hexdigest()}" != digest:
        raise BadImage(f"{digest}: what came is sha256:{found.hexdigest()}")


def stored(store: str, digest: str) -> bool:
    """Task 6.4: whether this is the digest of a blob in the store. False for a tag, which has no ":" in it.

    What has one, and is no digest all the same ("sha256:../x"), is blob_path()'s BadImage, before anybody is asked for it.
    """
    return ":" in digest and os.path.exists(blob_path(store, digest))


def write_blob(store: str, digest: str, data: Iterable[bytes]) -> None:
    """Task 6.1: write a blob to blob_path(), and make the directories above it where they are missing.

    Task 6.4 adds: under its name it is there whole, or not at all, whatever raises or is killed in the middle, and
    whoever else is writing the same. So it is written under another name, and renamed. That name is in the store, but
    not below its blobs/, where everything is a blob: who is killed can remove nothing. Before the renaming fsync(2): the
    name must not reach the disk before the content does. What could not be finished is removed.

    Read: rename(2); fsync(2); os.replace; tempfile is not needed.
    """
    path = blob_path(store, digest)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    unfinished = f"{store}/unfinished-{os.urandom(8).hex()}"
    try:
        with open(unfinished, "xb") as file:
            file.writelines(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(unfinished)
        raise


def read_manifest(store: str, digest: str) -> tuple[Descriptor, list[Descriptor]]:
    """Task 6.1: the config and the layers, the lowest first, of the manifest with this digest in the store.

    Raises BadImage if they are not there or are no descriptor().

    Read: "OCI Image Manifest Specification"; load().
    """
    document = load(store, digest)
    if not isinstance(document.get("layers"), list):
        raise BadImage(f"{digest}: no manifest of an image")
    return descriptor(document.get("config")), [descriptor(each) for each in document["layers"]]


# Unpacking


def unpack(store: str, digest: str, rootfs: str, limits: Limits = LIMITS) -> None:
    """Task 6.1: unpack all layers of the image with this digest, in their order, into the empty directory ``rootfs``.

    At the end the device files that were skipped are told, in one line on the standard error, with their names. limits:
    for the Tree, whose check() heeds them from task 6.6 on.

    Read: Tree.apply, Tree.close.
    """
    _, blobs = read_manifest(store, digest)
    tree = Tree(rootfs, limits)
    try:
        for layer in blobs:
            tree.apply(blob_path(store, layer.digest), layer.media_type)
    finally:
        tree.close()
    if tree.skipped:
        print(f"device files that were left out: {', '.join(tree.skipped)}", file=sys.stderr)


class Tree:
    """A root file system while layers are unpacked into it. Every name in a layer is found from its root, never by a path.

    root: a descriptor of the directory. skipped: the names of the device files that were left out.
    """

    def __init__(self, rootfs: str, limits: Limits = LIMITS):
        self.root = os.open(rootfs, os.O_RDONLY | os.O_DIRECTORY)
        self.limits, self.size, self.entries = limits, 0, 0
        self.skipped: list[str] = []
        self.fresh: set[tuple[int, str]] = set()  # (a directory's inode, a name in it) that the layer at hand has made
        self.times = layers.Times(self.root)  # what directories are to have, when a layer is through
        self._here: tuple[str, int, int] = ("", os.dup(self.root), os.fstat(self.root).st_ino)  # see locate()

    def apply(self, blob: str, media_type: str) -> None:
        """Unpack a layer on top of what is there. blob: its file. Raises BadImage, which names the entry."""
        self.fresh.clear()
        for entry, data in layers.entries(blob, media_type):
            try:
                self.check(entry)  # task 6.6
                if os.path.basename(entry.name).startswith(WHITEOUT):
                    self.whiteout(entry.name)
                else:
                    self.place(entry, data)
            except (OSError, ValueError, RecursionError) as error:
                raise BadImage(f"entry {entry.name!r}: {error}") from error
        self.times.settle()

    def locate(self, path: str) -> tuple[int, str]:
        """Task 6.1: where an entry goes: a descriptor of the directory that it lies in, and its name there.

        path: as the layer has it ("usr/bin/env", "./usr/bin/env", "./" for the root, whose name is "."). Links on the way
        to the directory are followed as a process in the container would follow them. A directory that is missing is made,
        with mode 755; a link that leads nowhere inside is an OSError.

        The descriptor is the Tree's: it is good until the next call. self._here keeps it, for close(): the directory's
        path, its descriptor, its inode. The one that it had before is closed.

        Task 6.5 adds: self.times.keep() for the directory, before anything is made in it.

        Read: linux.open_in_root, linux.mount_point_in_root, dir_fd in the documentation of os.
        """
        parts = [part for part in path.split("/") if part not in ("", ".")]
        directory, name = "/".join(parts[:-1]), parts[-1] if parts else "."
        if directory != self._here[0]:  # most entries lie in the same directory as the one before them
            flags = os.O_RDONLY | os.O_DIRECTORY
            try:
                found = linux.open_in_root(self.root, directory or ".", flags)
            except FileNotFoundError:
                os.close(linux.mount_point_in_root(f"/proc/self/fd/{self.root}", directory))
                found = linux.open_in_root(self.root, directory, flags)
            os.close(self._here[1])
            self._here = directory, found, os.fstat(found).st_ino
        self.times.keep(directory, self._here[1])  # task 6.5
        return self._here[1], name

    def place(self, entry: tarfile.TarInfo, data: Iterator[bytes]) -> None:
        """Task 6.1: make what an entry says: a regular file with its data, a directory, a symbolic or hard link, a FIFO.

        A file is made with the permissions of entry.mode, as far as the umask leaves them. What was there under its name
        goes, with all below it; but a directory stays where a directory is wanted. A link is replaced, never written
        through. entry.linkname of a hard link is the path, in the rootfs, of the file that gets one more name. A device
        file is not made: its name goes to self.skipped. Any other type is a ValueError.

        Task 6.5 adds what whiteout() needs to know, and dress() for what was made, or was a directory and stayed (but not
        for hard links, which are another file's name); before that 6.10 adds own().

        Read: tarfile.TarInfo; open(2) on O_EXCL and O_NOFOLLOW; link(2); dir_fd, src_dir_fd and dst_dir_fd in the
        documentation of os; shutil.rmtree.
        """
        if entry.ischr() or entry.isblk():
            self.skipped.append(entry.name)
            return
        with contextlib.ExitStack() as stack:
            if entry.islnk():
                found, old = self.locate(entry.linkname)
                where = os.dup(found)
                stack.callback(os.close, where)
            parent, name = self.locate(entry.name)
            self._clear(parent, name, entry)
            self.fresh.add((self._here[2], name))
            if entry.islnk():
                os.link(old, name, src_dir_fd=where, dst_dir_fd=parent, follow_symlinks=False)
                return
        if entry.isreg():
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            with open(os.open(name, flags, entry.mode & 0o777, dir_fd=parent), "wb", buffering=0) as file:
                for piece in data:
                    file.write(piece)
        elif entry.isdir():
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, dir_fd=parent)
        elif entry.issym():
            os.symlink(entry.linkname, name, dir_fd=parent)
        elif entry.isfifo():
            os.mkfifo(name, dir_fd=parent)
        else:
            raise ValueError(f"its type {entry.type!r} is none that can be unpacked")
        self.own(parent, name, entry)  # task 6.10
        self.dress(parent, name, entry)  # task 6.5

    def _clear(self, parent: int, name: str, entry: tarfile.TarInfo) -> None:
        """Remove what is in the way of an entry."""
        try:
            os.unlink(name, dir_fd=parent)
        except FileNotFoundError:
            return
        except IsADirectoryError:
            if not entry.isdir():
                shutil.rmtree(name, dir_fd=parent)

    def whiteout(self, path: str) -> None:
        """Task 6.5: hide what lower layers have: a file called .wh.NAME stands for NAME, OPAQUE for all in its directory.

        path: the whiteout's own, as locate() takes it. What the layer itself has made stays, whether before or after the
        whiteout in its order: self.fresh knows it. A directory stays too, if something in it stays. What is not there is no
        error. Other names that begin with ".wh..wh." mean nothing. No whiteout is made a file.

        Read: "Whiteouts" in layer.md of the OCI image specification; os.listdir, os.rmdir and dir_fd.
        """
        parent, name = self.locate(path)
        if name == OPAQUE:
            for child in os.listdir(parent):
                self._hide(parent, child)
        elif not name.startswith(WHITEOUT * 2):
            with contextlib.suppress(FileNotFoundError):
                self._hide(parent, name.removeprefix(WHITEOUT))

    def _hide(self, parent: int, name: str) -> None:
        """Remove what is at a name, but for what the layer at hand has made."""
        kept = (os.fstat(parent).st_ino, name) in self.fresh
        if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            if not kept:
                os.unlink(name, dir_fd=parent)
            return
        directory = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
        try:
            for child in os.listdir(directory):
                self._hide(directory, child)
        finally:
            os.close(directory)
        if not kept:
            with contextlib.suppress(OSError):  # something in it is new
                os.rmdir(name, dir_fd=parent)

    def own(self, parent: int, name: str, entry: tarfile.TarInfo) -> None:
        """Task 6.10: give what was made to the entry's uid and gid; a link itself, not what it points to.

        An id that this user namespace does not have is EINVAL: then the owner stays as it is. An id that chown(2) takes
        for "leave it as it is", or a negative one, is a ValueError. chown takes away set-uid bits, so it comes before
        dress().

        Read: chown(2); user_namespaces(7), "Unmapped user and group IDs".
        """
        if NOBODY in (entry.uid, entry.gid) or min(entry.uid, entry.gid) < 0:
            raise ValueError("it belongs to an id that nobody can have")
        try:
            os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise

    def dress(self, parent: int, name: str, entry: tarfile.TarInfo) -> None:
        """Task 6.5: give what was made the entry's mode (set-uid bits too), extended attributes and modification time.

        The mode is entry.mode, whatever the umask is; a symbolic link has none. The attributes are those that
        layers.attributes() gives; one that the kernel refuses here (an OSError) is left out. The time of a directory
        changes with everything that is made in it, so self.times sets it, at the end of the layer; what locate() finds is
        in its keeping too, for a directory that has no entry in this layer is to have the time that it had.

        Read: chmod(2), utimensat(2), xattr(7), os.setxattr (by /proc/self/fd/NUMBER/NAME, for it knows no dir_fd); layers.Times.
        """
        if not entry.issym():
            os.chmod(name, stat.S_IMODE(entry.mode), dir_fd=parent)
        for key, value in layers.attributes(entry).items():
            with contextlib.suppress(OSError):
                os.setxattr(f"/proc/self/fd/{parent}/{name}", key, value, follow_symlinks=False)
        time = int(entry.mtime * 10**9)
        if entry.isdir():
            self.times.set(entry.name, time)
        else:
            os.utime(name, ns=(time, time), dir_fd=parent, follow_symlinks=False)

    def check(self, entry: tarfile.TarInfo) -> None:
        """Task 6.6: raise ValueError for an entry that no honest layer has, before anything of it is made.

        apply() is to call it for every entry, whiteouts too, before whiteout() or place(): that line is part of this task.

        Its name, or what a hard link leads to, is absolute or has ".." for one of its parts ("a..b" is honest). It is a
        whiteout of nothing, "." or "..". It would be the root, and is no directory. It is a device file that is not of
        DEFAULT_DEVICES (no block device is). With it the layers so far have more entries than self.limits.entries, or their
        files more bytes (entry.size) than self.limits.size: self.entries and self.size count.

        Read: layer.md of the OCI image specification; zip-slip; CVE-2025-4517.
        """
        self.entries += 1
        self.size += entry.size
        for path in (entry.name, *([entry.linkname] if entry.islnk() else [])):
            if path.startswith("/") or ".." in path.split("/"):
                raise ValueError(f"the path {path!r} leads outside")
        name = os.path.basename(entry.name)
        if name.startswith(WHITEOUT) and name.removeprefix(WHITEOUT) in ("", ".", ".."):
            raise ValueError("a whiteout of nothing, or of a directory itself")
        if not entry.isdir() and name in ("", "."):
            raise ValueError("the root has to be a directory")
        if (entry.ischr() or entry.isblk()) and (
            entry.isblk() or (entry.devmajor, entry.devminor) not in DEFAULT_DEVICES
        ):
            raise ValueError("a device file that no container has")
        if self.entries > self.limits.entries:
            raise ValueError(f"there are more than {self.limits.entries} entries")
        if self.size > self.limits.size:
            raise ValueError(f"there are more than {self.limits.size} bytes")

    def close(self) -> None:
        """Let go of the descriptors."""
        os.close(self.root)
        os.close(self._here[1])


# Running


def read_image(store: str, digest: str) -> Image:
    """Task 6.7: what the config of the image with this digest in the store says. Raises BadImage if it is malformed.

    The config's "config" may have Entrypoint and Cmd (lists of texts), Env (a list of "NAME=value"), WorkingDir (an
    absolute path) and User (a text). Each may be missing, null or empty: then it is as Image has it. In none of it is a
    NUL.

    Read: "OCI Image Configuration"; load(), read_manifest().
    """
    config, blobs = read_manifest(store, digest)
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
    return Image(blobs, lists["Entrypoint"], lists["Cmd"], env, texts["WorkingDir"], texts["User"])


def program(image: Image, rootfs: str, command: Sequence[str] = (), env: Mapping[str, str] = {}) -> Program:
    """Task 6.7: the Program that an image runs: its entrypoint, followed by ``command``, or by its own if that is empty.

    rootfs: the directory that it was unpacked in. Its environment: what ``env`` says; otherwise what the image says;
    otherwise PATH of DEFAULT_ENV, and HOME, which is that of find_user(). It starts in the image's cwd. Raises BadImage if
    there is nothing to run.

    Read: "config" in the OCI image specification, config.md, on Entrypoint and Cmd.
    """
    argv = [*image.entrypoint, *(command or image.command)]
    if not argv:
        raise BadImage("the image has no command, and none was given")
    home = find_user(image.user, rootfs).home
    return Program(argv, {"PATH": DEFAULT_ENV["PATH"], "HOME": home, **image.env, **env}, image.cwd)


def find_user(user: str, rootfs: str) -> Ids:
    """Task 6.7: who is meant by an image's User: "", "name", "1000", each with ":group" or ":1000" behind it or not.

    Names are looked up in the image's own /etc/passwd and /etc/group, never by the machine's libraries. "" is "0". What is
    all digits is a number, never a name, and may be one that no file knows: then its group is 0. Without a group, it is
    the one in passwd, and its other groups are those that list its name; with one, there are no others. groups: a list, in
    the order of the file. home: of passwd's first line for the user, "/" if there is none.

    BadImage for anything else: a name that is not in the file, an empty part, a sign, digits of another script, and a
    number of 2**32 - 1 or more, in the files too: as an id it would be no change at all, or wrap around to 0, and the
    program would be root.

    Read: lines_of() in thinwalls/image.py; passwd(5), group(5); setresuid(2) on -1; CVE-2026-30892 (crun), CVE-2019-14271
    (docker cp).
    """
    name, colon, group = user.partition(":")
    users, groups = lines_of(rootfs, "/etc/passwd", 7), lines_of(rootfs, "/etc/group", 4)
    known = [line for line in users if name in ((line[2],) if name.isdigit() else (line[0],))]
    if not user:
        known, name = [line for line in users if line[2] == "0"], "0"
    uid = _id(name, known)
    gid = _id(known[0][3], []) if known else 0
    others = [_id(line[2], []) for line in groups if known and known[0][0] in line[3].split(",")]
    if colon:
        gid, others = _id(group, [line for line in groups if line[0] == group]), []
    return Ids(uid, gid, others, (known[0][5] if known else "") or "/")


def _id(text: str, known: list[list[str]]) -> int:
    """The number that a text is, or that the first of the lines has."""
    digits = text if re.fullmatch("[0-9]+", text) else known[0][2] if known and text else ""
    if not re.fullmatch("[0-9]+", digits) or int(digits) >= NOBODY:
        raise BadImage(f"{text!r} is no user or group of this image")
    return int(digits)


class Disposable(Wall):
    """The image as the lower layer of an overlay. What the container changes is in an upper one, and gone with it.

    Goes before Filesystem(rootfs): it mounts the overlay at ``rootfs``, an existing directory, in the new mount namespace.
    """

    flags = linux.CLONE_NEWNS  # task 6.8

    def __init__(self, image: str, rootfs: str):
        """image: the directory that the image was unpacked in, which stays as it is."""
        self.image, self.rootfs = image, rootfs

    def inside(self) -> None:
        """Task 6.8: mount at self.rootfs an overlay whose lower layer is self.image.

        Its upper and work directory are on a tmpfs of its own, which is seen nowhere else: it may be mounted at
        self.rootfs too, and be covered by the overlay. The root has the image's mode. The option userxattr lets a user
        namespace make it. Nothing of it may reach the machine's mounts. (The class's ``flags`` must ask for the mount
        namespace, and are part of this task.)

        In the options of an overlay, ":" and "," in a path would be read as something else; /proc/self/fd/NUMBER has none.

        Read: filesystems/overlayfs in the kernel's documentation; linux.mount; keep_mounts_private of stage 3.
        """
        keep_mounts_private()
        lower = os.open(self.image, os.O_PATH | os.O_DIRECTORY)
        linux.mount("changes", self.rootfs, "tmpfs", 0, "mode=700")
        top = os.open(self.rootfs, os.O_PATH | os.O_DIRECTORY)
        for name in ("upper", "work"):
            os.mkdir(name, dir_fd=top)
        os.chmod("upper", stat.S_IMODE(os.fstat(lower).st_mode), dir_fd=top)
        here = "/proc/self/fd"
        options = f"lowerdir={here}/{lower},upperdir={here}/{top}/upper,workdir={here}/{top}/work,userxattr"
        linux.mount("image", self.rootfs, "overlay", 0, options)
        os.close(lower)
        os.close(top)


class User(Wall):
    """The program runs as the image's user. The last wall, behind Init, which stays what it is and can end it."""

    def __init__(self, image: Image, rootfs: str):
        """rootfs: the directory that the image was unpacked in. Raises what find_user() raises."""
        self.ids = find_user(image.user, rootfs)
        # Where no group may be left (a user namespace with one id), there is none to take: user_namespaces(7).
        with open("/proc/self/setgroups") as file:
            self.may_set_groups = file.read().strip() == "allow"

    def inside(self) -> None:
        """Task 6.10: set the groups (if self.may_set_groups), the group ids and the user ids of the calling process.

        Real, effective and saved ones, so that there is no way back; and in an order in which each is still allowed.

        Read: setgroups(2), setresgid(2), setresuid(2), capabilities(7) on "Effect of user ID changes".
        """
        if self.may_set_groups:
            os.setgroups(list(self.ids.groups))
        os.setresgid(self.ids.gid, self.ids.gid, self.ids.gid)
        os.setresuid(self.ids.uid, self.ids.uid, self.ids.uid)


def forge(layer: str, forged: str, name: str, text: str) -> None:
    """Task 6.9: the attack. You are the registry: make another layer, of the same length in bytes, for the same digest.

    layer: the file of a layer, a tar archive compressed by gzip. forged: the file to write, which is such a layer as
    well, with the same entries, but the file that is called ``name`` in it ("bin/sh"; the layer may spell it "./bin/sh")
    says ``text``. Raises ValueError if there is no such file, or if what has to be said does not fit.

    Read: RFC 1952, 2.3, on FLG and what may stand in a header; gzip.compress; tarfile.TarFile.addfile.
    """
    said, packed, there = text.encode(), io.BytesIO(), False
    with tarfile.open(layer) as old, tarfile.open(fileobj=packed, mode="w") as new:
        for entry in old:
            data = old.extractfile(entry) if entry.isreg() else None
            if entry.isreg() and os.path.normpath(entry.name) == name:
                entry.size, data, there = len(said), io.BytesIO(said), True
            new.addfile(entry, data)
    small = gzip.compress(packed.getvalue(), mtime=0)
    room = os.path.getsize(layer) - len(small)
    if not there or room < 0:
        raise ValueError(f"no file {name!r} in the layer, or too much to say")
    if room:  # a comment in the header, ended by a zero byte, says nothing to whoever unpacks
        small = small[:3] + bytes([small[3] | 0x10]) + small[4:10] + b"x" * (room - 1) + b"\0" + small[10:]
    with open(forged, "wb") as file:
        file.write(small)
