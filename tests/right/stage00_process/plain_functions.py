"""The long way: os.fork for run(), one socket pair for gate and report, JSON for what JSON holds, no context manager."""

import base64
import errno
import json
import os
import pickle
import signal
import socket

from thinwalls import linux


def exit_status(status: int) -> int:
    if os.WIFEXITED(status):
        return os.WEXITSTATUS(status)
    assert os.WIFSIGNALED(status)
    return os.WTERMSIG(status) | 0x80


def refusal(error: OSError) -> int:
    return 127 if error.errno == errno.ENOENT else 126


def become(program):
    furnish(program)
    environment = {name: value for name, value in program.env.items()}
    name = program.argv[0]
    if name.find("/") >= 0:
        os.execve(name, list(program.argv), environment)
    denied = None
    for directory in environment.get("PATH", "").split(":"):
        path = (directory or os.curdir) + "/" + name
        if not os.path.exists(path):
            continue
        try:
            os.execve(path, list(program.argv), environment)
        except PermissionError as error:
            denied = denied or error
    if denied is not None:
        raise denied
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)


def furnish(program):
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
    for number in signal.valid_signals():
        if number not in {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_DFL)
    if program.cwd is not None:
        os.chdir(program.cwd)
    wanted = {0: program.stdin, 1: program.stdout, 2: program.stderr}
    # A target is filled once no other target still needs what it holds now; a circle is opened by a copy.
    while wanted:
        free = [target for target in wanted if target not in [fd for to, fd in wanted.items() if to != target]]
        if free:
            source = wanted.pop(free[0])
            if source != free[0]:
                os.dup2(source, free[0])
            else:
                os.set_inheritable(source, True)
        else:
            target, source = next(iter(wanted.items()))
            wanted[target] = _above(source)
    linux.close_range(3, flags=linux.CLOSE_RANGE_CLOEXEC)


def _above(fd: int) -> int:
    copy = os.dup(fd)
    return copy if copy > 2 else _above(copy)


def run(program) -> int:
    pid = os.fork()
    if pid:
        while True:
            ended, status = os.waitpid(pid, 0)
            if ended == pid:
                return exit_status(status)
    try:
        become(program)
    except OSError as error:
        os._exit(refusal(error))
    except BaseException:
        os._exit(126)


def launch(program, walls=()) -> int:
    flags = 0
    for wall in walls:
        flags |= wall.flags
    mine, childs = socket.socketpair()
    problem = None
    try:
        pid = linux.clone(flags)
    except OSError as error:
        problem, pid = error, None
    if pid == 0:
        mine.close()
        _child(program, walls, childs)
    childs.close()
    if pid:
        try:
            for wall in walls:
                wall.outside(pid)
            mine.sendall(b"go")
            mine.shutdown(socket.SHUT_WR)
            receive_error(mine.fileno())
        except BaseException as error:
            problem = error
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    mine.close()
    for wall in walls[::-1]:
        wall.close()
    if problem is not None:
        raise problem
    return exit_status(status)


def _child(program, walls, gate):
    try:
        if gate.recv(2) == b"go":
            for wall in walls:
                wall.inside()
            become(program)
    except BaseException as error:
        send_error(gate.fileno(), error)
    os._exit(0)


def send_error(fd: int, error: BaseException) -> None:
    letter = {"text": f"{type(error).__name__}: {error}"}
    if type(error).__module__ == "builtins" and all(isinstance(each, str | int | None) for each in error.args):
        arguments = [*error.args]
        if isinstance(error, OSError) and isinstance(error.filename, str):
            arguments.append(error.filename)
        letter.update(builtin=type(error).__name__, arguments=arguments)
    else:
        try:
            data = pickle.dumps(error)
            pickle.loads(data)
            letter["pickle"] = base64.b64encode(data).decode()
        except Exception:
            letter.update(builtin="RuntimeError", arguments=[letter["text"]])
    os.write(fd, json.dumps(letter).encode())


def receive_error(fd: int) -> None:
    data = b""
    while part := os.read(fd, 4096):
        data += part
    if not data:
        return
    letter = json.loads(data)
    if "pickle" in letter:
        raise pickle.loads(base64.b64decode(letter["pickle"]))
    import builtins

    raise getattr(builtins, letter["builtin"])(*letter["arguments"])
