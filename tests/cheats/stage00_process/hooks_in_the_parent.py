# fails: 0.1 0.2 0.3 0.4 0.5
# says: child
"""launch() calls every hook itself: what a wall raises then needs no pipe. A process is there only to be looked at."""

import os
import shutil
import signal

from thinwalls import linux


def launch(program, walls=()):
    path = shutil.which(program.argv[0], path=program.env["PATH"])
    flags = 0
    for wall in walls:
        flags |= wall.flags
    pid = linux.clone(flags)
    if pid == 0:
        signal.sigwait({signal.SIGUSR1})
        os.execve(path or "/", program.argv, program.env)
    try:
        for wall in walls:
            wall.outside(pid)
        for wall in walls:
            wall.inside()
        if path is None:
            raise FileNotFoundError(2, "No such program", program.argv[0])
        os.kill(pid, signal.SIGUSR1)
        return os.WEXITSTATUS(os.waitpid(pid, 0)[1])
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    finally:
        for wall in reversed(walls):
            wall.close()
