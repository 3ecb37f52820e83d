"""The images of this machine: blobs that were verified here, and the trees that were unpacked from them.

The learner's code pulls and unpacks, in a throwaway host, into a directory that is thrown away. Out of that the trusted
side takes only what it has checked: a blob that has the digest it is called by. So the store holds nothing that anybody
could have put there under a false name, whatever the code that pulled it does. A tree is that code's own work, and is
kept for it alone: under a name that changes with the code.

Everything lies in $XDG_CACHE_HOME/thinwalls/images (~/.cache/thinwalls/images), which only its owner may enter.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
import sys
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from thinwalls import course, whole
from thinwalls.door import PORT, Door
from thinwalls.host import GATEWAY, Host, HostError, Keeper, Late, Tree
from thinwalls.reference import parse_reference

STAGE = "06"
STORE, TREE = "/srv/store", "/srv/tree"  # where a host has them
_HAVE = "/srv/have"
_PATIENCE = 3600.0  # seconds that a pull may stand still between two words of it
_MANIFEST = 4 * 2**20  # bytes that a manifest may have
_DIGEST = re.compile("sha256:([0-9a-f]{64})")
_AUTHORITIES = "/course/authorities.pem"  # where a host has the file that SSL_CERT_FILE names
_CERTIFICATE = re.compile("-----BEGIN (?:TRUSTED )?CERTIFICATE-----[^-]+-----END (?:TRUSTED )?CERTIFICATE-----")
_CERTIFICATES = (
    "/etc/ssl/certs",
    "/etc/pki/tls/certs",
    "/etc/pki/ca-trust/extracted",
    "/etc/ca-certificates/extracted",
)
Show = Callable[[str, int, int | None], None]  # told what, how many bytes of it are here, and of how many


class Unusable(Exception):
    """The image cannot be had; the words are for the person who asked for it."""


def pull(name: str, files: dict[str, str], keeper: Keeper, show: Show, login: tuple[str, str] | None = None) -> str:
    """Have the implementation in ``files`` pull an image, and keep what it brought; gives the manifest's digest.

    name: as people write it. files: the stages, as for a Host. login: a name and a password for the registry.
    Raises Unusable, and HostError.
    """
    reference = _reference(name)
    authorities = _authorities()
    with in_use(), _staging("pull", keeper) as staging:
        blobs = staging / "blobs" / "sha256"
        blobs.mkdir(parents=True)
        for (
            blob
        ) in _blobs().iterdir():  # what is here need not be fetched: a link that leads somewhere only in the host
            (blobs / blob.name).symlink_to(f"{_HAVE}/{blob.name}")
        trees = [Tree(str(staging), STORE, readonly=False), Tree(str(_blobs()), _HAVE)]
        trees += [Tree(path, path) for path in _CERTIFICATES if os.path.isdir(path)]
        with Host(keeper, files | authorities, trees=trees, network=True) as host, contextlib.ExitStack() as stack:
            _ = host.runner
            stack.enter_context(Door(host.listen(GATEWAY, PORT), reference.registry))
            options: dict[str, Any] = {"proxy": f"http://{GATEWAY}:{PORT}", "progress": {"progress": None}}
            options |= {"cafile": _AUTHORITIES} if authorities else {}
            transport = {"made": {"class": "thinwalls.transport.Transport", "args": [], "options": options}}
            digest = _call(host, "pull", [name, STORE, transport, list(login) if login else None], show)
        if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
            raise Unusable(f"pull() gave {str(digest)[:100]!r}, which is not the digest of a manifest")
        for entry in sorted(blobs.iterdir()):
            _adopt(entry)
    _complete(digest)
    whole.write(_root() / "names" / urllib.parse.quote(str(reference), safe=""), digest)
    return digest


def _authorities() -> dict[str, str]:
    """The certificates in the file that SSL_CERT_FILE names, openssl-env(7), as a file for a host; {} if it names none.

    They are believed besides the machine's own authorities. Nothing else of the file, such as a key, gets into the
    host. Raises Unusable if it cannot be read, or has none.
    """
    path = os.environ.get("SSL_CERT_FILE", "")
    if not path:
        return {}
    try:
        found = _CERTIFICATE.findall(Path(path).read_text(encoding="utf-8", errors="replace"))
    except OSError as error:
        raise Unusable(f"SSL_CERT_FILE names {path}, which cannot be read: {error.strerror}") from None
    if not found:
        raise Unusable(f"SSL_CERT_FILE names {path}, which has no certificate in it")
    return {_AUTHORITIES: "\n".join(found) + "\n"}


def known(name: str) -> str | None:
    """The digest of an image that was pulled under this name; None: it never was. Raises Unusable for no name."""
    with contextlib.suppress(OSError):
        digest = (_root() / "names" / urllib.parse.quote(str(_reference(name)), safe="")).read_text()
        with contextlib.suppress(Unusable):
            _complete(digest)
            return digest
    return None


def unpacked(digest: str, files: dict[str, str], keeper: Keeper) -> Path:
    """The root file system of an image, unpacked by the implementation in ``files`` on first use; not to be written to.

    Raises Unusable, and HostError.
    """
    source = files[f"/course/stages/{course.stage(STAGE).stem}.py"]
    key = hashlib.sha256(f"{digest}\n{os.geteuid()}\n{source}".encode()).hexdigest()[:32]
    tree = _root() / "trees" / key
    if not tree.is_dir():
        with _staging("unpack", keeper) as staging:
            (staging / "rootfs").mkdir()
            trees = [Tree(str(staging), TREE, readonly=False), Tree(str(_root() / "store"), STORE)]
            with Host(keeper, files, trees=trees) as host:
                _call(host, "unpack", [STORE, digest, f"{TREE}/rootfs"], lambda *_: None)
            # The directory around it is moved: its own root may belong to an id of the image's, and not be ours to move.
            with contextlib.suppress(OSError):  # somebody else was faster: theirs is as good
                os.rename(staging, tree)
    return tree / "rootfs"


@contextlib.contextmanager
def in_use() -> Iterator[None]:
    """While this lasts, forget() takes nothing away."""
    with _locked(fcntl.LOCK_SH):
        yield


def forget(keeper: Keeper) -> None:
    """Remove all that is kept here, also what belongs to ids that only a host of ours has.

    Raises Unusable while an image is being pulled or run.
    """
    with _locked(fcntl.LOCK_EX | fcntl.LOCK_NB):
        for entry in _root().iterdir():
            _remove(entry, keeper)


@contextlib.contextmanager
def _locked(how: int) -> Iterator[None]:
    directory = os.open(_root(), os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(directory, how)  # the kernel gives it back, however this ends
        yield
    except BlockingIOError:
        raise Unusable("an image is being pulled or run: end that first") from None
    finally:
        os.close(directory)


def store() -> Path:
    """Where the blobs are, as blobs/sha256/HEX below it."""
    _blobs()
    return _root() / "store"


def _reference(name: str) -> Any:
    try:
        return parse_reference(name)
    except ValueError as error:
        raise Unusable(str(error)) from None


def _call(host: Host, function: str, args: list[Any], show: Show) -> Any:
    """Call a function of the implementation; gives what it returns. Raises Unusable with what it raised instead."""
    host.request({"module": f"stages.{course.stage(STAGE).stem}", "function": function, "args": args})
    while True:
        try:
            event = host.next(_PATIENCE)
        except Late:
            raise Unusable(f"{function}() did nothing for {_PATIENCE:.0f} seconds") from None
        if event.kind == "progress":
            match event.body.get("progress"):
                case [str(what), int(done), int() | None as total]:
                    show(what, done, total)
        elif event.kind == "line":
            print("".join(c if c.isprintable() else "?" for c in event.body["text"]), file=sys.stderr)
        elif event.kind == "end":
            raise Unusable(f"{function}() ended the process that had called it")
        elif event.kind == "reply":
            error = event.body.get("raised") or event.body.get("unloadable")
            if error:
                where = f" ({error['where']})" if error.get("where") else ""
                raise Unusable(f"{error.get('text') or error.get('type')}{where}")
            if "missing" in event.body:
                raise Unusable(f"stage 6 has no function {function}()")
            return event.body.get("returned")


def _adopt(entry: Path) -> None:
    """Move a blob into the store if it is one: a regular file whose content has the digest that is its name."""
    found = os.lstat(entry)
    if not re.fullmatch("[0-9a-f]{64}", entry.name) or not stat.S_ISREG(found.st_mode):
        return
    with open(os.open(entry, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != entry.name:
            raise Unusable(f"the blob sha256:{entry.name} that was pulled is not what its digest says")
        os.fchmod(file.fileno(), 0o444)
    os.rename(entry, _blobs() / entry.name)


def _complete(digest: str) -> None:
    """See to it that an image is whole: its manifest, its config and its layers are in the store. Raises Unusable."""
    try:
        manifest = _read(digest)
        for part in (manifest["config"], *manifest["layers"]):
            if not _blob(part["digest"]).is_file():
                raise Unusable(f"the image {digest} is not whole: {part['digest']} is missing")
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise Unusable(f"the image {str(digest)[:80]} has no manifest that can be read: {error}") from None


def _read(digest: str) -> Any:
    with open(_blob(digest), "rb") as file:
        text = file.read(_MANIFEST + 1)
    if len(text) > _MANIFEST:
        raise ValueError("it is too large")
    return json.loads(text)


def _blob(digest: Any) -> Path:
    found = _DIGEST.fullmatch(digest) if isinstance(digest, str) else None
    if not found:
        raise ValueError(f"{str(digest)[:80]!r} is no digest")
    return _blobs() / found[1]


def _root() -> Path:
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "thinwalls", "images")
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name in ("names", "trees"):
        (root / name).mkdir(exist_ok=True)
    return root


def _blobs() -> Path:
    blobs = _root() / "store" / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    return blobs


@contextlib.contextmanager
def _staging(what: str, keeper: Keeper) -> Iterator[Path]:
    """A directory that is thrown away in the end; those of runs that were killed go first."""
    root = _root()
    for left in root.glob("*-*.[0-9]*"):
        pid, _, started = left.name.rpartition("-")[2].partition(".")
        if _start_time(pid) != started:
            _remove(left, keeper)
    staging = root / f"{what}-{os.getpid()}.{_start_time(str(os.getpid()))}"
    staging.mkdir()
    try:
        yield staging
    finally:
        _remove(staging, keeper)


def _remove(directory: Path, keeper: Keeper) -> None:
    """Remove a tree, also one whose files belong to ids that only a host of ours has."""
    shutil.rmtree(directory, ignore_errors=True)
    if directory.exists():
        with contextlib.suppress(HostError):
            with Host(keeper, {}, trees=[Tree(str(directory), TREE, readonly=False)]) as host:
                host.request({"arrange": "empty", "args": [TREE]})
                with contextlib.suppress(Late):
                    host.next(_PATIENCE)
        shutil.rmtree(directory, ignore_errors=True)


def _start_time(pid: str) -> str:
    """When a process began, in ticks after boot (field 22 of proc_pid_stat(5)); "gone" if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return "gone"
