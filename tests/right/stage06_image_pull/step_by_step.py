"""Plain functions and plain descriptors: no session, no base class, no given hands for directories.

Every component of a path is opened by itself, with O_NOFOLLOW, and links are read and walked here, with the root for a
ceiling. A blob is written to a file that has no name until it is whole (O_TMPFILE and linkat), one after the other. The
forged layer hides its padding in an extra field.
"""

import base64
import ctypes
import hashlib
import json
import os
import shutil
import stat
import sys
import tarfile
import threading
import zlib
from urllib.parse import quote

from thinwalls import layers, linux
from thinwalls.image import (
    DEFAULT_DEVICES,
    INDEXES,
    LIMITS,
    MANIFESTS,
    BadImage,
    Descriptor,
    Ids,
    blob_path,
    descriptor,
    load,
    platform_parts,
    read_manifest,
)
from thinwalls.transport import Refused, parse_reference
from thinwalls.wall import Program, Wall

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


# Pulling: one function per question that is asked.


def pull(name, store, transport, credentials=None, platform=""):
    reference = parse_reference(name)
    base = transport.url(reference.registry, f"/v2/{reference.repository}/")
    given = {"headers": {}}
    lock = threading.Lock()

    def renew(refused):
        with lock:
            given["headers"] = token(refused, base, reference.repository, transport, credentials)

    def ask(path, accept):
        for attempt in (1, 2):
            try:
                return transport.get(base + path, {"Accept": accept, **given["headers"]}).body
            except Refused as refused:
                if attempt == 2:
                    raise
                renew(refused)

    def document(word, size=None):
        if ":" not in word or not os.path.exists(blob_path(store, word)):
            body = ask(f"manifests/{word}", ", ".join(INDEXES + MANIFESTS))
            found = "sha256:" + hashlib.sha256(body).hexdigest()
            word = word if ":" in word else found
            keep(store, word, [body], len(body) if size is None else size)
        return word, load(store, word)

    def fetch(blob):
        if os.path.exists(blob_path(store, blob.digest)):
            return

        def pieces():
            here, tries = 0, 0
            while True:
                try:
                    for piece in transport.download(base + f"blobs/{blob.digest}", given["headers"], blob.size, here):
                        here, tries = here + len(piece), 0
                        yield piece
                    return
                except Refused as refused:
                    tries += 1
                    if tries > 1:
                        raise
                    renew(refused)

        keep(store, blob.digest, pieces(), blob.size)

    digest, found = document(reference.digest or reference.tag)
    if "manifests" in found:
        chosen = choose(found, platform)
        digest, found = document(chosen.digest, chosen.size)
    config, blobs = read_manifest(store, digest)
    for digest_of_blob in dict.fromkeys([config.digest, *(blob.digest for blob in blobs)]):
        fetch(next(blob for blob in (config, *blobs) if blob.digest == digest_of_blob))
    return digest


def keep(store, digest, pieces, size):
    """A file without a name, until its content is what the name says."""
    path = blob_path(store, digest)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    check, length = hashlib.new("sha256"), 0
    with open(os.open(store, os.O_TMPFILE | os.O_RDWR, 0o644), "wb") as file:
        for piece in pieces:
            length += len(piece)
            if length > size:
                break
            check.update(piece)
            file.write(piece)
        if length != size or digest != "sha256:" + check.hexdigest():
            raise BadImage(f"{digest}: something else came, {length} bytes")
        file.flush()
        os.fdatasync(file.fileno())
        where = os.open("/", os.O_PATH)  # with a dir_fd Python takes linkat(2), which can follow
        try:
            os.link(f"/proc/self/fd/{file.fileno()}", path, src_dir_fd=where, follow_symlinks=True)
        except FileExistsError:
            pass  # somebody was faster
        finally:
            os.close(where)


def parse_challenge(header):
    """A walk along the header, character by character."""
    scheme, _, rest = header.strip().partition(" ")
    if scheme.casefold() != "bearer":
        return {}
    found, key, value, state = {}, "", "", "key"
    for letter in rest + ",":
        if state == "key" and letter == "=":
            state = "value"
        elif state == "key":
            key += letter.strip(" ,\t")
        elif state == "quoted" and letter == "\\":
            state = "escaped"
        elif state == "escaped":
            value, state = value + letter, "quoted"
        elif state == "quoted" and letter == '"':
            state = "value"
        elif state == "value" and letter == '"' and not value:
            state = "quoted"
        elif state == "value" and letter == ",":
            found[key.lower()] = value
            key, value, state = "", "", "key"
        elif state == "quoted" or letter not in " \t":
            value += letter
    return found


def token(refused, base, repository, transport, credentials):
    """The header that a refusal asks for."""
    parts = parse_challenge(refused.headers.get("www-authenticate") or "")
    if refused.status != 401 or not refused.url.startswith(base) or not parts.get("realm"):
        raise refused
    if refused.url.startswith("https://") and not parts["realm"].startswith("https://"):
        raise BadImage("a password is not sent unencrypted")
    address = parts["realm"] + ("&" if "?" in parts["realm"] else "?") + f"scope=repository:{quote(repository)}:pull"
    if "service" in parts:
        address += "&service=" + quote(parts["service"], safe="")
    headers = {}
    if credentials is not None:
        user, password = credentials
        headers["authorization"] = "Basic " + base64.standard_b64encode(f"{user}:{password}".encode()).decode("ascii")
    answer = json.loads(transport.get(address, headers).body)
    return {"Authorization": f"Bearer {answer.get('access_token') or answer['token']}"}


def choose(index, platform=""):
    if {"layers", "config"} & index.keys():
        raise BadImage("two things at once")
    wanted, names = platform_parts(platform), {}
    for part in index.get("manifests") or ():
        where = part.get("platform") or {}
        name = "/".join(filter(None, (where.get("os"), where.get("architecture"), where.get("variant"))))
        if name:
            names.setdefault(name, part)
    for name, part in names.items():
        if all(a == b for a, b in zip(wanted, platform_parts(name) + [""] * 3)):
            return descriptor(part)
    raise BadImage(f"{'/'.join(wanted)} is not among {', '.join(names)}")


# Unpacking: a walk of our own, that never leaves.


def unpack(store, digest, rootfs, limits=LIMITS):
    left_out, count, size = [], 0, 0
    root = os.open(rootfs, DIRECTORY)
    for layer in read_manifest(store, digest)[1]:
        made, times = set(), {}
        for entry, data in layers.entries(blob_path(store, layer.digest), layer.media_type):
            count, size = count + 1, size + entry.size
            try:
                honest(entry, count, size, limits)
                put(root, entry, data, made, times, left_out)
            except (OSError, ValueError, RecursionError) as error:
                raise BadImage(f"{entry.name}: {error}") from error
        for path, when in sorted(times.items(), reverse=True):
            try:
                there = enter(root, path.split("/") if path else [], False)
            except OSError:
                continue
            os.utime(there, ns=(when, when))
            os.close(there)
    os.close(root)
    if left_out:
        sys.stderr.write("left out: " + " ".join(left_out) + "\n")


def honest(entry, count, size, limits):
    parts = entry.name.split("/")
    if count > limits.entries or size > limits.size:
        raise ValueError("too much")
    if parts[0] == "" or ".." in parts or parts[-1] in (".wh.", ".wh..", ".wh..."):
        raise ValueError("a name that no honest layer has")
    if entry.islnk() and (entry.linkname[:1] == "/" or ".." in entry.linkname.split("/")):
        raise ValueError("a link to the outside")
    if not entry.isdir() and parts[-1] in ("", "."):
        raise ValueError("the root is a directory")
    if entry.isblk() or entry.ischr() and (entry.devmajor, entry.devminor) not in DEFAULT_DEVICES:
        raise ValueError("a device")


def enter(root, parts, make):
    """Walk from the root down, one component at a time; links are read and walked too. Gives a descriptor."""
    stack, todo, links = [os.dup(root)], list(parts), 0
    try:
        while todo:
            part = todo.pop(0)
            if part in ("", "."):
                continue
            if part == "..":
                if len(stack) > 1:
                    os.close(stack.pop())
                continue
            try:
                stack.append(os.open(part, DIRECTORY, dir_fd=stack[-1]))
            except FileNotFoundError:
                if not make:
                    raise
                os.mkdir(part, dir_fd=stack[-1])
                os.chmod(part, 0o755, dir_fd=stack[-1])
                todo.insert(0, part)
            except NotADirectoryError:
                target = os.readlink(part, dir_fd=stack[-1])  # OSError for a file
                links, make = links + 1, False  # what a link names has to be there
                if links > 40:
                    raise OSError(40, "too many links")
                if target.startswith("/"):
                    while len(stack) > 1:
                        os.close(stack.pop())
                todo = target.split("/") + todo
        return os.dup(stack[-1])
    finally:
        for each in stack:
            os.close(each)


def place_of(root, path, times):
    parts = [part for part in path.split("/") if part not in ("", ".")]
    parent = enter(root, parts[:-1], True)
    times.setdefault("/".join(parts[:-1]), os.fstat(parent).st_mtime_ns)
    return parent, parts[-1] if parts else "."


def put(root, entry, data, made, times, left_out):
    """One entry of a layer."""
    parent, name = place_of(root, entry.name, times)
    here = os.fstat(parent).st_ino
    try:
        if name == ".wh..wh..opq":
            for each in os.scandir(parent):
                hide(parent, here, each.name, made)
        elif name.startswith(".wh."):
            if not name.startswith(".wh..wh."):
                hide(parent, here, name[4:], made)
        elif entry.ischr() or entry.isblk():
            left_out.append(entry.name)
        else:
            made.add((here, name))
            make(root, parent, name, entry, data, times)
    finally:
        os.close(parent)


def hide(parent, here, name, made):
    """Whether something stays at the name, when all that is not new is gone."""
    try:
        status = os.lstat(f"/proc/self/fd/{parent}/{name}")
    except FileNotFoundError:
        return False
    stays = (here, name) in made
    if stat.S_ISDIR(status.st_mode):
        below = os.open(name, DIRECTORY, dir_fd=parent)
        left = [hide(below, status.st_ino, each, made) for each in os.listdir(below)]
        os.close(below)
        stays = stays or any(left)
        if not stays:
            os.rmdir(name, dir_fd=parent)
    elif not stays:
        os.remove(name, dir_fd=parent)
    return stays


def make(root, parent, name, entry, data, times):
    full = f"/proc/self/fd/{parent}/{name}"
    there = os.path.isdir(full) and not os.path.islink(full)
    if os.path.lexists(full) and not (there and entry.isdir()):
        if there:
            shutil.rmtree(name, dir_fd=parent)
        else:
            os.remove(full)
    when = int(entry.mtime * 1_000_000_000)
    if entry.islnk():
        other, old = place_of(root, entry.linkname, times)
        try:
            os.link(old, name, src_dir_fd=other, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(other)
        return
    if entry.isdir():
        if not there:
            os.mkdir(full, 0o700)
        times["/".join(part for part in entry.name.split("/") if part not in ("", "."))] = when
    elif entry.issym():
        os.symlink(entry.linkname, full)
    elif entry.isfifo():
        os.mkfifo(full, 0o600)
    elif entry.isreg():
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=parent)
        for piece in data:
            while piece:
                piece = piece[os.write(file, piece) :]
        os.close(file)
    else:
        raise ValueError("what is it?")
    own(full, entry)
    if not entry.issym():
        os.chmod(full, entry.mode & 0o7777)
    for key, value in layers.attributes(entry).items():
        try:
            os.setxattr(full, key, value, follow_symlinks=False)
        except OSError:
            pass
    if not entry.isdir():
        os.utime(full, ns=(when, when), follow_symlinks=False)


def own(full, entry):
    for number in (entry.uid, entry.gid):
        if number < 0 or number >= 0xFFFFFFFF:
            raise ValueError("nobody has this id")
    try:
        os.lchown(full, entry.uid, entry.gid)
    except OSError as error:
        if error.strerror != os.strerror(22):
            raise


# Running


def program(image, rootfs, command=(), env={}):
    words = list(image.entrypoint) + list(command if command else image.command)
    if words == []:
        raise BadImage("nothing to run")
    whole = dict(image.env)
    whole.setdefault("PATH", PATH)
    whole.setdefault("HOME", find_user(image.user, rootfs).home)
    whole.update(env)
    return Program(words, whole, image.cwd)


def find_user(user, rootfs):
    who, given, group = user.partition(":") if user else ("0", "", "")
    people, groups = table(rootfs, "passwd", 7), table(rootfs, "group", 4)
    if who == "" or given and group == "":
        raise BadImage(f"{user!r} has an empty part")
    person = None
    for each in people:
        if (each[2] if is_number(who) else each[0]) == who:
            person = each
            break
    if person is None and not is_number(who):
        raise BadImage(f"{who!r} is nobody here")
    uid = to_id(person[2] if person else who)
    home = person[5] if person and person[5] else "/"
    if given:
        for each in groups:
            if not is_number(group) and each[0] == group:
                return Ids(uid, to_id(each[2]), [], home)
        return Ids(uid, to_id(group), [], home)
    others = [to_id(each[2]) for each in groups if person and person[0] in each[3].split(",")]
    return Ids(uid, to_id(person[3]) if person else 0, others, home)


def is_number(text):
    return text != "" and all(letter in "0123456789" for letter in text)


def to_id(text):
    if not is_number(text) or len(text) > 20 or int(text) > 0xFFFFFFFE:
        raise BadImage(f"{text[:50]!r} is no id")
    return int(text)


def table(rootfs, name, width):
    """A file of the image's /etc, found by our own walk; nothing if it is no regular file."""
    root = os.open(rootfs, DIRECTORY)
    try:
        etc = enter(root, ["etc"], False)
    except OSError:
        return []
    finally:
        os.close(root)
    try:
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=etc)
    except OSError:
        return []
    finally:
        os.close(etc)
    with open(file, errors="surrogateescape", newline="\n") as text:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            return []
        rows = [line.split(":") for line in text.read(1 << 20).split("\n")]
    return [row for row in rows if len(row) == width]


class Disposable(Wall):
    """The changes lie on a tmpfs at /tmp, of which only the root's mode is the image's."""

    flags = linux.CLONE_NEWNS

    def __init__(self, image, rootfs):
        self.image, self.rootfs = image, rootfs

    def inside(self):
        linux.mount(None, "/", None, linux.MS_REC | linux.MS_SLAVE)
        below, place = os.open(self.image, os.O_PATH), os.open(self.rootfs, os.O_PATH)
        linux.mount("changes", "/tmp", "tmpfs", 0, "size=64m")
        os.mkdir("/tmp/changed")
        os.mkdir("/tmp/work")
        os.chmod("/tmp/changed", os.fstat(below).st_mode & 0o7777)
        layers_of = f"lowerdir=/proc/self/fd/{below},upperdir=/tmp/changed,workdir=/tmp/work,userxattr"
        linux.mount("image", f"/proc/self/fd/{place}", "overlay", 0, layers_of)
        os.close(below)
        os.close(place)


class User(Wall):
    def __init__(self, image, rootfs):
        self.ids = find_user(image.user, rootfs)
        self.alone = open("/proc/self/setgroups").read().startswith("deny")

    def inside(self):
        if not self.alone:
            os.setgroups([*self.ids.groups])
        libc = ctypes.CDLL(None, use_errno=True)
        for call, number in ((libc.setresgid, self.ids.gid), (libc.setresuid, self.ids.uid)):
            if call(number, number, number):
                raise OSError(ctypes.get_errno(), "it stays who it is")


def forge(layer, forged, name, text):
    """An extra field of the header instead of a comment, and members of another compressor."""
    with open(layer, "rb") as file:
        plain = zlib.decompress(file.read(), 31)
    with open("/tmp/plain", "wb") as file:
        file.write(plain)
    said, there = text.encode(), False
    with tarfile.open("/tmp/plain") as old, tarfile.open("/tmp/new", "w") as new:
        for entry in old.getmembers():
            data = old.extractfile(entry) if entry.isreg() else None
            if data and entry.name.removeprefix("./") == name:
                there, entry.size = True, len(said)
                with open("/tmp/said", "wb") as file:
                    file.write(said)
                data = open("/tmp/said", "rb")
            new.addfile(entry, data)
    size = os.path.getsize(layer)
    plain = open("/tmp/new", "rb").read()
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = deflate.compress(plain) + deflate.flush()
    tail = zlib.crc32(plain).to_bytes(4, "little") + (len(plain) & 0xFFFFFFFF).to_bytes(4, "little")
    room = size - 10 - len(body) - len(tail)
    if not there or room < 0:
        raise ValueError("it cannot be said")
    flags, extra = 0, b""
    if room == 1:
        flags, extra = 16, b"\0"
    elif room:
        flags, extra = 4, (min(room, 65537) - 2).to_bytes(2, "little") + bytes(min(room, 65537) - 2)
        if room > 65537:
            flags, extra = 20, extra + b"x" * (room - 65538) + b"\0"
    header = bytes([31, 139, 8, flags]) + bytes(5) + b"\xff"
    with open(forged, "wb") as file:
        file.write(header + extra + body + tail)
