"""The runner: the process in the inner level that loads the learner's stages and calls them when asked.

It holds no secret: what it is told is what any caller of the learner's function would have to tell it, and what
it replies is the learner's word, believed only where a return value is the very thing that is asked for.
"""

import builtins
import contextlib
import dataclasses
import fcntl
import gc
import importlib
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
import traceback
import types
from collections.abc import Sequence
from typing import Any

from thinwalls import linux
from thinwalls.host import wire
from thinwalls.wall import Program, Wall

COURSE = "/course"  # where the outer level has put the packages of stages
_TEXT = 2000
_CAUSES = 8  # of an error that was raised from another, which was raised from another, so many are looked at
_OFTEN, _NAME = 0.1, 100  # seconds between two words on progress; characters of a name in them
_TIOCSPTLCK, _TIOCGPTN = 0x40045431, 0x80045430  # asm-generic/ioctls.h: termios has no names for them before 3.13


_made: dict[str, Any] = {}  # by the name of the class: the last instance that was made of it


class WallBroke(Exception):
    """What a beacon raises when it is told to raise something that is no built-in exception."""


class WallStuck(Exception):
    """What a beacon raises when it is told to raise something that cannot be written to a pipe: it has a socket in it."""


class Unloadable(Exception):
    """A stage's file could not be imported, for the reason that is its cause."""


class Beacon(Wall):
    """A wall that tells the grader when each of its hooks is called, and waits to hear how to go on."""

    def __init__(self, sock: socket.socket, name: str, flags: int = 0, calls: Sequence[Any] = (), forks: bool = False):
        self._sock, self._name, self.flags, self._forks = sock, name, flags, forks
        self._hook, self._function, self._given = "", None, []
        if calls:  # found now: behind the walls its file could not be
            self._hook, function, *self._given = calls
            module, _, name = function.rpartition(".")
            self._function = getattr(importlib.import_module(module), name)

    def _tell(self, hook: str, pid: int = 0) -> None:
        answer = None
        if self._function and hook == self._hook:
            try:
                answer = _repr(self._function(*(pid if each == "$pid" else each for each in self._given)))
            except Exception as error:
                answer = _repr(error)
        # The reply comes through a pair made here and now: that this process made it is the kernel's word, and the
        # reply is for nobody else.
        ours, theirs = wire.pair()
        with ours:
            with theirs:
                body = {"beacon": self._name, "hook": hook, "told": pid, "answer": answer}
                wire.send(self._sock, body, [theirs.fileno()])
            reply = wire.receive(ours)
            if reply and (failure := reply.body.get("raise")):
                if failure["type"] == "WallStuck":
                    raise WallStuck(*failure["args"], ours)
                kind = WallBroke if failure["type"] == "WallBroke" else getattr(builtins, failure["type"])
                raise kind(*failure["args"])

    def outside(self, pid: int) -> None:
        self._tell("outside", pid)

    def inside(self) -> None:
        self._tell("inside")
        if self._forks:
            # Called before fork() returns in the parent: in the very moment that a test could otherwise but hope to hit.
            os.register_at_fork(after_in_parent=lambda: self._tell("forked"))

    def close(self) -> None:
        self._tell("close")


class Terminal(Wall):
    """Gives the program a terminal made in the container's own devpts; its other end goes to the grader's side.

    The last wall of all, behind Init: what has the terminal is the program's process and no other.
    """

    def __init__(self, sock: socket.socket, rows: int, columns: int):
        self._sock, self._size = sock, struct.pack("4H", rows, columns, 0, 0)

    def inside(self) -> None:
        controller = os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        fcntl.ioctl(controller, _TIOCSPTLCK, struct.pack("i", 0))  # unlockpt(3)
        number = struct.unpack("I", fcntl.ioctl(controller, _TIOCGPTN, b"\0" * 4))[0]  # ptsname(3)
        os.setsid()
        terminal = os.open(f"/dev/pts/{number}", os.O_RDWR)
        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, self._size)
        for fd in (0, 1, 2):
            os.dup2(terminal, fd)
        wire.send(self._sock, {"terminal": True}, [controller])
        os.close(controller)
        os.close(terminal)


class Progress:
    """Tells the other side how far a download is, so often that a person sees it move, and no more often."""

    def __init__(self, sock: socket.socket):
        self._sock = sock
        self._told: dict[str, float] = {}

    def __call__(self, what: str, done: int, total: int | None) -> None:
        """So many bytes of what has the name ``what`` are here; total: of so many, where that is known."""
        now = time.monotonic()
        if done == total or now - self._told.get(what, 0) > _OFTEN:
            self._told[what] = now
            wire.send(self._sock, {"progress": [what[:_NAME], done, total]})


class Intruder(Wall):
    """Runs a function of a source text once the walls before it stand: the source is loaded only then and there.

    The stages before its own are loaded now, and what of Python's library it imports, for behind the walls their
    files cannot be found any more.
    """

    def __init__(self, module: str, source: str, imports: list[str], function: str, args: list[Any]):
        for name in imports:
            with contextlib.suppress(Exception):  # it will fail again, where it can be told
                importlib.import_module(name)
        self._module, self._source, self._function, self._args = module, source, function, args
        self._package, _, stem = module.rpartition(".")
        for name in sorted(os.listdir(f"{COURSE}/{self._package}")):
            if name.startswith("stage") and name < stem:
                importlib.import_module(f"{self._package}.{name.removesuffix('.py')}")

    def inside(self) -> None:
        module = types.ModuleType(self._module)
        module.__package__ = self._package
        module.__file__ = f"{COURSE}/{self._module.replace('.', '/')}.py"
        sys.modules[self._module] = module
        exec(compile(self._source, module.__file__, "exec"), module.__dict__)
        getattr(module, self._function)(*self._args)


def run(sock: socket.socket) -> None:
    """Serve requests until the grader closes the socket."""
    gc.enable()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.path[:] = [COURSE, *(entry for entry in sys.path if entry.startswith((sys.base_prefix, "/usr")))]
    sys.dont_write_bytecode = True
    sys.stdin, sys.stdout, sys.stderr = (
        os.fdopen(fd, mode, buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)
        for fd, mode in ((0, "r"), (1, "w"), (2, "w"))
    )
    wire.send(sock, {"ready": True})
    served = os.getpid()
    while message := wire.receive(sock):
        reply = _answer(sock, message)
        if os.getpid() != served:
            if message.body.get("beside") and not {"returned", "odd"} & reply.keys():
                wire.send(sock, reply)  # how it failed; how it ended otherwise nobody has asked
            if message.body.get("apart") or message.body.get("beside"):
                os._exit(0)
            # A child that ran on into its parent's code: if an exception brought it here, that is the mistake.
            because = ""
            if error := reply.get("raised"):
                file, _, line = error["where"].rpartition(":")
                because = f"{error['type']}: {error['text']}{f' (line {line} of {file})' if file else ''}"
            reply = {"stray": because}
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        wire.send(sock, reply)
        if os.getpid() != served:
            os._exit(1)
        for fd in message.fds:
            with contextlib.suppress(OSError):
                os.close(fd)


def _arrange(what: str, *given: Any) -> Any:
    """Put this process into a state that a caller of the learner's code might be in."""
    match what, given:
        case "link", (path, to):
            os.symlink(to, path)
        case "setenv", (name, value):
            os.environ[name] = value
        case "clutter", (count, blocked, ignored):
            for _ in range(count):
                os.dup2(os.open("/etc/passwd", os.O_RDONLY), 40 * 4**_, inheritable=True)
            signal.pthread_sigmask(signal.SIG_BLOCK, {blocked})
            signal.signal(ignored, signal.SIG_IGN)
        case "share", ():
            linux.mount(None, "/", None, linux.MS_REC | linux.MS_SHARED)  # as systemd has it on a real machine
        case "mount", (path,):
            os.makedirs(path)
            linux.mount("tmpfs", path, "tmpfs")
        case "empty", (path,):
            for name in os.listdir(path):
                shutil.rmtree(f"{path}/{name}", ignore_errors=True)
        case "mkdir", (path,):
            os.makedirs(path)
        case "leak", (number,):
            os.dup2(os.open("/", os.O_PATH | os.O_DIRECTORY), number, inheritable=True)
        case "start", argv:
            never, _held_open = os.pipe()
            return subprocess.Popen(argv, stdin=never).pid
    return None


def _answer(sock: socket.socket, message: wire.Message) -> dict[str, Any]:
    body = message.body
    if "attribute" in body:
        return _attribute(*body["attribute"])
    if "arrange" in body:
        return {"returned": _arrange(body["arrange"], *body["args"])}
    if body.get("apart") and (pid := os.fork()):
        return {"apart": os.waitpid(pid, 0)[1]}
    if body.get("beside") and (pid := os.fork()):
        return {"returned": pid}
    try:
        function: Any = _load(body["module"])
    except Unloadable as error:
        return {"unloadable": _describe(error.args[0])}
    try:
        for part in body["function"].split("."):
            function = getattr(function, part)
    except AttributeError:
        return {"missing": body["function"]}
    try:
        arguments = [_decode(sock, argument, message.fds) for argument in body["args"]]
    except Unloadable as error:
        return {"unloadable": _describe(error.args[0])}
    except BaseException as error:
        return {"raised": _describe(error)}
    try:
        result = function(*arguments)
    except BaseException as error:
        return {"raised": _describe(error)}
    return _plainly(result)


def _load(module: str) -> types.ModuleType:
    try:
        return importlib.import_module(module)
    except BaseException as error:
        raise Unloadable(error) from error


def _attribute(name: str, path: str) -> dict[str, Any]:
    """What stands in an attribute of the last instance of a class, as a reply; "absent": how far one gets on the way."""
    found, walked = _made.get(name), name.rpartition(".")[2]
    try:
        for part in path.split("."):
            if not hasattr(found, part):
                return {"absent": f"{walked} is {_repr(found)}, which has no {part}"}
            found, walked = getattr(found, part), part
    except BaseException as error:  # it may be a property
        return {"raised": _describe(error)}
    return _plainly(found)


def _plainly(result: object) -> dict[str, Any]:
    """A result as a reply: the value itself, if it is a plain one."""
    if type(result) in (int, float, str, bool, type(None)) and len(str(result)) < _TEXT:
        return {"returned": result}
    return {"odd": f"{type(result).__name__} {_repr(result)}"}


def _decode(sock: socket.socket, argument: Any, fds: list[int]) -> Any:
    """Turn what the grader wrote into the object it stands for; anything not marked is itself."""
    if isinstance(argument, list):
        return [_decode(sock, each, fds) for each in argument]
    if not isinstance(argument, dict) or len(argument) != 1:
        return argument
    ((kind, given),) = argument.items()
    if kind == "program":
        fields = {name: _decode(sock, value, fds) for name, value in given.items()}
        base = fields.pop("base", None)  # what a function of a stage gave
        return dataclasses.replace(base, **fields) if base is not None else Program(**fields)
    if kind == "beacon":
        return Beacon(sock, **given)
    if kind == "terminal":
        return Terminal(sock, **given)
    if kind == "intruder":
        return _locating(Intruder(**given))
    if kind == "made":  # an instance of a class in some stage
        module, _, name = given["class"].rpartition(".")
        options = {option: _decode(sock, value, fds) for option, value in given.get("options", {}).items()}
        made = getattr(_load(module), name)(*_decode(sock, given["args"], fds), **options)
        _made[given["class"]] = _locating(made)
        return made
    if kind == "called":  # what a function of some stage gives
        module, _, name = given["function"].rpartition(".")
        return getattr(_load(module), name)(*_decode(sock, given["args"], fds))
    if kind == "progress":
        return Progress(sock)
    if kind == "fd":
        return fds[given]
    return argument


def _locating(made: Any) -> Any:
    """Have what its inside() raises carry the line it came from: the way back from the child takes no traceback along."""
    if not hasattr(made, "inside"):
        return made
    inside = made.inside

    def located() -> None:
        try:
            inside()
        except BaseException as error:
            with contextlib.suppress(Exception):
                error.add_note(_origin(error))
            raise

    with contextlib.suppress(Exception):  # there are classes that allow no such thing
        made.inside = located
    return made


def _origin(error: BaseException) -> str:
    """FILE:LINE of the innermost line in a stage that it came from, or ""; by way of what the toolkit raised it from."""
    path, line = "", 0
    if isinstance(error, SyntaxError):
        path, line = error.filename or "", error.lineno or 0
    else:
        cause: BaseException | None = error
        for _ in range(_CAUSES):
            if cause is None:
                break
            file = ""
            # Not by extract_tb, which reads the files: behind the walls another could lie at their place.
            for frame, number in traceback.walk_tb(cause.__traceback__):
                file = frame.f_code.co_filename
                if file.startswith(COURSE):
                    path, line = file, number
            # What a stage has made of an error is its own; what the toolkit has made of one began where that did.
            cause = None if file.startswith(COURSE) else cause.__cause__
    return f"{os.path.basename(path)}:{line}" if path else ""


def _describe(error: BaseException) -> dict[str, Any]:
    """What a learner needs of an exception: its kind, its text, and the line of their own that it came from."""
    where = ""
    with contextlib.suppress(Exception):
        where = next((note for note in getattr(error, "__notes__", ()) if note), "") or _origin(error)
    filename = getattr(error, "filename", None)
    return {
        "type": type(error).__name__,
        "text": _safely(str, error),
        "args": _safely(repr, getattr(error, "args", ())),
        "errno": error.errno if isinstance(error, OSError) else None,
        "filename": _safely(os.fsdecode, filename) if isinstance(filename, str | bytes) else None,
        "where": _safely(str, where),
    }


def _repr(value: object) -> str:
    return _safely(repr, value)


def _safely(show: Any, value: object) -> str:
    try:
        return str(show(value))[:_TEXT]
    except BaseException as error:
        return f"<{type(error).__name__} while being shown>"
