"""Stage 6: the image.

So far the container's root was made of this machine's own programs. The rest of the world keeps root file systems in
registries: an image is a list of layers, each layer an archive of files, and everything has the hash of its content
for a name. That is what makes it possible to take it from strangers: whoever knows the name can check the content.

What cannot be checked that way is whether the content means well. A layer is unpacked by a program with power, into
a directory of the machine, and says itself where its files are to go.
"""

import contextlib
import errno
import functools
import gzip
import hashlib
import os
import re
import stat
import sys
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence

from thinwalls import dirfd, layers, linux
from thinwalls import image as oci  # the words of the OCI image specification
from thinwalls.session import Credentials, Session, basic
from thinwalls.transport import Refused, Transport, parallel, parse_reference
from thinwalls.wall import Program, Wall

from .stage01_chroot import DEFAULT_ENV
from .stage03_mount_namespace import keep_mounts_private

WHITEOUT, OPAQUE = ".wh.", ".wh..wh..opq"

# Fetching


class Repository(Session):
    """Where an image is: a repository of a registry. Session (thinwalls/session.py) has get(), download() and url()."""

    def manifest(self, name: str, store: str, size: int | None = None) -> str:
        """Task 6.1: have the manifest (or index) with this tag or digest in the store; gives its digest.

        self.get() asks for "manifests/" and the name, with a header Accept that names all of MANIFESTS and INDEXES,
        separated by ", " (not graded). The digest is that of the bytes that came: "sha256:" and the hexdigest.

        Task 6.4 adds: what is stored() is not asked for; and what came has to have the digest that was asked for (not
        its own, which it always has), and the size that an index said (None: nobody did).

        Read: "Pulling manifests" in the OCI distribution specification; hashlib.sha256.
        """
        raise NotImplementedError("task 6.1 is not built yet")

    def blob(self, blob: oci.Descriptor, store: str) -> None:
        """Task 6.1: have a blob in the store: write_blob() of what self.download() gives.

        Task 6.4 adds: what is stored() is not asked for, and only what is verified() gets there.
        """
        raise NotImplementedError("task 6.1 is not built yet")

    def authorize(self, refused: Refused) -> None:
        """Task 6.2: get a token for the next requests, as ``refused`` asks; raise it again if it asks for none.

        An answer 401 has a header WWW-Authenticate: `Bearer realm="https://…",service="…",scope="…"`. GET realm, with
        the query service (if the challenge has one) and scope (always repository:NAME:pull, whether it has one or not),
        gives JSON with the token under "token" or "access_token": self.fetch_token() does that. self.token is then
        {"Authorization": "Bearer " and the token}. Without credentials no header is sent to the realm; with them,
        Authorization by the scheme basic().

        A password goes to nobody but the realm that the registry itself has named: not a host that it redirected us to
        (refused.url). Where refused.url is not the registry's own host, raise refused. The realm itself may be on any
        host: Docker Hub's is on another. And the password never goes unencrypted where the registry was asked
        encrypted: a realm without https is then a BadImage, before it is asked.

        The session calls this when it is refused, at the start or when a token has expired, and then asks once more.

        Read: RFC 6750, 3; "Token Authentication Specification" in the documentation of Docker's registry
        (distribution); fetch_token() and basic() in thinwalls/session.py.
        """
        raise NotImplementedError("task 6.2 is not built yet")


def pull(name: str, store: str, transport: Transport, login: Credentials | None = None, platform: str = "") -> str:
    """Task 6.1: have the image ``name`` ("debian:12") in the directory ``store``; gives the digest of its manifest.

    In the store each blob, manifests too, is the file blob_path(): the layout of an OCI image. The blobs, which are the
    manifest's config and its layers, are fetched several at a time, each once (neither is graded). login: user and
    password.

    Task 6.3 adds: what has "manifests" is an index, whatever its mediaType. The manifest that choose() finds in it for
    ``platform`` is fetched, and its digest given.

    Read: parse_reference, parallel and Transport in thinwalls/transport.py; read_manifest and load in
    thinwalls/image.py; functools.partial.
    """
    raise NotImplementedError("task 6.1 is not built yet")


def parse_challenge(header: str) -> dict[str, str]:
    """Task 6.2: the parameters of a challenge of the scheme Bearer (in any case of letters): name -> value.

    A value stands between quotation marks, where a comma is a comma and a backslash before a character means that
    character; or it has none of these and stands alone. {} for another scheme, or none.

    Read: RFC 9110, 11.2 and 11.6.1, and 5.6.4 on quoted strings.
    """
    raise NotImplementedError("task 6.2 is not built yet")


def choose(index: oci.Document, platform: str = "") -> oci.Descriptor:
    """Task 6.3: the manifest in an index that is for a platform: "linux/amd64", "linux/arm/v7"; "": this machine's.

    Of several the first. arm64 without a variant is arm64/v8, and the other way round; otherwise a variant that was
    asked for has to be that one, and none asked for is any. What has no platform, or an unknown one (an attestation),
    is for nobody. Raises BadImage where there is none, which names those that are there; and for an index that has
    "layers" or "config" as well, empty or not: it could be taken for a manifest by others (CVE-2021-41190). Its
    "manifests" may be null, or not there: that is a list of none.

    Read: "OCI Image Index Specification"; platform_parts(), platform_of() and descriptor() in thinwalls/image.py.
    """
    raise NotImplementedError("task 6.3 is not built yet")


def verified(data: Iterable[bytes], digest: str, size: int | None) -> Iterator[bytes]:
    """Task 6.4: the same pieces, and after the last one BadImage if all of them are not what they have to be.

    That is: so many bytes (None: nobody said how many), and this digest. At no time are more bytes given than that; and
    never is all of it held in memory (neither is graded).

    Read: hashlib.sha256 and its update().
    """
    raise NotImplementedError("task 6.4 is not built yet")


def write_blob(store: str, digest: str, data: Iterable[bytes]) -> None:
    """Task 6.1: write a blob to blob_path(), and make the directories above it where they are missing.

    Task 6.4 adds: under its name it is there whole, or not at all, whatever raises or is killed in the middle, and
    whoever else is writing the same. So it is written under another name, and renamed. That name is in the store, but
    not below its blobs/, where everything is a blob: who is killed can remove nothing. Before the renaming fsync(2):
    the name must not reach the disk before the content does (not graded). What could not be finished is removed.

    Read: rename(2); fsync(2); os.replace; tempfile is not needed.
    """
    raise NotImplementedError("task 6.1 is not built yet")


# Unpacking


def unpack(store: str, digest: str, rootfs: str, limits: oci.Limits = oci.LIMITS) -> None:
    """Task 6.1: unpack all layers of the image with this digest, in their order, into the empty directory ``rootfs``.

    At the end the device files that were skipped are told, in one line on the standard error, with their names. limits:
    for the Tree, whose check() heeds them from task 6.6 on.

    Read: Tree.apply; read_manifest; contextlib.closing.
    """
    raise NotImplementedError("task 6.1 is not built yet")


class Tree(layers.Unpacking):
    """A root file system while layers are unpacked into it. Names in a layer are found from its root, never by a path.

    Unpacking (thinwalls/layers.py) has apply(), which calls take() for each entry of a layer, in their order, and then
    sees to the times of directories. A ValueError or OSError becomes a BadImage there, which names the entry. It has
    self.root, a descriptor of the root; self.skipped, a list of the names of device files that were left out;
    self.fresh, a set of what the layer at hand has made, each as (inode of a directory, name in it); self.times;
    self.limits, self.entries and self.size.
    """

    def take(self, entry: tarfile.TarInfo, data: Iterator[bytes]) -> None:
        """One entry of a layer: a whiteout (task 6.5), or something to be made (task 6.1)."""
        if os.path.basename(entry.name).startswith(WHITEOUT):
            self.whiteout(entry.name)
        else:
            self.place(entry, data)

    @contextlib.contextmanager
    def locate(self, path: str) -> Iterator[tuple[int, str]]:
        """Task 6.1: where an entry goes: a descriptor of the directory that it lies in, and its name there.

        For a `with`, at whose end the descriptor is closed. path: as the layer has it ("usr/bin/env", "./usr/bin/env",
        "./" for the root, whose name is "."). Links on the way to the directory are followed as a process in the
        container would follow them. A directory that is missing is made, with mode 755; a link that leads nowhere
        inside is an OSError. Nothing here may be found by a path of the machine: a link in it is the image's word.

        Task 6.5 adds, before anything is made in it: self.times.keep(), with the directory's path as the layer has it,
        and its descriptor. Those above it, in which open_directory may have made what was missing, get a new time.

        Read: dirfd.open_directory, which is openat2(2) with RESOLVE_IN_ROOT; yield in contextlib.contextmanager.
        """
        raise NotImplementedError("task 6.1 is not built yet")

    def place(self, entry: tarfile.TarInfo, data: Iterator[bytes]) -> None:
        """Task 6.1: make what an entry says: a regular file and its data, a directory, a symbolic or hard link, a FIFO.

        A file is made with the permissions of entry.mode, as far as the umask leaves them. What was there under its
        name goes, with all below it; but a directory stays where a directory is wanted. A link is replaced, never
        written through. entry.linkname of a hard link is the path, in the rootfs, of the file that gets one more name.
        (One to itself is an OSError: what was there has gone by then.) A device file is not made: its name goes to
        self.skipped. Any other type is a ValueError (not graded).

        Task 6.5 adds what whiteout() needs to know, and dress() for what was made, or was a directory and stayed (but
        not for hard links, which are another file's name); before that 6.10 adds own().

        Read: tarfile.TarInfo; dirfd.make_room; open(2) on O_EXCL and O_NOFOLLOW; link(2); dir_fd,
        src_dir_fd and dst_dir_fd in the documentation of os.
        """
        raise NotImplementedError("task 6.1 is not built yet")

    def whiteout(self, path: str) -> None:
        """Task 6.5: hide what lower layers have: a file .wh.NAME stands for NAME, OPAQUE for all in its directory.

        path: the whiteout's own, as locate() takes it. What the layer itself has made stays, whether before or after
        the whiteout in its order: self.fresh knows it. A directory stays too, if something in it stays. What is not
        there is no error. Other names that begin with ".wh..wh." mean nothing. No whiteout is made a file.

        Read: "Whiteouts" in layer.md of the OCI image specification; dirfd.remove, os.listdir.
        """
        raise NotImplementedError("task 6.5 is not built yet")

    def dress(self, parent: int, name: str, entry: tarfile.TarInfo) -> None:
        """Task 6.5: give what was made the entry's mode (set-uid bits too), extended attributes and modification time.

        The mode is entry.mode, whatever the umask is; a symbolic link has none. The attributes are those that
        layers.attributes() gives. self.times.set() knows what to do about the time: that of a directory changes with
        everything that is made in it. What locate() finds is in self.times' keeping too, for a directory that has no
        entry in this layer is to have the time that it had (but for those on the way: see locate()).

        Read: chmod(2), utimensat(2), xattr(7); dirfd.set_attributes, dirfd.Times.
        """
        raise NotImplementedError("task 6.5 is not built yet")

    def check(self, entry: tarfile.TarInfo) -> None:
        """Task 6.6: raise ValueError for an entry that no honest layer has, before anything of it is made.

        take() is to call it for every entry, whiteouts too, before whiteout() or place(): that line is part of this
        task.

        Its name, or what a hard link leads to, is absolute or has ".." for one of its parts ("a..b" is honest). It is
        a whiteout of nothing, "." or "..". It would be the root, and is no directory. It is a device file that is not
        of DEFAULT_DEVICES (no block device is). With it the layers so far have more entries than self.limits.entries,
        or their files more bytes (entry.size) than self.limits.size: self.entries and self.size count.

        Read: layer.md of the OCI image specification; zip-slip; CVE-2025-4517.
        """
        raise NotImplementedError("task 6.6 is not built yet")

    def own(self, parent: int, name: str, entry: tarfile.TarInfo) -> None:
        """Task 6.10: give what was made to the entry's uid and gid; a link itself, not what it points to.

        If this user namespace lacks one of the two, chown(2) is EINVAL: then both stay as they are. An id that it takes
        for "leave it as it is", one of 2**32 or more, or a negative one, is a ValueError. chown takes away set-uid
        bits, so it comes before dress().

        Read: chown(2); user_namespaces(7), "Unmapped user and group IDs".
        """
        raise NotImplementedError("task 6.10 is not built yet")


# Running


def program(image: oci.Image, rootfs: str, command: Sequence[str] = (), env: Mapping[str, str] = {}) -> Program:
    """Task 6.7: the Program of an image: its entrypoint, followed by ``command``, or by its own if that is empty.

    image: what its config says, as read_image() in thinwalls/image.py gives it. rootfs: the directory that it was
    unpacked in. Its environment: what ``env`` says; otherwise what the image says; otherwise PATH of DEFAULT_ENV, and
    HOME, which is that of find_user(). It starts in the image's cwd. Raises BadImage if there is nothing to run.

    Read: "config" in the OCI image specification, config.md, on Entrypoint and Cmd.
    """
    raise NotImplementedError("task 6.7 is not built yet")


def find_user(user: str, rootfs: str) -> oci.Ids:
    """Task 6.7: who is meant by an image's User: "", "name", "1000", each with ":group" or ":1000" behind it or not.

    Names are looked up in the image's own /etc/passwd and /etc/group, never by the machine's libraries. "" is "0".
    What is all digits is a number, never a name, and may be one that no file knows: then its group is 0. Without a
    group, it is the one in passwd, and its other groups are those that list its name; with one, there are no others.
    groups: a list, in the order of the file. home: of passwd's first line for the user, "/" if there is none.

    BadImage for anything else: a name that is not in the file, an empty part, a sign, digits of another script, and a
    number of 2**32 - 1 or more: as an id it would be no change at all, or wrap around to 0, and the program would be
    root. That goes for a number in a line that is used, too; other lines do not matter.

    Read: lines_of() in thinwalls/image.py; passwd(5), group(5); setresuid(2) on -1; CVE-2026-30892 (crun),
    CVE-2019-14271 (docker cp).
    """
    raise NotImplementedError("task 6.7 is not built yet")


class Disposable(Wall):
    """The image as the lower layer of an overlay. What the container changes is in an upper one, and gone with it.

    Goes before Filesystem(rootfs): it mounts the overlay at ``rootfs``, an existing directory, in the new mount
    namespace.
    """

    def __init__(self, image: str, rootfs: str):
        """image: the directory that the image was unpacked in, which stays as it is."""
        self.image, self.rootfs = image, rootfs

    def inside(self) -> None:
        """Task 6.8: mount at self.rootfs an overlay whose lower layer is self.image.

        Its upper and work directory are on a tmpfs of its own, which is seen nowhere else: it may be mounted at
        self.rootfs too, and be covered by the overlay. The root has the image's mode. The option userxattr is for a user
        namespace: without it the mount works there, but to remove a directory of the image that has files in it is EIO
        (not graded), for overlayfs notes it in an attribute that only the machine's root may write. Nothing of it may
        reach the machine's mounts. (The class's ``flags`` must ask for the mount namespace, and are part of this task.)

        In the options of an overlay, ":" and "," in a path would be read as something else; /proc/self/fd/NUMBER has
        none.

        Read: filesystems/overlayfs in the kernel's documentation; linux.mount; keep_mounts_private of stage 3.
        """
        raise NotImplementedError("task 6.8 is not built yet")


class User(Wall):
    """The program runs as the image's user. The last wall, behind Init, which stays what it is and can end it."""

    def __init__(self, image: oci.Image, rootfs: str):
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
        raise NotImplementedError("task 6.10 is not built yet")


def forge(layer: str, forged: str, name: str, text: str) -> None:
    """Task 6.9: the attack. You are the registry: make another layer, of the same length in bytes, for the same digest.

    layer: the file of a layer, a tar archive compressed by gzip. forged: the file to write, which is such a layer as
    well, with the same entries, but the file that is called ``name`` in it says ``text`` and no more:
    layers.rewritten() makes the archive. It is one member of gzip, with nothing behind its end: what stands there is an
    error to some readers. Raises ValueError if there is no such file, or if what has to be said does not fit.

    Read: RFC 1952, 2.3, on FLG and what may stand in a header; gzip.compress; layers.rewritten.
    """
    raise NotImplementedError("task 6.9 is not built yet")
