"""A class for each thing there is. tarfile reads headers; every directory is opened by openat2(2), from the root on.

No list of times is kept: each step that changes a directory puts its time back. Blobs are fetched by threads that share
a queue. The overlay is mounted with names that are relative to the working directory.
"""

import base64
import collections
import contextlib
import errno
import gzip
import hashlib
import io
import json
import os
import stat
import sys
import tarfile
import tempfile
import threading
import urllib.parse
import zlib

from thinwalls import image as words
from thinwalls import linux, transport
from thinwalls.wall import Program, Wall

from .stage00_process import launch


class Shelf:
    """A store."""

    def __init__(self, store):
        self.store = store

    def has(self, digest):
        return os.path.exists(words.blob_path(self.store, digest))

    def put(self, digest, pieces, size):
        target = words.blob_path(self.store, digest)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=self.store, prefix="coming-", delete=False) as file:
            try:
                check = hashlib.sha256()
                for piece in pieces:
                    check.update(piece)
                    if file.tell() + len(piece) > size:
                        raise words.BadImage(f"{digest} is longer than {size} bytes")
                    file.write(piece)
                if (file.tell(), check.hexdigest()) != (size, digest[7:]):
                    raise words.BadImage(f"{digest} is not what came")
                file.flush()
                os.fsync(file.fileno())
                os.replace(file.name, target)
            except BaseException:
                os.unlink(file.name)
                raise


class Challenge(dict):
    """What a header WWW-Authenticate asks for; empty if it is not Bearer."""

    def __init__(self, header):
        super().__init__()
        scheme, *rest = header.split(None, 1)[:2] or [""]
        self.rest = rest[0] if rest and scheme.upper() == "BEARER" else ""
        while self.rest:
            name, equals, self.rest = self.rest.lstrip(" ,\t").partition("=")
            if equals:
                self[name.strip().lower()] = self.value()

    def value(self):
        self.rest = self.rest.lstrip()
        if not self.rest.startswith('"'):
            plain, _, self.rest = self.rest.partition(",")
            return plain.strip()
        letters, said = iter(self.rest[1:]), ""
        for letter in letters:
            if letter == '"':
                break
            said += next(letters, "") if letter == "\\" else letter
        self.rest = "".join(letters)
        return said


def parse_challenge(header):
    return dict(Challenge(header))


class Registry:
    def __init__(self, reference, wire, login):
        self.wire, self.login, self.name = wire, login, reference.repository
        self.top = wire.url(reference.registry, f"/v2/{self.name}/")
        self.headers, self.renewing = {}, threading.Lock()

    def patiently(self, ask, where):
        """What ask(headers) gives. A refusal is answered by a token, once for each place that where() says."""
        places = []
        while True:
            headers = self.headers
            try:
                return (yield from ask(dict(headers)))
            except transport.Refused as refused:
                if where() in places:
                    raise
                places.append(where())
                with self.renewing:
                    if headers is self.headers:  # nobody else has a new one by now
                        self.headers = {"Authorization": f"Bearer {self.token(refused)}"}

    def manifest(self, name):
        def ask(headers):
            headers["Accept"] = ", ".join((*words.INDEXES, *words.MANIFESTS))
            yield self.wire.get(f"{self.top}manifests/{name}", headers).body

        return b"".join(self.patiently(ask, lambda: 0))

    def blob(self, blob):
        done = 0

        def ask(headers):
            nonlocal done
            for piece in self.wire.download(f"{self.top}blobs/{blob.digest}", headers, blob.size, done):
                done += len(piece)
                yield piece

        return self.patiently(ask, lambda: done)

    def token(self, refused):
        asked = Challenge(refused.headers.get("WWW-Authenticate", ""))
        if refused.status != 401 or not refused.url.startswith(self.top) or "realm" not in asked:
            raise refused
        realm = asked["realm"]
        if refused.url.startswith("https://") > realm.startswith("https://"):
            raise words.BadImage("the realm is not encrypted")
        query = {key: asked[key] for key in ("service",) if asked.get(key)}
        query["scope"] = f"repository:{self.name}:pull"
        proof = {}
        if self.login:
            proof["Authorization"] = "Basic " + base64.b64encode(":".join(self.login).encode()).decode()
        answer = self.wire.get(realm + "?&"["?" in realm] + urllib.parse.urlencode(query), proof)
        found = json.loads(answer.body)
        return found.get("token") or found["access_token"]


class Pull:
    """One image on its way into a store."""

    def __init__(self, name, store, wire, login, platform):
        self.reference = transport.parse_reference(name)
        self.registry = Registry(self.reference, wire, login)
        self.shelf, self.platform = Shelf(store), platform
        self.todo, self.trouble = collections.deque(), []

    def document(self, name, size=None):
        if ":" in name and self.shelf.has(name):
            return name
        body = self.registry.manifest(name)
        digest = name if ":" in name else "sha256:" + hashlib.sha256(body).hexdigest()
        self.shelf.put(digest, (body,), len(body) if size is None else size)
        return digest

    def run(self):
        digest = self.document(self.reference.digest or self.reference.tag)
        found = words.load(self.shelf.store, digest)
        if "manifests" in found:
            part = choose(found, self.platform)
            digest = self.document(part.digest, part.size)
        config, blobs = words.read_manifest(self.shelf.store, digest)
        for blob in (*blobs, config):
            if blob not in self.todo and not self.shelf.has(blob.digest):
                self.todo.append(blob)
        workers = [threading.Thread(target=self.work) for _ in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        if self.trouble:
            raise self.trouble[0]
        return digest

    def work(self):
        with contextlib.suppress(IndexError):
            while not self.trouble:
                blob = self.todo.popleft()
                try:
                    self.shelf.put(blob.digest, self.registry.blob(blob), blob.size)
                except Exception as error:
                    self.trouble.append(error)


def pull(name, store, transport, login=None, platform=""):
    return Pull(name, store, transport, login, platform).run()


def choose(index, platform=""):
    if not {"layers", "config"}.isdisjoint(index):
        raise words.BadImage("what is it, an index or a manifest?")
    wanted = words.platform_parts(platform)
    offered = [(words.platform_of(part), part) for part in index.get("manifests") or []]
    right = [part for parts, part in offered if parts and all(a == b for a, b in zip(wanted, parts + [None] * 3))]
    if not right:
        raise words.BadImage(f"not for {platform}, only for {sorted('/'.join(parts) for parts, _ in offered)}")
    return words.descriptor(right[0])


class Layer:
    """A layer's file, as a stream of tarfile's."""

    def __init__(self, path, media_type):
        self.path, self.kind = path, media_type

    @contextlib.contextmanager
    def opened(self):
        if self.kind.endswith("gzip"):
            with gzip.open(self.path) as file:
                yield file
        elif self.kind.endswith("zstd"):
            with open(self.path, "rb") as file, tempfile.TemporaryFile() as plain:
                program = Program(["zstd", "-dcq"], {"PATH": os.defpath}, None, file.fileno(), plain.fileno())
                if launch(program):
                    raise words.BadImage("it cannot be decompressed")
                plain.seek(0)
                yield plain
        elif self.kind.endswith("tar"):
            with open(self.path, "rb") as file:
                yield file
        else:
            raise words.BadImage(f"what is {self.kind}?")

    def each(self, do):
        """Call do(entry, its data as a file) for each entry."""
        try:
            with self.opened() as file, tarfile.open(fileobj=file, mode="r|", errorlevel=2) as archive:
                while entry := archive.next():
                    archive.members.clear()  # it need not remember them
                    try:
                        do(entry, archive.extractfile(entry) if entry.isreg() else None)
                    except (OSError, ValueError) as error:
                        raise words.BadImage(f"{entry.name}: {error}") from error
        except (tarfile.TarError, EOFError, zlib.error) as error:
            raise words.BadImage(f"the layer is broken: {error}") from error


class Directory:
    """An open directory. In a `with`, its time is afterwards what it was, whatever has been made in it."""

    def __init__(self, fd):
        self.fd = fd

    def __enter__(self):
        self.status = os.fstat(self.fd)
        return self

    def __exit__(self, *_):
        os.utime(self.fd, ns=(self.status.st_atime_ns, self.status.st_mtime_ns))
        os.close(self.fd)

    def look(self, name):
        try:
            return os.lstat(self.path(name))
        except FileNotFoundError:
            return None

    def path(self, name):
        """Of the name itself, which is no way to anywhere."""
        return f"/proc/self/fd/{self.fd}/{name}"

    def below(self, name):
        return Directory(os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=self.fd))

    def clear(self, name, spared=frozenset()):
        """Remove a name and all below it, but what is spared, as (device, inode, name). Gives whether it is gone."""
        status = self.look(name)
        if status is None:
            return True
        free = (self.status.st_dev, self.status.st_ino, name) not in spared
        if stat.S_ISDIR(status.st_mode):
            with self.below(name) as inner:
                free = all([inner.clear(each, spared) for each in os.listdir(inner.fd)]) and free
            if free:
                os.rmdir(name, dir_fd=self.fd)
        elif free:
            os.unlink(name, dir_fd=self.fd)
        return free


class Root:
    def __init__(self, path, limits):
        self.fd = os.open(path, os.O_PATH | os.O_DIRECTORY)
        self.left = [limits.entries, limits.size]
        self.mine, self.devices = set(), []

    def open(self, path):
        how = linux.RESOLVE_IN_ROOT | linux.RESOLVE_NO_MAGICLINKS
        return linux.openat2(self.fd, path or ".", os.O_RDONLY | os.O_DIRECTORY, how)

    def directory(self, parts):
        """Whatever is missing on the way is made by its own name, in the directory before it."""
        try:
            return Directory(self.open("/".join(parts)))
        except FileNotFoundError:
            with self.directory(parts[:-1]) as above:
                os.mkdir(parts[-1], dir_fd=above.fd)
                os.chmod(parts[-1], 0o755, dir_fd=above.fd)
        return Directory(self.open("/".join(parts)))

    def layer(self, layer):
        self.mine.clear()
        layer.each(self.entry)

    def entry(self, entry, data):
        self.left = [self.left[0] - 1, self.left[1] - entry.size]
        parts = self.plain(entry)
        *above, name = parts or ["."]
        with self.directory(above) as directory:
            if name == ".wh..wh..opq":
                for each in os.listdir(directory.fd):
                    directory.clear(each, self.mine)
            elif name.startswith(".wh."):
                if not name.startswith(".wh..wh."):
                    directory.clear(name[4:], self.mine)
            elif entry.isdev() and not entry.isfifo():
                self.devices.append(entry.name)
            else:
                self.mine.add((directory.status.st_dev, directory.status.st_ino, name))
                Made(self, directory, name, entry).put(data)
                if name == ".":
                    directory.status = os.fstat(directory.fd)

    def plain(self, entry):
        """The parts of an entry's path. Raises ValueError for an entry that is not honest."""
        ways = [entry.name.split("/"), entry.linkname.split("/") if entry.islnk() else ["."]]
        device = (entry.devmajor, entry.devminor) if entry.ischr() else None
        last = ways[0][-1]
        for reason, there in {
            "too many entries, or bytes": min(self.left) < 0,
            "a path from the machine's root": any(way[0] == "" for way in ways),
            "a path upward": any(".." in way for way in ways),
            "a whiteout of no name": last.startswith(".wh.") and last[4:] in ("", ".", ".."),
            "no directory, and the root": last in ("", ".") and not entry.isdir(),
            "a device of the machine": entry.isblk() or (device and device not in words.DEFAULT_DEVICES),
            "an owner that is nobody": not all(number in range(words.NOBODY) for number in (entry.uid, entry.gid)),
            "a thing of no known type": not (entry.isreg() or entry.isdir() or entry.issym() or entry.islnk())
            and not entry.isdev(),
        }.items():
            if there:
                raise ValueError(reason)
        return [part for part in ways[0] if part not in ("", ".")]


class Made:
    """What an entry becomes."""

    def __init__(self, root, directory, name, entry):
        self.root, self.directory, self.name, self.entry = root, directory, name, entry
        self.place = {"dir_fd": directory.fd}

    def put(self, data):
        old = self.directory.look(self.name)
        stays = self.entry.isdir() and old is not None and stat.S_ISDIR(old.st_mode)
        if not stays:
            self.directory.clear(self.name)
        if self.entry.islnk():
            return self.another_name()
        if self.entry.isdir() and not stays:
            os.mkdir(self.name, 0o700, **self.place)
        elif self.entry.issym():
            os.symlink(self.entry.linkname, self.name, **self.place)
        elif self.entry.isfifo():
            os.mkfifo(self.name, 0o600, **self.place)
        elif data:
            with open(self.name, "xb", opener=lambda name, flags: os.open(name, flags, 0o600, **self.place)) as file:
                while piece := data.read(1 << 16):
                    file.write(piece)
        self.finish()

    def another_name(self):
        *above, old = [part for part in self.entry.linkname.split("/") if part not in ("", ".")] or ["."]
        with self.root.directory(above) as other:
            os.link(old, self.name, src_dir_fd=other.fd, dst_dir_fd=self.directory.fd, follow_symlinks=False)

    def finish(self):
        try:
            os.chown(self.name, self.entry.uid, self.entry.gid, follow_symlinks=False, **self.place)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        if not self.entry.issym():
            os.chmod(self.name, self.entry.mode & 0o7777, **self.place)
        for key, value in self.entry.pax_headers.items():
            if key.startswith("SCHILY.xattr.") and ".overlay." not in key:
                with contextlib.suppress(OSError):
                    raw = value.encode("utf-8", "surrogateescape")
                    os.setxattr(self.directory.path(self.name), key[13:], raw, follow_symlinks=False)
        when = round(self.entry.mtime * 10**9)
        os.utime(self.name, ns=(when, when), follow_symlinks=False, **self.place)


def unpack(store, digest, rootfs, limits=words.LIMITS):
    root = Root(rootfs, limits)
    try:
        for blob in words.read_manifest(store, digest)[1]:
            root.layer(Layer(words.blob_path(store, blob.digest), blob.media_type))
    finally:
        os.close(root.fd)
    if root.devices:
        print("without the devices", *root.devices, file=sys.stderr)


class Accounts:
    """The image's own lists of users and groups."""

    def __init__(self, rootfs):
        self.users = words.lines_of(rootfs, "/etc/passwd", 7)
        self.groups = words.lines_of(rootfs, "/etc/group", 4)

    def find(self, text):
        name, *group = (text or "0").split(":", 1)
        mine = self.line(self.users, name)
        ids = {"uid": self.number(mine[2] if mine else name), "home": (mine[5] if mine else "") or "/"}
        if group:
            there = None if group[0].isdigit() else self.line(self.groups, group[0])
            return words.Ids(**ids, gid=self.number(there[2] if there else group[0]))
        others = [self.number(row[2]) for row in self.groups if mine and mine[0] in row[3].split(",")]
        return words.Ids(**ids, gid=self.number(mine[3]) if mine else 0, groups=others)

    def line(self, table, name):
        column = 2 if name.isdigit() else 0
        return next((row for row in table if name and row[column] == name), None)

    def number(self, text):
        try:
            value = int(text.encode("ascii")) if set(text) <= set("0123456789") and len(text) < 100 else -1
        except ValueError:
            value = -1
        if not 0 <= value < words.NOBODY:
            raise words.BadImage(f"{text!r} is nobody's name, and no number that counts")
        return value


def find_user(user, rootfs):
    return Accounts(rootfs).find(user)


def program(image, rootfs, command=(), env={}):
    argv = [*image.entrypoint]
    argv += command or image.command
    if not argv:
        raise words.BadImage("there is nothing to run")
    usual = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": find_user(image.user, rootfs).home}
    return Program(argv, collections.ChainMap(dict(env), dict(image.env), usual), image.cwd)


class Disposable(Wall):
    def __init__(self, image, rootfs):
        self.image, self.rootfs, self.flags = image, rootfs, linux.CLONE_NEWNS

    def inside(self):
        """All three directories lie on one tmpfs, the image as a bind mount, and are named from there."""
        linux.mount(None, "/", None, linux.MS_PRIVATE | linux.MS_REC)
        before = os.open(".", os.O_PATH)
        linux.mount("tmpfs", self.rootfs, "tmpfs", linux.MS_NODEV)
        os.chdir(self.rootfs)
        for name in ("image", "changes", "work"):
            os.mkdir(name)
        linux.mount(self.image, "image", None, linux.MS_BIND | linux.MS_REC)
        os.chmod("changes", stat.S_IMODE(os.stat("image").st_mode))
        linux.mount("overlay", self.rootfs, "overlay", 0, "userxattr,lowerdir=image,upperdir=changes,workdir=work")
        os.fchdir(before)
        os.close(before)


class User(Wall):
    def __init__(self, image, rootfs):
        self.ids = find_user(image.user, rootfs)
        with open("/proc/self/setgroups") as file:
            self.groups = None if file.read().startswith("deny") else list(self.ids.groups)

    def inside(self):
        if self.groups is not None:
            os.setgroups(self.groups)
        os.setresgid(*[self.ids.gid] * 3)
        os.setresuid(*[self.ids.uid] * 3)


def forge(layer, forged, name, text):
    """What is left of the length is the name of a file, in the header."""
    with tempfile.TemporaryFile() as packed:
        with tarfile.open(layer) as old, tarfile.open(fileobj=packed, mode="w") as new:
            names = [entry.name for entry in old if entry.isreg() and os.path.normpath(entry.name) == name]
            if not names:
                raise ValueError("no such file")
            for entry in old:
                data = old.extractfile(entry) if entry.isreg() else None
                if entry.isreg() and entry.name in names:
                    data = io.BytesIO(text.encode())
                    entry.size = len(data.getvalue())
                new.addfile(entry, data)
        packed.seek(0)
        plain = packed.read()
    deflated = zlib.compress(plain, 9, -15)
    room = os.stat(layer).st_size - len(deflated) - 18
    if room < 0:
        raise ValueError(f"{-room} bytes too much")
    with open(forged, "wb") as file:
        file.write(bytes((31, 139, 8, 8 if room else 0, 0, 0, 0, 0, 0, 3)))
        file.write(b"n" * (room - 1) + b"\0" if room else b"")
        file.write(deflated)
        for number in (zlib.crc32(plain), len(plain) & 0xFFFFFFFF):
            file.write(number.to_bytes(4, "little"))
