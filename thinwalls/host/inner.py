"""The inner level of a throwaway host: the learner's "machine", with every namespace a second time.

Why twice: at one level, uid 0 could remount the read-only /usr read-write and trace the PID 1 that holds the
limits. Mounts that come from a more privileged user namespace are locked in a less privileged one
(mount_namespaces(7)), and the outer PID 1 is not even visible here.

Two processes: PID 1 reaps, so that orphans end as on any machine; its child becomes the runner, in which the
learner's code is loaded and called (``thinwalls.host.runner``).
"""

import fcntl
import os
import platform
import signal
import socket
import struct
from pathlib import Path

from thinwalls import linux
from thinwalls.host import network, runner, wire

NAMESPACES = (
    linux.CLONE_NEWUSER
    | linux.CLONE_NEWNS
    | linux.CLONE_NEWPID
    | linux.CLONE_NEWNET
    | linux.CLONE_NEWIPC
    | linux.CLONE_NEWUTS
    | linux.CLONE_NEWCGROUP
)
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "TERM": "dumb",
}
_REQUEST = 3  # the runner's descriptor for requests; 0, 1 and 2 are its streams


def run(request: socket.socket, streams: list[int], mapped: int, ids: int, connected: bool) -> None:
    """PID 1 of the inner level, from birth to death; reports what went wrong before the runner exists."""
    try:
        os.read(mapped, 1)
        if ids > 1:
            os.setgroups([])
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        os.setsid()
        request = _take_only(request, streams)
        _furnish(ids)
        if connected:
            network.plug_in()
        linux.new_session_keyring()
        linux.set_seccomp_filter(_filter())
    except BaseException as error:
        wire.send(request, wire.unable(error))
        return
    # Privilege ends here: from the next line on this is the learner's machine.
    pid = os.fork()
    if pid == 0:
        runner.run(request)
        os._exit(0)
    os.closerange(0, _REQUEST + 1)
    while os.waitpid(-1, 0)[0] != pid:
        pass


def _take_only(request: socket.socket, streams: list[int]) -> socket.socket:
    """Leave this process with its three streams, the request socket (which it gives), and no other descriptor."""
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 100) for fd in (*streams, request.detach())]
    for fd, source in enumerate(high):
        os.dup2(source, fd, inheritable=fd != _REQUEST)
    os.closerange(_REQUEST + 1, 1 << 30)
    os.environ.clear()
    os.environ.update(ENVIRONMENT)
    os.chdir("/root")
    return socket.socket(fileno=_REQUEST)


def _furnish(ids: int) -> None:
    """This level's own /proc, /sys, terminals, loopback and name."""
    kernel = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC
    linux.mount("proc", "/proc", "proc", kernel)
    cgroups = os.open("/sys/fs/cgroup", os.O_PATH | os.O_CLOEXEC)
    linux.mount("sysfs", "/sys", "sysfs", kernel | linux.MS_RDONLY)
    if os.listdir(f"/proc/self/fd/{cgroups}"):  # what was handed to this host, now under the new /sys
        linux.mount(f"/proc/self/fd/{cgroups}", "/sys/fs/cgroup", None, linux.MS_BIND | linux.MS_REC)
    os.close(cgroups)
    group = ",gid=5" if ids > 5 else ""  # the tty group, where this host has more than one id
    linux.mount(
        "devpts", "/dev/pts", "devpts", linux.MS_NOSUID | linux.MS_NOEXEC, f"newinstance,ptmxmode=666,mode=620{group}"
    )
    linux.sethostname("machine")
    Path("/proc/self/oom_score_adj").write_text("1000")  # out of memory: one of ours goes, never the keeper
    linux.set_link_up("lo")
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):  # the keeper ignores them, and its children would
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


# What namespaces do not cover. Numbers from asm/unistd.h; above 423 they are the same everywhere.
_REFUSED = {
    "x86_64": (0xC000003E, (250, 248, 249, 321, 323, 425, 426, 427, 298), 41),
    "aarch64": (0xC00000B7, (219, 217, 218, 280, 282, 425, 426, 427, 241), 198),
}  # keyctl add_key request_key bpf userfaultfd io_uring_setup _enter _register perf_event_open; socket
_AF_VSOCK = 40
_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050001, 0x80000000  # SECCOMP_RET_ALLOW, _ERRNO | EPERM, _KILL_PROCESS


def _filter() -> bytes:
    """The seccomp filter: EPERM for the calls above and for vsock, death for another architecture's call numbers."""
    arch, refused, socket_call = _REFUSED[platform.machine()]
    load, equal, at_least, give = (
        0x20,
        0x15,
        0x35,
        0x06,
    )  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, JGE|K, BPF_RET|K: linux/bpf_common.h
    code = [(load, 0, 0, 4), (equal, 1, 0, arch), (give, 0, 0, _KILL), (load, 0, 0, 0)]
    code += [(at_least, 0, 1, 0x40000000), (give, 0, 0, _REFUSE)]  # x32 calls would go round the numbers below
    for number in refused:
        code += [(equal, 0, 1, number), (give, 0, 0, _REFUSE)]
    code += [(equal, 0, 3, socket_call), (load, 0, 0, 16), (equal, 0, 1, _AF_VSOCK), (give, 0, 0, _REFUSE)]
    code += [(give, 0, 0, _ALLOW)]
    return b"".join(struct.pack("HBBI", *instruction) for instruction in code)
