"""All of it in one class: clone3(2) through ctypes, an eventfd for a gate, marshal for the errors, try and finally."""

import ctypes
import fcntl
import importlib
import marshal
import os
import resource
import select
import signal

from thinwalls import linux

_libc = ctypes.PyDLL(None, use_errno=True)
_CLONE3 = 435


def _clone3(flags: int) -> int:
    """A fork into new namespaces, by the younger of the two calls: struct clone_args has eleven 64-bit words."""
    words = (ctypes.c_uint64 * 11)(flags, 0, 0, 0, signal.SIGCHLD)
    python = ctypes.pythonapi
    python.PyOS_BeforeFork()
    pid = _libc.syscall(ctypes.c_long(_CLONE3), ctypes.byref(words), ctypes.c_size_t(ctypes.sizeof(words)))
    if pid == 0:
        python.PyOS_AfterFork_Child()
        return 0
    code = ctypes.get_errno()
    python.PyOS_AfterFork_Parent()
    if pid < 0:
        raise OSError(code, f"clone3: {os.strerror(code)}")
    return pid


class Launcher:
    def __init__(self, program, walls=()):
        self.program, self.walls = program, list(walls)

    def start(self) -> int:
        """The status of wait(2)."""
        flags = 0
        for wall in self.walls:
            flags |= wall.flags
        self.gate = os.eventfd(0)
        self.report = os.pipe2(os.O_CLOEXEC)
        self.reports = self.report[1]
        try:
            pid = _clone3(flags)
            if pid == 0:
                self.child()
            self.hang_up()
            try:
                for wall in self.walls:
                    wall.outside(pid)
                os.eventfd_write(self.gate, 1)
                receive_error(self.report[0])
            except BaseException:
                os.kill(pid, signal.SIGKILL)
                os.waitid(os.P_PID, pid, os.WEXITED)
                raise
            return os.waitpid(pid, 0)[1]
        finally:
            self.hang_up()
            os.close(self.gate)
            os.close(self.report[0])
            for wall in reversed(self.walls):
                wall.close()

    def hang_up(self) -> None:
        if self.reports is not None:
            os.close(self.reports)
            self.reports = None

    def child(self) -> None:
        try:
            os.close(self.report[0])
            linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)  # nobody opens the gate once the parent is dead
            os.eventfd_read(self.gate)
            for wall in self.walls:
                wall.inside()
            linux.prctl(linux.PR_SET_PDEATHSIG, 0)
            become(self.program)
        except BaseException as error:
            send_error(self.report[1], error)
        os._exit(99)


def launch(program, walls=()) -> int:
    return exit_status(Launcher(program, walls).start())


def run(program) -> int:
    pid = linux.clone()
    if not pid:
        status = 99
        try:
            become(program)
        except OSError as error:
            status = refusal(error)
        finally:
            os._exit(status)
    ready = os.pidfd_open(pid)
    try:
        select.select([ready], [], [])
        return exit_status(os.waitpid(pid, 0)[1])
    finally:
        os.close(ready)


def become(program):
    argv, env = tuple(program.argv), dict(program.env)
    furnish(program)
    candidates = [argv[0]]
    if "/" not in argv[0]:
        candidates = [os.path.join(directory or ".", argv[0]) for directory in env.get("PATH", "").split(":")]
    worst = None
    for candidate in candidates:
        try:
            os.execve(candidate, argv, env)
        except OSError as error:
            if len(candidates) == 1 and candidate == argv[0]:
                raise
            if isinstance(error, PermissionError):
                worst = error
            elif not isinstance(error, FileNotFoundError | NotADirectoryError):
                raise
    raise worst or FileNotFoundError(2, os.strerror(2), argv[0])


def exit_status(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def refusal(error: OSError) -> int:
    return {2: 127}.get(error.errno, 126)


def furnish(program) -> None:
    if program.cwd is not None:
        os.chdir(program.cwd)
    above = [os.dup(os.dup(os.dup(fd))) for fd in (program.stdin, program.stdout, program.stderr)]
    while min(above) < 3:
        above = [os.dup(fd) for fd in above]
    for number in (2, 1, 0):
        os.dup2(above[number], number)
    highest = min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], 1 << 20)
    linux.close_range(3, highest, linux.CLOSE_RANGE_CLOEXEC)
    for name in signal.Signals:
        if signal.getsignal(name) is not signal.SIG_DFL and name not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(name, signal.SIG_DFL)
    for number in range(signal.SIGRTMIN, signal.SIGRTMAX + 1):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())
    assert fcntl.fcntl(0, fcntl.F_GETFD) == 0


def send_error(fd: int, error: BaseException) -> None:
    """Its class by name and what it was made of; what that does not hold arrives as a RuntimeError."""
    kind = type(error)
    try:
        arguments = error.args
        if isinstance(error, OSError) and error.filename is not None:
            arguments = (error.errno, error.strerror, error.filename)
        data = marshal.dumps((kind.__module__, kind.__qualname__, arguments))
        if repr(_again(data)) != repr(error):
            raise ValueError
    except Exception:
        data = marshal.dumps(("builtins", "RuntimeError", (f"{kind.__name__}: {error}",)))
    while data:
        data = data[os.write(fd, data) :]


def receive_error(fd: int) -> None:
    parts = []
    while part := os.read(fd, 65536):
        parts.append(part)
    if parts:
        raise _again(b"".join(parts))


def _again(data: bytes) -> BaseException:
    module, name, arguments = marshal.loads(data)
    found = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found(*arguments)
