"""``./walls bench pull``: a Debian image from a registry on this machine to an unpacked tree, beside other programs.

Everyone starts with an empty store on the same disk, to which nothing is left to write: syncfs(2) goes before. Everyone is
a program from its start to its end; and after that syncfs(2) once more, until when is told apart. They take turns. The
others run in a mount namespace of their own, where /run and /var/lib/containers are empty: nothing of theirs is left.
"""

import gzip
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
from pathlib import Path

from thinwalls import course, images
from thinwalls.bench.figures import Aim, Measurement, Table, Unmeasurable
from thinwalls.bench.starting import reference
from thinwalls.registry import Registry

OURS = "the reference of stage 6"
_TIMES = 3  # how often, unless the caller says otherwise
_PATIENCE = 120  # seconds for one program
_MEMORY, _LAYER = 64, 10**9  # MB of memory at the most, for a layer of so many bytes
_PATH = "/usr/bin:/usr/sbin:/usr/local/bin:/usr/local/sbin:/bin:/sbin"
_APART = "for each in /run /var/lib/containers; do [ ! -d $each ] || mount -t tmpfs bench $each; done; "


def measure(samples: int | None = None, layer: int = _LAYER, archive: Path | None = None) -> Measurement:
    """Pull so many times. layer: bytes of the layer for which memory is measured. archive: a tar to take for the image.

    Raises Unmeasurable: not as root, or no such archive.
    """
    if os.geteuid():
        raise Unmeasurable("only root can unpack an image with its owners, and only as root do the others compare")
    absent: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="thinwalls-bench-", dir="/var/tmp") as made, Registry() as registry:
        place = Path(made)
        reference(place)
        try:
            title = _image(place, archive, registry)
        except (FileNotFoundError, IsADirectoryError, tarfile.TarError) as error:
            raise Unmeasurable(f"{archive} is no tar archive: {error}") from None
        lanes = _lanes(place, registry, absent)
        times, synced = _by_turns(lanes, samples or _TIMES, place / "work", absent)
        registry.add_image("bench/big", "1", [_big(place / "big.gz", layer)])
        work = place / "work"
        work.mkdir()
        memory = float(_run(lanes[OURS].replace("bench/image", "bench/big"), work))
    others = [("podman pull", 0.5), ("skopeo copy and umoci unpack", 0.5), ("curl | tar xz", 1.5)]
    aims = [Aim(OURS, name, most) for name, most in others]
    return Measurement(
        "pull",
        [
            Table(title, "s", times, aims),
            Table("The same, until the disk has all of it (syncfs)", "s", synced, aims),
            Table(
                f"The most memory while a layer of {layer / 1e6:.0f} MB is pulled and unpacked",
                "MB",
                {OURS: [memory]},
                [Aim(OURS, "", _MEMORY)],
            ),
        ],
        absent,
        [
            "Each is a whole program; ours alone waits itself for the disk to have the blobs. The registry is this toolkit's."
        ],
    )


def _image(place: Path, archive: Path | None, registry: Registry) -> str:
    """Have the registry hold bench/image:1, whose layer is packed as others pack theirs; gives what it is, in words."""
    said = archive.name if archive else ""
    if archive is None:
        archive, said = place / "image.tar", "Debian bookworm, minbase"
        command = ["mmdebstrap", "--quiet", "--variant=minbase", "bookworm", str(archive)]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=600, text=True)
        except (OSError, subprocess.SubprocessError) as error:
            said = f"Python's own library (mmdebstrap could make no Debian image here: {_why(error)})"
            with tarfile.open(archive, "w") as tar:
                tar.add(sysconfig.get_path("stdlib"), "usr/lib/python")
    packed = place / "image.tar.gz"
    with archive.open("rb") as file, gzip.open(packed, "wb", compresslevel=6) as target:
        shutil.copyfileobj(file, target, images.BLOCK)
    with tarfile.open(archive) as tar:
        entries = sum(1 for _ in tar)
    registry.add_image("bench/image", "1", [packed])
    size = packed.stat().st_size / 1e6
    return f"{said}, {size:.0f} MB of gzip, {entries:,} entries, from an empty store to an unpacked tree"


def _lanes(place: Path, registry: Registry, absent: dict[str, str]) -> dict[str, str]:
    """Lines of shell, each to be run in an empty directory."""
    image = f"{registry.host}/bench/image:1"
    layer = images.describe(place / "image.tar.gz", images.LAYER["oci"]["gzip"])["digest"]
    blob = f"{registry.url}/v2/bench/image/blobs/{layer}"
    own = "--root $PWD/root --runroot $PWD/run --tmpdir $PWD/tmp --storage-driver overlay --events-backend none"
    copy = f"skopeo --insecure-policy copy -q --src-tls-verify=false docker://{image} oci:image:1"
    lanes = {
        "podman pull": f"{_APART} podman {own} pull -q --tls-verify=false {image}",
        "skopeo copy and umoci unpack": f"{_APART} {copy} && umoci unpack --image image:1 bundle",
        "curl | tar xz": f"curl -sSf {blob} | tar xzf -",
    }
    needs = {"podman pull": ["podman"], "skopeo copy and umoci unpack": ["skopeo", "umoci"], "curl | tar xz": ["curl"]}
    for name, programs in needs.items():
        if missing := [program for program in programs if not shutil.which(program, path=_PATH)]:
            absent[name] = f"there is no {' and no '.join(missing)}"
            del lanes[name]
    ours = f"{sys.executable} -m thinwalls.bench.pulled {place} {image} ."
    return {OURS: ours, **lanes}


def _by_turns(
    lanes: dict[str, str], samples: int, work: Path, absent: dict[str, str]
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds until a program has ended, and until the disk has all that it has written."""
    ended: dict[str, list[float]] = {name: [] for name in lanes}
    synced: dict[str, list[float]] = {name: [] for name in lanes}
    for turn in range(samples + 1):  # the first warms up, and shows who cannot
        for name in list(ended):
            work.mkdir()
            try:
                _sync(work)
                began = time.perf_counter()
                _run(lanes[name], work)
                took = time.perf_counter() - began
                _sync(work)
                if turn:
                    ended[name].append(round(took, 4))
                    synced[name].append(round(time.perf_counter() - began, 4))
            except (OSError, subprocess.SubprocessError) as error:
                if name == OURS:
                    raise Unmeasurable(f"{name} does not pull here: {_why(error)}") from None
                absent[name] = f"it does not pull here: {_why(error)}"
                del ended[name], synced[name]
            finally:
                shutil.rmtree(work)
    return ended, synced


def _sync(place: Path) -> None:
    """Wait until the disk that this is on has all that was written to it."""
    subprocess.run(["sync", "-f", str(place)], check=True)


def _run(line: str, work: Path) -> str:
    """Run a line of shell in a mount namespace of its own; what it prints."""
    words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", line]
    environment = {"PATH": _PATH, "PYTHONPATH": str(course.ROOT), "HOME": str(work), "TMPDIR": str(work)}
    done = subprocess.run(
        words, cwd=work, env=environment, check=True, capture_output=True, text=True, timeout=_PATIENCE
    )
    return done.stdout


def _big(path: Path, size: int) -> Path:
    """A layer of so many bytes, which do not compress: that it comes out of gzip is all that is asked of it."""
    with gzip.open(path, "wb", compresslevel=0) as packed, tarfile.open(fileobj=packed, mode="w|") as tar:
        entry = tarfile.TarInfo("big")
        entry.size = size
        tar.addfile(entry, _Noise(size))  # type: ignore[arg-type]
    return path


class _Noise:
    """A file of random bytes, always the same block of them."""

    def __init__(self, size: int):
        self._left, self._block = size, os.urandom(images.BLOCK)

    def read(self, size: int) -> bytes:
        """So many bytes."""
        piece = self._block[: min(size, self._left)]
        self._left -= len(piece)
        return piece


def _why(error: Exception) -> str:
    said = getattr(error, "stderr", None) or str(error)
    return (said.strip().splitlines() or ["it ended"])[-1][:200]
