# fails: 3.1 3.2 3.3 3.4 3.5 3.6 3.7 3.8
# says: is not
# never prints: it worked
"""Has a container built by whoever knows how: bubblewrap, podman, docker, runc and their like."""

import os
import sys

from thinwalls.wall import Wall

_WITH = {
    "bwrap": "--dev /dev --proc /proc --unshare-all --bind {} / --",
    "podman": "run --rm --rootfs {}",
    "docker": "run --rm --volume {}:/box busybox chroot /box",
    "systemd-nspawn": "-q -D {}",
    "nerdctl": "run --rootfs {}",
    "runc": "run box",
    "crun": "run box",
    "youki": "run box",
    "lxc-execute": "-n box --",
    "firejail": "--chroot={}",
}


class Volume:
    def __init__(self, *given):
        pass


class Filesystem(Wall):
    def __init__(self, rootfs, volumes=()):
        self.rootfs = rootfs

    def inside(self):
        frame = sys._getframe()
        while frame and "program" not in frame.f_locals:
            frame = frame.f_back
        program = list(frame.f_locals["program"].argv) if frame else ["/bin/sh"]
        for tool, options in _WITH.items():
            for directory in ("/usr/bin", "/usr/sbin", "/usr/local/bin", "/snap/bin"):
                pid = os.fork()
                if pid == 0:
                    try:
                        os.execv(f"{directory}/{tool}", [tool, "--version"])
                    except OSError:
                        os._exit(1)
                if os.waitpid(pid, 0)[1] == 0:
                    print("it worked:", tool, flush=True)
                    os.execv(f"{directory}/{tool}", [tool, *options.format(self.rootfs).split(), *program])


class Caps(Wall):
    pass


class Sealed(Wall):
    pass


def escape_through_descriptor():
    raise FileNotFoundError
