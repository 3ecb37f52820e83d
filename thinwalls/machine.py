"""A virtual machine: QEMU, a kernel image of this machine's, and an initramfs that is made on the spot, in memory.

Nothing of it is installed or kept: when the process that called QEMU ends, the kernel ends QEMU.
"""

import fcntl
import os
import platform
import re
import select
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from thinwalls import rootfs

# By processor: the machine type, the console's device, the processor model where it is emulated.
_QEMU = {"x86_64": ("pc", "ttyS0", "max"), "aarch64": ("virt", "ttyAMA0", "max")}
_INIT = """\
#!/bin/sh
mount -t proc proc /proc
echo thinwalls: up
echo o > /proc/sysrq-trigger
sleep 1000
"""
UP = "thinwalls: up"  # what an init prints when it runs


class Unmeasurable(Exception):
    """It cannot be measured here; the text says why."""


class Machine:
    """A virtual machine that has been switched on; a context manager that ends it.

    image: what it starts from, held in memory: with a kernel its initramfs, otherwise what ``options``, more words for
    QEMU, say of the path {image}.
    wrapper: words to start QEMU with, such as a tracer. cgroup: the directory of one that it is to be in.
    """

    def __init__(
        self,
        image: bytes,
        *options: str,
        kernel: str = "",
        arch: str = platform.machine(),
        accelerated: bool = False,
        memory: int = 256,
        wrapper: Sequence[str] = (),
        cgroup: Path | None = None,
        append: str = "quiet",
    ):
        program = qemu(arch)
        model, console, processor = _QEMU[arch]
        self._image = os.memfd_create("image")  # a file that is killed with us cannot be left behind
        with os.fdopen(os.dup(self._image), "wb") as file:
            file.write(image)
        path = f"/proc/self/fd/{self._image}"
        # Should this process die, the kernel ends QEMU (setpriv(1)), by way of its wrapper if it has one.
        life = ("setpriv", "--pdeathsig", "KILL", "--") if shutil.which("setpriv") else ()
        command = [
            *(("/bin/sh", "-c", 'echo $$ > "$0" && exec "$@"', str(cgroup / "cgroup.procs")) if cgroup else ()),
            *(*life, *wrapper, *(life if wrapper else ())),
            *(program, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
            *("-serial", "stdio", "-machine", model, "-m", str(memory)),
            *(("-accel", "kvm", "-cpu", "host") if accelerated else ("-accel", "tcg", "-cpu", processor)),
            *(word.replace("{image}", path) for word in options),
        ]
        if kernel:
            command += ["-kernel", kernel, "-initrd", path, "-append", f"{append} panic=-1 console={console}"]

        self.began = time.perf_counter()
        self._process = subprocess.Popen(
            command,
            pass_fds=[self._image],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.pid = self._process.pid
        self.lines: list[str] = []
        self._rest = b""
        self._ended = False  # it has closed its console: that is seen a moment before its exit status is there

    def line(self, start: str, patience: float) -> tuple[str, float]:
        """Wait for a line of the console with ``start`` in it: what follows that, and the seconds since switching on.

        Raises Unmeasurable if the machine ends first, or after ``patience`` seconds.
        """
        ends = time.perf_counter() + patience
        while line := self._next(ends):
            if start in line:
                return line.partition(start)[2].strip(), time.perf_counter() - self.began
        late = not self._ended
        raise Unmeasurable(
            f"the machine {'did not get so far in time' if late else 'ended'}: {' | '.join(self.lines[-5:])[-500:]}"
        )

    def end(self, patience: float) -> float:
        """Wait until it has switched itself off; the seconds since switching on. Raises Unmeasurable."""
        while self._next(self.began + patience):
            pass
        try:
            self._process.wait(max(0, self.began + patience - time.perf_counter()))
        except subprocess.TimeoutExpired:
            raise Unmeasurable(f"the machine was not off after {patience:g} seconds: {self.lines[-3:]}") from None
        return time.perf_counter() - self.began

    @property
    def status(self) -> int | None:
        """QEMU's exit status, if it has ended."""
        return self._process.poll()

    def _next(self, ends: float) -> str:
        """The next line, with its end; "" when there is none any more, or not in time."""
        assert self._process.stdout is not None
        while b"\n" not in self._rest:
            left = ends - time.perf_counter()
            if left <= 0 or not select.select([self._process.stdout], [], [], left)[0]:
                return ""
            data = os.read(self._process.stdout.fileno(), 65536)
            if not data:
                self._ended = True
                return ""
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        self.lines.append(line.decode(errors="backslashreplace").rstrip("\r"))
        return self.lines[-1] + "\n"

    def close(self) -> float:
        """Switch it off, as by pulling the plug; gives the seconds that took."""
        began = time.perf_counter()
        self._process.kill()
        self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()
        if self._image >= 0:
            os.close(self._image)
            self._image = -1
        return time.perf_counter() - began

    def __enter__(self) -> "Machine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def qemu(arch: str = platform.machine()) -> str:
    """The QEMU that has this processor. Raises Unmeasurable."""
    name = f"qemu-system-{arch}"
    found = shutil.which(name)
    if found is None or arch not in _QEMU:
        raise Unmeasurable(f"there is no {name}")
    return found


def kernels() -> Iterator[str]:
    """Kernel images of this machine that this user may read: what THINWALLS_KERNEL names, the running one, the others.

    A copy that THINWALLS_KERNEL names keeps the name it had, which tells its modules: vmlinuz-RELEASE.
    """
    release = platform.release()
    paths = [Path(chosen)] if (chosen := os.environ.get("THINWALLS_KERNEL")) else []
    paths += [Path(f"/boot/vmlinuz-{release}"), Path(f"/lib/modules/{release}/vmlinuz")]
    paths += sorted([*Path("/boot").glob("vmlinuz*"), *Path("/lib/modules").glob("*/vmlinuz")], reverse=True)
    return (str(path) for path in paths if path.is_file() and os.access(path, os.R_OK))


def kernel() -> str:
    """The first of them. Raises Unmeasurable."""
    found = next(kernels(), None)
    if found is None:
        raise Unmeasurable("there is no kernel image that we may read")
    return found


def version() -> str:
    """What QEMU says it is, in one line. Raises Unmeasurable."""
    return subprocess.run([qemu(), "--version"], capture_output=True, text=True, timeout=12).stdout.partition("\n")[0]


def kvm() -> str:
    """Why this user can have no virtual machine run by the processor itself; "" if that may work, as a boot will tell."""
    create_vm = 0xAE01  # KVM_CREATE_VM: linux/kvm.h
    processor = Path("/proc/cpuinfo").read_text()
    if platform.machine() == "x86_64" and not re.search(r"^flags\s*:.*\b(vmx|svm)\b", processor, re.MULTILINE):
        return "the processor says of itself that it cannot (neither vmx nor svm in /proc/cpuinfo)"
    try:
        device = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
        try:
            os.close(fcntl.ioctl(device, create_vm, 0))
        finally:
            os.close(device)
    except OSError as error:
        return f"/dev/kvm: {error.strerror}"
    return ""


def boot(accelerated: bool, patience: float, **options: Any) -> float:
    """Boot a kernel to a script that powers off; gives the seconds. Raises Unmeasurable."""
    with Machine(small(), kernel=kernel(), accelerated=accelerated, **options) as machine:
        machine.line(UP, patience)
        took = machine.end(patience)
        if machine.status:
            raise Unmeasurable(f"QEMU ended with status {machine.status}: {' | '.join(machine.lines[-5:])}")
        return took


def small() -> bytes:
    """An initramfs with a shell and an /init that powers off."""
    return archive(tree(rootfs.cached(("sh", "mount", "sleep"))) | {"init": _INIT.encode()})


def tree(root: str | Path) -> dict[str, Path | bytes]:
    """A directory as the members of an archive."""
    return {str(path.relative_to(root)): path for path in sorted(Path(root).rglob("*"))}


def archive(members: Mapping[str, Path | bytes]) -> bytes:
    """A cpio archive as the kernel unpacks one at its start: of files and directories, of programs given as bytes.

    /dev/console is added: where init's output goes (console(4)). Format newc: see initramfs-buffer-format in the
    kernel's documentation.
    """
    made = bytearray()
    parents: set[str] = set()

    def add(name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)) -> None:
        fields = (0, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(name) + 1, 0)
        made.extend(b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0")
        made.extend(bytes(-len(made) % 4) + data)
        made.extend(bytes(-len(made) % 4))

    for name, source in members.items():
        for parent in [str(each) for each in reversed(Path(name).parents) if str(each) != "."]:
            if parent not in parents and parent not in members:
                add(parent, 0o040755)
            parents.add(parent)
        if isinstance(source, bytes):
            add(name, 0o100755, source)
        else:
            add(name, source.stat().st_mode, source.read_bytes() if source.is_file() else b"")
    if "dev" not in members and "dev" not in parents:
        add("dev", 0o040755)
    add("dev/console", 0o020600, device=(5, 1))
    add("TRAILER!!!", 0)
    return bytes(made)
