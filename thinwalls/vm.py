"""``./walls start --vm``: a throwaway copy of this very Linux in a virtual machine, by virtme-ng.

The guest boots a kernel of this machine, and has this machine's files, read-only, with a layer in memory above what
may be written. The folder of the course alone is shared: what is written there stays. One is root in it, and on cgroup
v2, so that every stage can be graded, also where the machine itself lets its user do less.
"""

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from thinwalls import course, machine
from thinwalls.distribution import install

# What virtme-ng covers with something empty of the guest's own; /tmp is not among it.
_COVERED = ("/dev", "/proc", "/run", "/sys", "/var/cache", "/var/log", "/var/tmp")
_GUEST = Path(__file__).with_name("guest.sh")
_SLOWER = 10  # times the patience of the graders where the processor is emulated
# Most drivers, and what protects a kernel from other guests, are left out: each costs seconds where it is emulated.
_DRIVERS = "ahci,button,evdev,i2c_i801,i6300esb,iTCO_wdt,lpc_ich,pcspkr,psmouse,serio_raw"
# virtme-ng starts QEMU by way of others, and all stay in its process group: a shell that ends the whole group on SIGTERM.
_TOGETHER = ("/bin/sh", "-c", 'trap "kill -KILL 0" TERM; "$@" & wait "$!"', "together")


class Missing(Exception):
    """There is no virtual machine to be had here; the text says why, and what to do about it."""


def main(words: Sequence[str]) -> int:
    """Boot the guest, and run a command in it, or a shell where there is none; gives the command's exit status.

    Raises Missing.
    """
    line = command(words)
    environment = {**os.environ, "PATH": f"{Path(line[0]).parent}:{os.environ.get('PATH', os.defpath)}"}
    if not words:
        print("A copy of this machine starts; `exit` ends it, and all that was written outside of the course is gone.")
        sys.stdout.flush()
        return subprocess.run(line, cwd=course.ROOT, env=environment).returncode
    # QEMU opens its standard output by name and truncates it: it must be a pipe.
    none, pipe, same = subprocess.DEVNULL, subprocess.PIPE, subprocess.STDOUT
    # Should this process die, the kernel sends that shell SIGTERM (setpriv(1)). Its group is one of a session of its own.
    life = ("setpriv", "--pdeathsig", "TERM", "--") if shutil.which("setpriv") else ()
    line = [*life, *_TOGETHER, *line]
    with subprocess.Popen(
        line, cwd=course.ROOT, env=environment, stdin=none, stdout=pipe, stderr=same, start_new_session=True
    ) as started:
        assert started.stdout
        try:
            for text in started.stdout:
                sys.stdout.write(text.decode(errors="replace"))
                sys.stdout.flush()
        except BaseException:  # Ctrl-C, say, which does not reach that session
            started.terminate()
            raise
    return started.returncode


def command(words: Sequence[str]) -> list[str]:
    """The words that start the virtual machine. Raises Missing."""
    slow = machine.kvm()
    options = ["--user=root", "--force-9p", f"--cpus={min(os.cpu_count() or 1, 4)}", "--memory=2G"]
    kernel = f"cgroup_no_v1=all quiet thinwalls.patience={_SLOWER if slow else 1}"  # the latter is read by _GUEST
    if slow:
        kernel += f" mitigations=off nokaslr modprobe.blacklist={_DRIVERS}"
        options += ["--disable-kvm"]
        if platform.machine() == "x86_64":  # on arm64 virtme-ng chooses
            options += ["--qemu-opts=-cpu qemu64,-svm"]
    shared = [f"--rwdir={_plain(course.ROOT)}", f"--cwd={course.ROOT}"]
    line = [_vng(), "--run", _plain(_kernel()), *options, *shared, "--append", kernel]
    for covered in _COVERED:
        if str(course.ROOT).startswith(f"{covered}/"):
            raise Missing(
                f"{course.ROOT} is not to be seen in one, where {covered} is another. Move the course, to your home, say"
            )
    return [*line, "--", shlex.join([str(_GUEST), *words])] if words else [*line, f"--shell={_GUEST}"]


def _plain(path: str | Path) -> str:
    """The path, if it means itself to all who read it on its way. Raises Missing.

    virtme-ng puts it bare into a line for a shell, from there it goes into the words of the kernel, which splits them
    at spaces (and takes a byte of some letters beyond ASCII for one), and then into a shell of the guest.
    """
    if re.fullmatch(r"[\w./+@-]+", str(path), re.ASCII):
        return str(path)
    raise Missing(
        f"the path {str(path)!r} would not survive its way into one: it may have letters from a to z, digits and ._+@- "
        "alone. Move the course to such a folder"
    )


def _vng() -> str:
    """virtme-ng, beside this Python or on PATH."""
    here = str(Path(sys.executable).parent)
    found = shutil.which("vng", path=here) or shutil.which("vng")
    if not found:
        raise Missing(
            f"there is no virtme-ng here, which starts one: {_shown(sys.executable)} -m pip install virtme-ng"
        )
    if not shutil.which(f"qemu-system-{platform.machine()}"):
        raise Missing(f"there is no QEMU here, which is the machine: {install('QEMU')}")
    return found


def _kernel() -> str:
    """The image of a kernel whose modules are here."""
    for path in machine.kernels():
        release = Path(path).name.removeprefix("vmlinuz-") if "-" in Path(path).name else Path(path).parent.name
        if Path("/lib/modules", release, "kernel").is_dir():
            return path
    locked = next(iter(sorted(Path("/boot").glob("vmlinuz-*"), reverse=True)), None)
    if locked and not os.access(locked, os.R_OK):
        raise Missing(f"{locked}, the kernel to boot, may be read by root alone: sudo chmod a+r {locked}")
    raise Missing(f"there is no kernel with its modules in /boot to boot: {install('kernel')}")


def _shown(path: str) -> str:
    there = os.path.relpath(path, course.ROOT)
    return path if there.startswith("..") else there
