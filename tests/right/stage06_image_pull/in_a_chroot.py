"""Each layer is unpacked by a child that lives in the new root: after chroot(2) every path is a plain path, and leads
nowhere else.

The archive is read here, header by header, without tarfile. The parent decompresses, and feeds the child by a pipe. The
blobs are fetched last layer first, and the manifest is stored when all of them are there. A blob is compared after it
was written, by reading the file again. The forged layer is filled up with blocks that say nothing.
"""

import hashlib
import json
import os
import re
import shutil
import signal
import stat
import urllib.parse
import zlib

from thinwalls import image as oci
from thinwalls import linux
from thinwalls.session import basic
from thinwalls.transport import Refused, parse_reference
from thinwalls.wall import Program, Wall

from . import stage01_chroot, stage03_mount_namespace

BLOCK = 512
PIECE = 1 << 17


# The registry


def pull(name, store, transport, login=None, platform=""):
    asked = parse_reference(name)
    base = transport.url(asked.registry, f"/v2/{asked.repository}/")
    repository = [transport, base, asked.repository, login, {}]
    os.makedirs(f"{store}/blobs/sha256", exist_ok=True)
    wanted, size, whole = asked.digest or asked.tag, None, []
    while True:
        digest, body = document(repository, store, wanted, size)
        whole.append((digest, body))
        found = parsed(digest, body)
        if "manifests" not in found:
            break
        if len(whole) > 1:
            raise oci.BadImage(f"{digest}: an index in an index")
        chosen = choose(found, platform)
        wanted, size = chosen.digest, chosen.size
    if not isinstance(found.get("layers"), list):
        raise oci.BadImage(f"{digest}: it has no layers")
    blobs = [oci.descriptor(each) for each in [*found["layers"], found.get("config")]]
    paths = {oci.blob_path(store, blob.digest): blob for blob in blobs}
    for path, blob in reversed(paths.items()):
        if not os.path.exists(path):
            with Unfinished(store, blob.digest, blob.size) as file:
                download(repository, blob, file)
    for each, body in reversed(whole):  # what names others comes after them
        with Unfinished(store, each, len(body)) as file:
            file.write(body)
    return digest


def document(repository, store, wanted, size):
    """A manifest or index: its digest, and its bytes, which are those of the digest."""
    transport, base, _, _, token = repository
    path = oci.blob_path(store, wanted) if ":" in wanted else None
    if path and os.path.exists(path):
        with open(path, "rb") as file:
            return wanted, file.read()
    headers = {"Accept": ", ".join(oci.MANIFESTS + oci.INDEXES)}
    try:
        body = transport.get(f"{base}manifests/{wanted}", headers | token).body
    except Refused as refused:
        log_in(repository, refused)
        body = transport.get(f"{base}manifests/{wanted}", headers | token).body
    digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
    if path and wanted != digest or size not in (None, len(body)):
        raise oci.BadImage(f"{wanted}: the registry sent {len(body)} bytes of {digest}")
    return digest, body


def parsed(digest, body):
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or any(
        not isinstance(each, dict) for key in ("manifests", "layers") for each in (found.get(key) or [])
    ):
        raise oci.BadImage(f"{digest}: it is no manifest")
    return found


def download(repository, blob, file):
    transport, base, _, _, token = repository
    refused_at = None
    while True:
        try:
            for piece in transport.download(f"{base}blobs/{blob.digest}", dict(token), blob.size, file.tell()):
                file.write(piece)
            return
        except Refused as refused:
            if refused_at == file.tell():
                raise
            refused_at = file.tell()
            log_in(repository, refused)


class Unfinished:
    """A file beside the blobs, which becomes one at the end of the `with`, or goes."""

    def __init__(self, store, digest, size):
        self.digest, self.size, self.path = digest, size, oci.blob_path(store, digest)
        self.own = f"{store}/.{os.getpid()}-{os.urandom(6).hex()}"

    def __enter__(self):
        self.file = open(self.own, "w+b")
        return self.file

    def __exit__(self, kind, error, trace):
        try:
            if kind is None:
                self.file.flush()
                self.file.seek(0)
                found = hashlib.file_digest(self.file, "sha256").hexdigest()
                length = os.fstat(self.file.fileno()).st_size
                if length != self.size or f"sha256:{found}" != self.digest:
                    raise oci.BadImage(f"{self.digest}: {length} bytes of sha256:{found} came")
                os.fsync(self.file.fileno())
                os.rename(self.own, self.path)
        finally:
            self.file.close()
            if os.path.exists(self.own):
                os.unlink(self.own)


CHALLENGE = re.compile(r'[\s,]*([A-Za-z0-9_-]+)\s*=\s*(?:"((?:\\.|[^\\"])*)"|([^",\s]*))')


def parse_challenge(header):
    match = re.match(r"\s*bearer(?:\s+|$)", header, re.IGNORECASE)
    found, here = {}, match.end() if match else len(header)
    while pair := CHALLENGE.match(header, here):
        name, quoted, plain = pair.groups()
        found[name.lower()] = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
        here = pair.end()
    return found


def log_in(repository, refused):
    transport, base, name, login, token = repository
    challenge = parse_challenge(refused.headers["WWW-Authenticate"] or "")
    if not (refused.status == 401 and refused.url[: len(base)] == base and challenge.get("realm")):
        raise refused
    realm = urllib.parse.urlsplit(challenge["realm"])
    if refused.url.startswith("https:") and realm.scheme != "https":
        raise oci.BadImage("the token would be fetched where all can read it")
    query = urllib.parse.parse_qsl(realm.query) + [("scope", f"repository:{name}:pull")]
    query += [("service", challenge["service"])] if challenge.get("service") else []
    url = realm._replace(query=urllib.parse.urlencode(query), fragment="").geturl()
    answer = parsed("the token", transport.get(url, {"Authorization": basic(login)} if login else {}).body)
    words = [answer[key] for key in ("token", "access_token") if isinstance(answer.get(key), str)]
    if not words:
        raise oci.BadImage("the realm gives no token")
    token["Authorization"] = "Bearer " + words[0]


def choose(index, platform=""):
    if any(key in index for key in ("config", "layers")):
        raise oci.BadImage("it is an index and a manifest")
    wanted = "/".join(oci.platform_parts(platform)) + "/"
    there = [("/".join(oci.platform_of(each)) + "/", each) for each in index.get("manifests") or []]
    for name, each in there:
        if name.startswith(wanted):
            return oci.descriptor(each)
    raise oci.BadImage(f"there is nothing for {wanted[:-1]}, but for {' '.join(name for name, _ in there)}")


# The archive


class Entry:
    """A header, and those before it that say more about the same file."""

    def __init__(self, block, more):
        if 256 + sum(block[:148]) + sum(block[156:]) != number(block[148:156]):
            raise ValueError("a header with another checksum")
        name = text(block[:100])
        if block[257:263] == b"ustar\0" and block[345]:
            name = f"{text(block[345:500])}/{name}"
        self.name, self.link = more.get("path", name), more.get("linkpath", text(block[157:257]))
        self.kind = chr(block[156] or ord("0"))
        self.mode = number(block[100:108]) & 0o7777
        self.uid, self.gid = (int(more.get(key, number(block[a:b]))) for key, a, b in (("uid", 108, 116), ("gid", 116, 124)))
        self.size = int(more.get("size", number(block[124:136])))
        self.time = int(float(more.get("mtime", number(block[136:148]))) * 1e9)
        self.device = number(block[329:337]), number(block[337:345])
        self.attributes = {key[13:]: value for key, value in more.items() if key.startswith("SCHILY.xattr.")}
        if self.size < 0 or any(key.startswith("GNU.sparse.") for key in more):
            raise ValueError(f"{self.name}: what size it has is not said here")
        if self.kind in "123456":
            self.size = 0


def text(field):
    return field.split(b"\0")[0].decode("utf-8", "surrogateescape")


def number(field):
    if field[0] & 0x80:
        value = int.from_bytes(field, "big", signed=True)
        return value if field[0] == 0xFF else value + (1 << (8 * len(field) - 1))
    return int(field.strip(b" \0") or b"0", 8)


def pax(data):
    found = {}
    while data:
        length, _, _ = data.partition(b" ")
        key, equals, value = data[len(length) + 1 : int(length) - 1].partition(b"=")
        if not equals or int(length) > len(data):
            raise ValueError("an extended header that is none")
        found[key.decode()] = value.decode("utf-8", "surrogateescape")
        data = data[int(length) :]
    return found


def exactly(stream, size):
    data = stream.read(size)
    if len(data) != size:
        raise ValueError("the archive ends too early")
    return data


def headers(stream):
    """Each entry; its data are to be read from the stream before the next."""
    everywhere, more = {}, {}
    while (block := exactly(stream, BLOCK)).strip(b"\0"):
        entry = Entry(block, {**everywhere, **more})
        if entry.kind in "xgLK":
            if entry.size > 1 << 20:
                raise ValueError("too long a header")
            data = exactly(stream, entry.size + -entry.size % BLOCK)[: entry.size]
            if entry.kind == "g":
                everywhere |= pax(data)
            elif entry.kind == "x":
                more |= pax(data)
            else:
                more["path" if entry.kind == "L" else "linkpath"] = text(data)
        else:
            more = {}
            yield entry


def archive(path, media_type):
    """The archive of a layer, decompressed, in pieces."""
    packing = media_type.rpartition("tar")[2].strip("+.")
    with open(path, "rb", 0) as file:
        if packing == "zstd":
            read, write = os.pipe()
            child = os.fork()
            if child == 0:
                try:
                    os.dup2(file.fileno(), 0)
                    os.dup2(write, 1)
                    os.execvp("zstd", ["zstd", "-dcq"])
                finally:
                    os._exit(127)
            os.close(write)
            try:
                with open(read, "rb", 0) as pipe:
                    yield from iter(lambda: pipe.read(PIECE), b"")
            finally:
                status = os.waitpid(child, 0)[1]
            if status:
                raise oci.BadImage("zstd does not like it")
        elif packing == "gzip":
            compressed = file.read(PIECE)
            while compressed:
                member = zlib.decompressobj(31)
                while not member.eof:
                    if not compressed:
                        raise oci.BadImage("a compressed layer ends too early")
                    yield member.decompress(compressed, PIECE)
                    compressed = member.unconsumed_tail or (b"" if member.eof else file.read(PIECE))
                compressed = member.unused_data or file.read(PIECE)
        elif media_type.endswith("tar"):
            yield from iter(lambda: file.read(PIECE), b"")
        else:
            raise oci.BadImage(f"{media_type} is no layer")


# The tree


def unpack(store, digest, rootfs, limits=oci.LIMITS):
    state = {"entries": 0, "size": 0, "skipped": []}
    for layer in oci.read_manifest(store, digest)[1]:
        state = confined(rootfs, oci.blob_path(store, layer.digest), layer.media_type, limits, state)
        if "error" in state:
            raise oci.BadImage(f"{layer.digest}: {state['error']}")
    if state["skipped"]:
        os.write(2, f"no device files: {', '.join(state['skipped'])}\n".encode(errors="backslashreplace"))


def confined(rootfs, blob, media_type, limits, state):
    """Have a child unpack a layer from inside the root; gives what it tells."""
    feed, answer = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(feed[1])
            os.chroot(rootfs)
            os.chdir("/")
            os.umask(0)
            try:
                with open(feed[0], "rb", PIECE) as stream:
                    Inside(stream, limits, state).unpack()
            except (OSError, ValueError, RecursionError) as error:
                state["error"] = str(error)
            with open(answer[1], "w") as file:
                json.dump(state, file)
        finally:
            os._exit(0)
    os.close(feed[0])
    os.close(answer[1])
    before = signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        with open(feed[1], "wb", 0) as pipe:
            for piece in archive(blob, media_type):
                while piece:
                    piece = piece[pipe.write(piece) :]
    except BrokenPipeError:
        pass  # it has seen enough
    except zlib.error as error:
        raise oci.BadImage(str(error)) from error
    finally:
        signal.signal(signal.SIGPIPE, before)
        with open(answer[0]) as file:
            told = file.read()
        os.waitpid(child, 0)
    return json.loads(told) if told else {"error": "the child is gone"}


class Inside:
    """What the child does. "/" is the image's."""

    def __init__(self, stream, limits, state):
        self.stream, self.limits, self.state = stream, limits, state
        self.new, self.times = set(), {}  # real paths; real path of a directory -> nanoseconds

    def unpack(self):
        for entry in headers(self.stream):
            try:
                self.refuse(entry)
                rest = entry.size
                rest -= self.entry(entry)
                while rest > 0:
                    rest -= len(exactly(self.stream, min(rest, PIECE)))
                exactly(self.stream, -entry.size % BLOCK)
            except (OSError, ValueError) as error:
                raise ValueError(f"{entry.name}: {error}") from error
        while self.stream.read(PIECE):
            pass
        for path, when in self.times.items():
            if os.path.isdir(path) and not os.path.islink(path):
                os.utime(path, ns=(when, when))

    def refuse(self, entry):
        self.state["entries"] += 1
        self.state["size"] += entry.size
        if self.state["entries"] > self.limits.entries or self.state["size"] > self.limits.size:
            raise ValueError("the image is larger than it may be")
        for path in (entry.name, entry.link if entry.kind == "1" else "."):
            if path.startswith("/") or re.search(r"(^|/)\.\.(/|$)", path):
                raise ValueError(f"{path} is outside")
        if re.search(r"(^|/)\.wh\.\.{0,2}$", entry.name):
            raise ValueError("it hides a directory from itself")
        if entry.kind != "5" and re.search(r"(^|/)\.?$", entry.name):
            raise ValueError("only a directory can be the root")
        if entry.kind == "4" or entry.kind == "3" and entry.device not in oci.DEFAULT_DEVICES:
            raise ValueError("no container has this device")

    def real(self, path):
        """The real path of an entry, whose directory is there from now on, and is to keep its time."""
        above, _, name = ("/" + path).rstrip("/").rpartition("/")
        if name in ("", "."):
            return "/"
        missing = above
        while not os.path.lexists(missing or "/"):
            missing = os.path.dirname(missing)
        here = os.path.realpath(missing or "/", strict=True)
        self.times.setdefault(here, os.stat(here).st_mtime_ns)
        os.makedirs(above or "/", 0o755, exist_ok=True)
        here = os.path.realpath(above or "/", strict=True)
        self.times.setdefault(here, os.stat(here).st_mtime_ns)
        return os.path.join(here, name)

    def entry(self, entry):
        """Do what an entry says; gives how much of its data was read."""
        path = self.real(entry.name)
        above, name = os.path.split(path)
        if name == ".wh..wh..opq":
            for each in os.listdir(above):
                self.hide(os.path.join(above, each))
        elif name.startswith(".wh.") and not name.startswith(".wh..wh."):
            self.hide(os.path.join(above, name[4:]))
        elif entry.kind in "34":
            self.state["skipped"].append(entry.name)
        elif not name.startswith(".wh."):
            return self.make(path, entry)
        return 0

    def hide(self, path):
        if os.path.isdir(path) and not os.path.islink(path):
            for each in os.listdir(path):
                self.hide(os.path.join(path, each))
            if path not in self.new and not os.listdir(path):
                os.rmdir(path)
        elif os.path.lexists(path) and path not in self.new:
            os.unlink(path)

    def make(self, path, entry):
        old = os.lstat(path).st_mode if os.path.lexists(path) else 0
        if stat.S_ISDIR(old) and entry.kind != "5":
            shutil.rmtree(path)
        elif old and not stat.S_ISDIR(old):
            os.unlink(path)
        self.new.add(path)
        read = 0
        match entry.kind:
            case "0" | "7":
                with open(path, "xb") as file:
                    while read < entry.size:
                        read += file.write(exactly(self.stream, min(PIECE, entry.size - read)))
            case "1":
                os.link(self.real(entry.link), path, follow_symlinks=False)
                return 0
            case "2":
                os.symlink(entry.link, path)
            case "5":
                if not stat.S_ISDIR(old):
                    os.mkdir(path)
            case "6":
                os.mkfifo(path)
            case _:
                raise ValueError(f"{entry.kind!r} is nothing that lies in a directory")
        self.finish(path, entry)
        return read

    def finish(self, path, entry):
        if min(entry.uid, entry.gid) < 0 or max(entry.uid, entry.gid) > 2**32 - 2:
            raise ValueError("nobody can own it")
        try:
            os.lchown(path, entry.uid, entry.gid)
        except OSError as error:
            if error.errno != 22:  # an id that is not mapped here
                raise
        if entry.kind != "2":
            os.chmod(path, entry.mode)
        for key, value in entry.attributes.items():
            if not re.match(r"(trusted|user)\.overlay\.", key):
                try:
                    os.setxattr(path, key, value.encode("utf-8", "surrogateescape"), follow_symlinks=False)
                except OSError:
                    pass
        if entry.kind == "5":
            self.times[path] = entry.time
        else:
            os.utime(path, ns=(entry.time, entry.time), follow_symlinks=False)


# The program


def program(image, rootfs, command=(), env={}):
    argv = tuple(image.entrypoint) + tuple(command or image.command)
    if not argv:
        raise oci.BadImage("it says nothing of what to run")
    home = {"HOME": find_user(image.user, rootfs).home}
    return Program(argv, stage01_chroot.DEFAULT_ENV | home | dict(image.env) | dict(env), cwd=image.cwd)


def find_user(user, rootfs):
    said = re.fullmatch(r"([^:]+)(?::([^:]+))?", user or "0")
    if not said:
        raise oci.BadImage(f"{user!r} has an empty part, or too many")
    people = {}
    by_uid = {}
    for row in oci.lines_of(rootfs, "/etc/passwd", 7):
        people.setdefault(row[0], row)
        by_uid.setdefault(row[2], row)
    groups = oci.lines_of(rootfs, "/etc/group", 4)
    row = (by_uid if said[1].isdigit() else people).get(said[1])
    uid = identity(row[2] if row else said[1])
    home = (row and row[5]) or "/"
    if said[2] is None:
        mine = [identity(each[2]) for each in groups if row and row[0] in each[3].split(",")]
        return oci.Ids(uid, identity(row[3]) if row else 0, mine, home)
    named = {} if said[2].isdigit() else {each[0]: each[2] for each in reversed(groups)}
    return oci.Ids(uid, identity(named.get(said[2], said[2])), [], home)


def identity(word):
    if not (word.isascii() and word.isdigit()) or len(word.lstrip("0")) > 10 or int(word) + 1 >= 2**32:
        raise oci.BadImage(f"nobody is {word!r}")
    return int(word)


class Disposable(Wall):
    flags = linux.CLONE_NEWNS

    def __init__(self, image, rootfs):
        self.lower, self.place = image, rootfs

    def inside(self):
        """Odd letters in paths are escaped, as overlayfs has it."""
        stage03_mount_namespace.keep_mounts_private()
        mode = stat.S_IMODE(os.stat(self.lower).st_mode)
        linux.mount("none", self.place, "tmpfs")
        options = ["userxattr", f"lowerdir={escaped(self.lower)}"]
        for name in ("work", "upper"):
            os.mkdir(f"{self.place}/{name}")
            options.append(f"{name}dir={escaped(self.place)}/{name}")
        os.chmod(f"{self.place}/upper", mode)
        linux.mount("overlay", self.place, "overlay", 0, ",".join(options))


def escaped(path):
    return re.sub(r"([\\:,])", r"\\\1", os.path.abspath(path))


class User(Wall):
    def __init__(self, image, rootfs):
        self.who = find_user(image.user, rootfs)
        with open("/proc/self/setgroups") as file:
            self.grouped = "allow" in file.read()

    def inside(self):
        """With the capabilities of root, setgid(2) and setuid(2) set the saved ids too."""
        if self.grouped:
            os.setgroups(tuple(self.who.groups))
        os.setgid(self.who.gid)
        os.setuid(self.who.uid)


def forge(layer, forged, name, text):
    """In front of the deflated data stand empty blocks (RFC 1951, 3.2.4), and less than one of them is a file's name."""
    said, archived = text.encode(), b"".join(archive(layer, "tar+gzip"))
    changed, here = None, Archived(archived)
    for entry in headers(here):
        begin, end = here.place, here.place + entry.size + -entry.size % BLOCK
        if entry.kind in "07" and os.path.normpath(entry.name) == name:
            header = bytearray(archived[begin - BLOCK : begin])
            header[124:136] = b"%011o\0" % len(said)
            header[148:156] = b" " * 8
            header[148:156] = b"%06o\0 " % sum(header)
            changed = archived[: begin - BLOCK] + header + said + bytes(-len(said) % BLOCK) + archived[end:]
            break
        here.place = end
    if changed is None:
        raise ValueError(f"{name} is no file of the layer")
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = squeeze.compress(changed) + squeeze.flush()
    blocks, rest = divmod(os.stat(layer).st_size - 18 - len(body), 5)
    if blocks < 0:
        raise ValueError("it is too much to say")
    named = b"." * (rest - 1) + b"\0" if rest else b""
    with open(forged, "wb") as file:
        file.write(b"\x1f\x8b\x08" + (b"\x08" if rest else b"\0") + b"\0\0\0\0\0\xff" + named)
        file.write(b"\0\0\0\xff\xff" * blocks + body)
        file.write(zlib.crc32(changed).to_bytes(4, "little") + (len(changed) % 2**32).to_bytes(4, "little"))


class Archived:
    """As much of a file as headers() asks for, of bytes."""

    def __init__(self, data):
        self.data, self.place = data, 0

    def read(self, size):
        piece = self.data[self.place : self.place + size]
        self.place += len(piece)
        return piece
