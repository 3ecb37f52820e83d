# fails: 1.1 1.2 1.3 1.4
# says: rootfs
"""No wall at all: the program is found below the rootfs by its whole path, and run on the machine itself."""

import os

from thinwalls.wall import Program, Wall

from .stage00_process import launch


class Root(Wall):
    def __init__(self, rootfs):
        self.rootfs = rootfs

    def inside(self):
        os.chdir(self.rootfs)


def run_in(rootfs, argv, env=None):
    env = {"PATH": "/usr/bin:/bin", "HOME": "/root"} if env is None else env
    for directory in env["PATH"].split(":"):
        path = f"{rootfs}{directory}/{argv[0]}"
        if os.path.exists(path):
            return launch(Program([path, *argv[1:]], env, "/"))
    raise FileNotFoundError(2, "No such program", argv[0])


def check_rootfs(rootfs):
    return rootfs


def escape():
    pass
