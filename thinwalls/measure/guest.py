"""What goes into a virtual machine: programs of this machine with their libraries, its Python, and the stages.

All of it is an initramfs, made anew for each run: a guest has no disk, and changes nothing.
"""

import json
import os
import platform
import py_compile
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from thinwalls import course, machine, rootfs
from thinwalls.machine import Unmeasurable

Members = dict[str, Path | bytes]
PROGRAMS = ("sh", "cat", "mount", "mkdir", "ls", "sleep", "true", "uname", "date", "dmesg")
# A kernel and a static busybox for another processor, put there by whoever wants to see its uname -m.
FOREIGN = "aarch64"
_BEGIN = """\
#!/bin/sh
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
mount -t tmpfs tmp /tmp
echo thinwalls: up
"""
_END = """
echo thinwalls: over
echo o > /proc/sysrq-trigger
sleep 1000
"""
_LOADED = """\
import json, sys
sys.path[:0] = json.loads(sys.argv[1])
import measured.apart
print(json.dumps([[name, module.__file__] for name, module in list(sys.modules.items()) if getattr(module, "__file__", None)]))
"""


def script(commands: str) -> bytes:
    """An /init that says UP, does ``commands``, and powers off."""
    return (_BEGIN + commands + _END).encode()


def plain(commands: str = "") -> bytes:
    """An initramfs with a shell and a few programs, for ``commands``."""
    return machine.archive(machine.tree(rootfs.cached(PROGRAMS)) | {"init": script(commands)})


def with_containers(files: dict[str, str], call: str) -> bytes:
    """An initramfs with Python, the stages of ``files`` and a root file system for containers; it runs a call of inside.

    call: a Python expression with ``inside`` in it. Raises Unmeasurable.
    """
    members: Members = dict(machine.tree(rootfs.cached(PROGRAMS)))
    members |= {f"srv/rootfs/{name}": source for name, source in machine.tree(rootfs.cached()).items()}
    with tempfile.TemporaryDirectory(prefix="thinwalls-guest-") as folder:
        members |= _python(Path(folder), files)
        interpreter = os.path.realpath(sys.executable)
        code = f"import sys; sys.path[:0] = ['/course']; from measured import inside, apart; {call}"
        return machine.archive(members | {"init": script(f'"{interpreter}" -I -S -B -c "{code}"')})


def with_a_machine(sector: bytes) -> bytes:
    """An initramfs with QEMU in it, which starts a PC from a boot sector. Raises Unmeasurable."""
    program = machine.qemu()
    members: Members = dict(machine.tree(rootfs.cached(PROGRAMS)))
    members |= {"usr/bin/qemu": Path(program), "floppy": sector.ljust(1440 * 1024, b"\0")}
    members |= {path.lstrip("/"): Path(path) for path in _libraries(program)}
    modules = [path for place in _MODULES for path in Path("/").glob(place)]  # Debian's QEMU loads its emulator as one
    members |= {str(path).lstrip("/"): path for path in modules}
    firmware = [Path(place) / name for place in _FIRMWARE for name in ("bios-256k.bin", "kvmvapic.bin")]
    members |= {f"firmware/{path.name}": path for path in firmware if path.is_file()}
    if "firmware/bios-256k.bin" not in members:
        raise Unmeasurable("the firmware of a PC (bios-256k.bin) is not where QEMU's packages put it")
    options = (
        "-nodefaults -no-user-config -display none -no-reboot -serial stdio -machine pc -m 16 -accel tcg,tb-size=32"
    )
    options += " -drive file=/floppy,format=raw,if=floppy,readonly=on -device isa-debug-exit,iobase=0x501,iosize=1"
    # The machine's clock, and not the watch of whoever looks at it from outside: the console is slow.
    commands = f"echo thinwalls: begins; /usr/bin/qemu -L /firmware {options}; echo thinwalls: ended"
    return machine.archive(members | {"init": script(commands)})


_MODULES = ("usr/lib*/*/qemu/accel-tcg-*.so", "usr/lib*/qemu/accel-tcg-*.so")
_FIRMWARE = ("/usr/share/qemu", "/usr/share/seabios", "/usr/share/qemu-kvm", "/usr/local/share/qemu")


def foreign() -> tuple[str, bytes] | None:
    """A kernel for another processor and an initramfs that prints its uname; None where nobody put the two there.

    They are ``vmlinuz`` and ``busybox`` in the cache's folder ``aarch64`` (the lesson says how they get there).
    """
    folder = cache() / FOREIGN
    kernel, busybox = folder / "vmlinuz", folder / "busybox"
    if platform.machine() == FOREIGN or not (kernel.is_file() and busybox.is_file()):
        return None
    init = "#!/bin/busybox sh\nmkdir /proc\nmount -t proc proc /proc\necho thinwalls: $(uname -srm)\npoweroff -f\n"
    members: Members = {"bin/busybox": busybox.read_bytes(), "init": init.encode()}
    members |= {f"bin/{name}": b'#!/bin/busybox sh\nexec /bin/busybox ${0##*/} "$@"\n' for name in _APPLETS}
    return str(kernel), machine.archive(members)


_APPLETS = ("mkdir", "mount", "uname", "poweroff")


def cache() -> Path:
    """Where this user's course keeps what it can make again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "thinwalls")


def _python(folder: Path, files: dict[str, str]) -> Members:
    """This Python, as little of it as the stages take: modules compiled, as compiling is slow in an emulated machine."""
    for name, text in files.items():
        path = folder / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    interpreter = os.path.realpath(sys.executable)
    places = json.dumps([str(folder / "course"), str(course.ROOT)])
    command = [interpreter, "-I", "-S", "-B", "-c", _LOADED, places]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if ended.returncode:
        raise Unmeasurable(f"the stages cannot be loaded: {ended.stderr.strip().splitlines()[-1:]}")
    members: Members = {interpreter.lstrip("/"): Path(interpreter)}
    needed = [interpreter]
    for number, (_, file) in enumerate(json.loads(ended.stdout)):
        source = Path(file)
        if source.suffix != ".py":
            members[file.lstrip("/")] = source
            needed.append(file)
            continue
        compiled = folder / f"{number}.pyc"
        py_compile.compile(
            file, str(compiled), doraise=True, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
        )
        there = source.with_suffix(".pyc")
        if source.is_relative_to(folder):
            there = Path("/") / there.relative_to(folder)
        elif source.is_relative_to(course.ROOT):
            there = Path("/course") / there.relative_to(course.ROOT)
        members[str(there).lstrip("/")] = compiled.read_bytes()
    # By this file an interpreter knows where its library is.
    members[os.path.realpath(os.__file__).lstrip("/") + "c"] = members[os.__file__.lstrip("/") + "c"]
    return members | {path.lstrip("/"): Path(path) for path in _libraries(*needed)}


def _libraries(*programs: str) -> set[str]:
    listing = subprocess.run(
        ["ldd", *programs], capture_output=True, text=True, env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"}
    )
    return set(re.findall(r"(?:^\s*|=> )(/\S+) \(0x", listing.stdout, re.MULTILINE))
