"""How a keeper is started: a fresh interpreter, and where only systemd can give it a cgroup, by way of systemd-run(1)."""

import fcntl
import os
import socket
import subprocess
import sys
from pathlib import Path

_CHECKOUT = Path(__file__).resolve().parents[2]


def keeper(theirs: socket.socket, before: list[str]) -> "subprocess.Popen[bytes]":
    """Start a keeper that listens on ``theirs``. before: words before the command; [] for none.

    What they say to standard error before the keeper runs is kept for said().
    """
    own, stderr = _copy_of_own_interpreter(), os.dup(2)
    command = [sys.executable, "-I", "-S", "-", str(theirs.fileno())]  # the name that its init has in a container
    executable = f"/proc/self/fd/{own}" if own else None
    # The copy has no place in the file system from which the loader could find libraries beside it.
    libraries = {"LD_LIBRARY_PATH": f"{sys.base_prefix}/lib"} if own else {}
    env = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", **libraries}
    code = f"import sys; sys.path.insert(0, {str(_CHECKOUT)!r}); from thinwalls.host import keeper; keeper.main()"
    if before:
        # They need our environment, to find systemd; the keeper has its own all the same, and its standard error.
        code = f"import os; os.dup2({stderr}, 2); {code}"
        if executable:  # env(1) cannot start a program by another name than the file's
            swap = f"import os, sys; os.execv({executable!r}, sys.argv[1:])"
            command = [sys.executable, "-I", "-S", "-c", swap, *command]
        command = [*before, "env", "-i", *(f"{name}={value}" for name, value in env.items()), *command]
    process = subprocess.Popen(
        command,
        executable=None if before else executable,
        pass_fds=[fd for fd in (theirs.fileno(), own, stderr if before else 0) if fd],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE if before else None,
        start_new_session=True,  # from its first instruction on: a Ctrl-C is none of its business
        env=None if before else env,
    )
    for fd in filter(None, (own, stderr)):
        os.close(fd)
    assert process.stdin
    try:
        process.stdin.write(code.encode())
        process.stdin.close()
    except BrokenPipeError:
        pass  # it has ended already, and nobody will answer on the socket
    return process


def said(process: "subprocess.Popen[bytes]") -> str:
    """The last line that the words before a keeper said, after they have ended without starting it."""
    assert process.stderr
    lines = process.stderr.read().decode(errors="backslashreplace").strip().splitlines()
    process.stderr.close()
    return lines[-1] if lines else f"exit status {process.wait()}"


def _copy_of_own_interpreter() -> int:
    """A descriptor of a copy in memory of the interpreter's file, where that file belongs to this very user; else 0.

    Uid 0 of a host may then be its owner too, and /proc/self/exe leads to it through the mounts of the machine: a
    chmod of it would be a chmod of the real file. (The mechanism of CVE-2019-5736; runc answers it the same way.)
    """
    if os.geteuid() == 0 or os.stat(sys.executable).st_uid != os.geteuid():
        return 0
    copy = os.memfd_create("python", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(sys.executable, "rb") as file:
        while os.sendfile(copy, file.fileno(), None, 1 << 30):
            pass
    os.fchmod(copy, 0o755)
    fcntl.fcntl(
        copy, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
    )
    return copy
