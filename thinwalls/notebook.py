"""What the lessons are written with, and how their notebooks are made.

A Jupyter kernel can neither be forked nor moved into namespaces safely, and what its children print is lost
under nbval. So a demonstration runs in a throwaway host, and what it printed is printed here, in order.

    python -m thinwalls.notebook build [STEM ...]     make notebooks/STEM.ipynb, with outputs, from STEM.py
    python -m thinwalls.notebook check                say which .ipynb does not belong to its .py
"""

import ast
import atexit
import contextlib
import hashlib
import importlib
import inspect
import json
import os
import re
import select
import shutil
import signal
import socket
import sys
import textwrap
import threading
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, overload

from thinwalls import course, facts, rootfs
from thinwalls.host import BEYOND, HOST, SLOWER, Event, Host, HostError, Keeper, Late

NO_CGROUP = "this machine lets you make no cgroup"  # demonstrations and verdicts say it in these words
_TOOLS = ("ip", "nft")  # programs of the machine that a network is made with
_SEARCH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"
_VISIT = 3 * SLOWER  # seconds that a visitor from beyond waits: a new cable may take one until it carries anything
ONE_ID = "a host has one user id here"  # and verdicts this
_LINES, _WIDTH = 60, 200  # of what a demonstration prints, so much is shown
_DIRECTORIES = ("/srv/rootfs", "/srv/rootfs/tmp", "/srv", "/tmp", "/root", "/")  # those that lessons speak of
_LESSON = """\
import os as _os, signal as _signal
_os.dup2(1, 2)  # one stream, so that all that is printed stays in order
for _number in _signal.valid_signals() - {{_signal.SIGPIPE, _signal.SIGXFSZ}}:  # those Python itself ignores
    if _signal.getsignal(_number) == _signal.SIG_IGN:
        _signal.signal(_number, _signal.SIG_DFL)
{imports}
{source}
def look(pid=None, *what):
    _beacon.outside([pid, *what])
def visit(port):
    _beacon.outside(["visit", port])
def _lesson(beacon):
    global _beacon
    _beacon = beacon
    {name}()
"""
# For a method that came from another class. Behind its decorators is the method itself; their cells are not its class.
_SUPER = """\
_method = _inspect.unwrap({name})
for _free, _cell in zip(_method.__code__.co_freevars, _method.__closure__ or ()):
    if _free == "__class__":
        _cell.cell_contents = {owner}
"""
# Of a notebook: nothing that differs from machine to machine, or from one build to the next, such as versions and times.
_METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
_keeper: Keeper | None = None


# What a lesson calls


@overload
def demo(function: Callable[[], None]) -> str: ...
@overload
def demo(
    *, rootfs: bool = False, cgroup: bool = False, network: bool = False, seconds: float = 10
) -> Callable[[Callable[[], None]], str]: ...
def demo(
    function: Callable[[], None] | None = None,
    *,
    rootfs: bool = False,
    cgroup: bool = False,
    network: bool = False,
    seconds: float = 10,
) -> Any:
    """Run the body of the decorated function at once, on a fresh throwaway machine; its name becomes what it printed.

    The body may use what the notebook has imported, its plain constants and its functions, look(), visit(), and
    ``stages``: the learner's, or those of THINWALLS_IMPL, with the reference's functions for those not built yet.
    rootfs: whether the machine has a small root file system, at /srv/rootfs. cgroup: whether it is handed a cgroup, at
    /sys/fs/cgroup. network: whether it has a way out (thinwalls.host.network), at the other end of which, at port 80 of
    BEYOND, somebody tells all who connect what address they are seen with. Where either cannot be, one sentence says so.
    seconds: after which it is ended.
    """
    if function is None:
        return lambda function: _demonstrate(function, rootfs, cgroup, network, seconds)
    return _demonstrate(function, rootfs, cgroup, network, seconds)


def look(pid: int | None = None, *what: str) -> None:
    """In a demonstration: show what the kernel says, from outside, about a process at this moment.

    pid: as the calling process knows it; None: the calling process itself. what: some of "program", "root",
    "cwd", "namespaces", "descriptors", "signals".
    """
    raise RuntimeError("look() is for the body of a @demo")


def visit(port: int) -> None:
    """In a demonstration with a network: come from beyond to a TCP port of the machine, and show what is said there."""
    raise RuntimeError("visit() is for the body of a @demo(network=True)")


def check(task: str) -> None:
    """Grade one task of the learner's stages (or those of THINWALLS_IMPL), and print the verdict. Never raises.

    What comes of the learner's is kept as their progress, as ./walls check keeps it.
    """
    try:
        from thinwalls import progress
        from thinwalls.grading import driver, plugin, result

        stage, wanted = course.task(task)
        verdict = driver.grade(driver.select([task]), _impl(), keeper=_keep()).verdict(wanted)
        text = plugin.as_text(verdict)
        if verdict.status == result.PASSED:
            text = text.splitlines()[0]
        elif "is not built yet" in verdict.yours and not verdict.expected:
            text = f"{verdict.yours.replace(stage.stem, f'stages/{stage.stem}')}; then ./walls check {task}"
        print(text)
        if _impl() == "stages":
            progress.record({task: verdict.status}, course.ROOT / "stages", progress.spared_by([verdict], False))
    except Exception as error:  # a lesson goes on, whatever is wrong with the file it speaks of
        _drop_keeper()
        print(f"task {task} cannot be checked here: {error}")


# How a demonstration is run


def _demonstrate(function: Callable[[], None], small: bool, delegate: bool, network: bool, seconds: float) -> str:
    said: list[str] = []
    try:
        missing = [tool for tool in _TOOLS if network and not shutil.which(tool, path=_SEARCH)]
        if missing:
            end = f"not shown: this machine has no {' and no '.join(missing)} (./walls doctor says more)"
        elif delegate and not _keep().cgroup:
            end = f"not shown: {NO_CGROUP} (./walls doctor says more)"
        else:
            small_one = rootfs.cached() if small else None
            end = _perform(_source(function), small_one, delegate, network, seconds, said)
    except HostError as error:
        _drop_keeper()
        end = f"not shown: {error} (./walls doctor says more)"
    except rootfs.Unbuildable as error:
        end = f"not shown: {error}"
    lines = [line if len(line) <= _WIDTH else f"{line[:_WIDTH]} ..." for line in said[:_LINES]]
    text = "\n".join([*lines, *(["... and more"] if len(said) > _LINES else []), *([end] if end else [])])
    if text:
        print(text)
    return text


def _perform(lesson: str, small: str | None, delegate: bool, network: bool, seconds: float, said: list[str]) -> str:
    """Run a lesson's source in a throwaway host; ``said`` grows by what it printed and saw. Gives how it failed."""
    files = {"/course/lesson.py": lesson} | (stages(said) if "stages" in lesson else {})
    with Host(_keep(), files, small, delegate=delegate, network=network) as host, contextlib.ExitStack() as beyond:
        if network:
            beyond.enter_context(_somebody(host.listen(BEYOND, 80)))
        names = {host.runner: "this cell's process"}
        waiting: list[Event] = []
        host.request({"module": "lesson", "function": "_lesson", "args": [{"beacon": {"name": "look"}}]})
        deadline = time.monotonic() + seconds
        try:
            while "beacon" in (body := (event := _hear(host, waiting, deadline, said)).body) or "stray" in body:
                if event.kind == "beacon":
                    said += _visited(host, event) if event.body["told"][0] == "visit" else _seen(host, names, event)
                    host.answer(event, {"go": True})
        except Late:
            return f"(stopped: it had not ended after {seconds:g} seconds)"
        if event.kind == "end":  # it has closed its request socket, by exec perhaps: the new program still runs
            facts.Process(host.pid).ended(max(deadline - time.monotonic(), 0))
            with contextlib.suppress(Late):
                _hear(host, waiting, time.monotonic() + 0.1, said)
        if rest := host.output.rpartition(b"\n")[2]:
            said.append(rest.decode(errors="backslashreplace"))
        return "".join(_complaint(body[kind], lesson) for kind in ("raised", "unloadable") if kind in body)


def _hear(host: Host, waiting: list[Event], deadline: float, said: list[str]) -> Event:
    """The next event that is no line; what was printed before it goes to ``said``. Raises Late."""
    while True:
        event, ready = None, waiting and select.select([host], [], [], 0)[0]
        with contextlib.suppress(Late):
            event = host.next(0.5 if ready else 0 if waiting else max(deadline - time.monotonic(), 0))
        if event and event.kind != "line":
            waiting.append(event)
        elif event and len(said) <= _LINES:
            said.append(event.body["text"])
        if event is None or time.monotonic() > deadline:
            if waiting:  # and all that was printed before has been read
                return waiting.pop(0)
            raise Late


@contextlib.contextmanager
def _somebody(server: socket.socket) -> Iterator[None]:
    """Who listens beyond a host, until the end of the block."""

    def answer() -> None:
        with contextlib.suppress(OSError):  # of accept: the end
            while True:
                peer, (address, _) = server.accept()
                with peer, contextlib.suppress(OSError):
                    peer.sendall(f"you are {address}\n".encode())

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown(socket.SHUT_RDWR)  # it wakes accept, as close alone would not
        thread.join()
        server.close()


def _visited(host: Host, event: Event) -> list[str]:
    port = event.body["told"][1]
    try:
        with host.socket() as visitor:
            visitor.settimeout(_VISIT)
            visitor.connect((HOST, port))
            heard = visitor.recv(1000).decode(errors="backslashreplace").strip()
    except OSError as error:  # a timeout too, which has no number
        heard = "no answer" if isinstance(error, TimeoutError) else error.strerror or str(error)
    return [f"from beyond, port {port}: {heard}"]


def _complaint(error: dict[str, Any], lesson: str) -> str:
    """An exception in one line, with the line of code that it came from."""
    file, _, line = str(error["where"]).rpartition(":")
    where = f" (in: {lesson.splitlines()[int(line) - 1].strip()})" if file == "lesson.py" else f" ({error['where']})"
    return f"{error['type']}: {error['text']}{where if file else ''}"


def _source(function: Callable[[], None]) -> str:
    """The text of a module that does in a host what ``function`` would do here."""
    imports: dict[str, str] = {}
    sources: dict[str, str] = {}

    def add(function: Any) -> None:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
        tree.body[0].decorator_list = []  # type: ignore[attr-defined]
        sources[function.__name__] = ""  # it may call itself
        for name in sorted({node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}):
            value = function.__globals__.get(name)
            if name in sources or name in ("look", "visit") or value is None:
                continue
            if isinstance(value, types.ModuleType):
                imports[name] = f"import {value.__name__} as {name}"
            elif isinstance(value, types.FunctionType) and value.__module__ == function.__module__:
                add(value)
            elif isinstance(value, str | bytes | int | float | tuple | list | dict):
                imports[name] = f"{name} = {value!r}"
            elif hasattr(value, "__qualname__"):
                imports[name] = f"from {value.__module__} import {value.__qualname__} as {name}"
        sources[function.__name__] = ast.unparse(tree)

    add(function)
    parts = {"imports": "\n".join(imports.values()), "source": "\n".join(sources.values())}
    return _LESSON.format(**parts, name=function.__name__)


def _impl() -> str:
    return os.environ.get("THINWALLS_IMPL") or "stages"


def stages(said: list[str]) -> dict[str, str]:
    """The chosen implementation as files for a host; what is not built yet in it is the reference's.

    The chosen one is the learner's, or that of THINWALLS_IMPL. said: grows by what is wrong with its files.
    """
    files = {"/course/stages/__init__.py": ""}
    for stage in course.stages():
        reference = course.reference(stage)
        path = Path(course.ROOT, _impl(), f"{stage.stem}.py")
        try:
            source = path.read_text()
            unbuilt = course.unbuilt(source) | _untouched(source, reference)
        except (OSError, ValueError, SyntaxError) as error:
            said.append(f"(the reference stands in for {path.name}, which cannot be read: {error})")
            source, unbuilt = reference, frozenset()
        if unbuilt:
            files[f"/course/stages/_{stage.stem}.py"] = reference
            source += f"\nimport inspect as _inspect\nfrom . import _{stage.stem} as _reference\n"
            source += "".join(f"{name} = _reference.{name}\n" for name in sorted(unbuilt))
            for name in sorted(unbuilt):
                if "." in name:  # its super() is that of the class which it now belongs to
                    source += _SUPER.format(name=name, owner=name.partition(".")[0])
            for wall in re.findall(r"^class (\w+)\(Wall\)", reference, re.MULTILINE):  # flags that are not set yet
                source += f"{wall}.flags = {wall}.flags or _reference.{wall}.flags\n"
            for wall, name in _own(reference):  # what the reference's methods call
                source += f"if not hasattr({wall}, {name!r}):\n    {wall}.{name} = _reference.{wall}.{name}\n"
        files[f"/course/stages/{stage.stem}.py"] = source
    return files


def _untouched(source: str, reference: str) -> set[str]:
    """The methods ("Filesystem.inside") that are as the stub has them, without the calls of what is not built yet."""
    theirs, ours, stub = map(_bodies, (source, reference, course.stub(reference)))
    return {name for name, body in theirs.items() if body == stub.get(name) != ours[name]}


def _bodies(source: str) -> dict[str, list[str]]:
    """What each method does, without its docstring."""
    return {
        f"{node.name}.{each.name}": [ast.dump(part) for part in each.body[bool(ast.get_docstring(each)) :]]
        for node, each in _methods(source)
    }


def _own(source: str) -> list[tuple[str, str]]:
    """The private methods, with their class: a stub has none of them."""
    return [(node.name, each.name) for node, each in _methods(source) if re.match("_[^_]", each.name)]


def _methods(source: str) -> list[tuple[ast.ClassDef, ast.FunctionDef]]:
    classes = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    return [(node, each) for node in classes for each in node.body if isinstance(each, ast.FunctionDef)]


def _keep() -> Keeper:
    """The keeper of this kernel's throwaway hosts."""
    global _keeper
    if _keeper is None:
        _keeper = Keeper()
        atexit.register(_drop_keeper)
    return _keeper


def _drop_keeper() -> None:
    global _keeper
    if _keeper is not None:
        _keeper.close()
        _keeper = None


# What look() shows: numbers differ from run to run, so processes and directories get names instead


def _seen(host: Host, names: dict[int, str], event: Event) -> list[str]:
    number, *what = event.body["told"]
    machine = facts.Process(facts.Process(host.runner).parent())  # its PID 1, which stays as the machine is
    below = facts.descendants(machine.pid)
    pid = event.pid
    if number is not None:
        pid = {_number_inside(candidate): candidate for candidate in (*below, host.runner)}.get(number, 0)
    if pid:
        names.setdefault(pid, f"process {chr(ord('A') + len(names) - 1)}")
    shown = [f"{names.get(pid, 'that process')}, seen from outside:"]
    try:
        if pid not in below or below[pid] == "Z":
            raise facts.Ended
        process = facts.Process(pid)
        while not process.argv():  # in the middle of exec: what it is about to close is still open
            time.sleep(0.001)
        soon = time.monotonic() + 0.2
        while process.status()["State"][0] in "RD" and time.monotonic() < soon:  # its libraries are being opened
            time.sleep(0.001)
        for fact in what or ("program", "root", "namespaces"):
            shown.append(f"    {fact:<12}{_FACTS[fact](process, machine)}")
    except facts.Ended:
        shown.append("    a zombie: it has ended, and nobody has waited for it" if pid else "    gone")
    except PermissionError as error:
        shown.append(f"    {error.strerror}")
    except KeyError as error:
        shown.append(f"    look() knows no {error}; it knows {', '.join(_FACTS)}")
    return shown


def _number_inside(pid: int) -> int:
    """The number that a process of a host has in the PID namespace of the host's inner level; 0: none."""
    try:
        found = re.search(r"^NSpid:\s+\d+\s+\d+\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) if found else 0


def _program(process: facts.Process, machine: facts.Process) -> str:
    copy = process.executable() == machine.executable()
    return "Python, a copy of this cell's" if copy else " ".join(process.argv())


def _directory(found: facts.File, machine: facts.Process) -> str:
    for path in _DIRECTORIES:
        with contextlib.suppress(FileNotFoundError):
            if machine.sees(path) == found:
                return f"{path} of the machine"
    return "another directory"


def _namespaces(process: facts.Process, machine: facts.Process) -> str:
    theirs, common = process.namespaces(), machine.namespaces()
    own = [name for name in theirs if theirs[name] != common[name]]
    shared = [name for name in theirs if name not in own]
    return f"own: {' '.join(own) or 'none'}; shared: {' '.join(shared) or 'none'}"


def _signals(process: facts.Process, machine: facts.Process) -> str:
    ignored, blocked = (
        " ".join(signal.Signals(number).name for number in sorted(process.signals(kind)) if number < 32) or "none"
        for kind in ("Ign", "Blk")
    )
    return f"ignored: {ignored}; blocked: {blocked}"


_FACTS: dict[str, Callable[[facts.Process, facts.Process], str]] = {
    "program": _program,
    "root": lambda process, machine: _directory(process.root(), machine),
    "cwd": lambda process, machine: _directory(process.cwd(), machine),
    "namespaces": _namespaces,
    "descriptors": lambda process, machine: " ".join(map(str, sorted(process.descriptors()))),
    "signals": _signals,
}


# How notebooks are made


class Cell(NamedTuple):
    """One cell: "markdown" or "code", and its text."""

    kind: str
    source: str


def cells(text: str) -> list[Cell]:
    """The cells of a lesson in jupytext's percent format; the part before the first one is jupytext's own."""
    found = []
    for part in re.split(r"^# %%", text, flags=re.MULTILINE)[1:]:
        mark, _, body = part.partition("\n")
        body = body.strip("\n")
        if mark.strip() == "[markdown]":
            found.append(Cell("markdown", re.sub(r"^# ?", "", body, flags=re.MULTILINE)))
        else:
            found.append(Cell("code", body))
    return found


def differences(lesson: Path) -> str:
    """How the .ipynb beside a lesson's .py is not what would be made from it; "" if it is."""
    made = lesson.with_suffix(".ipynb")
    if not made.is_file():
        return f"{made.name} is missing"
    wanted = cells(lesson.read_text())
    there = [Cell(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(made.read_text())["cells"]]
    if len(wanted) != len(there):
        return f"{made.name} has {len(there)} cells, {lesson.name} has {len(wanted)}"
    differing = [number for number, pair in enumerate(zip(wanted, there, strict=True), 1) if pair[0] != pair[1]]
    return f"{made.name} and {lesson.name} differ in cell {differing[0]}" if differing else ""


def blank(lesson: Path) -> str:
    """The text of the notebook of a lesson's .py, before any of its cells was run."""
    made: list[dict[str, Any]] = []
    for number, cell in enumerate(cells(lesson.read_text())):
        more: dict[str, Any] = {"outputs": [], "execution_count": None} if cell.kind == "code" else {}
        one = {"cell_type": cell.kind, "id": f"cell-{number}", "metadata": {}, "source": cell.source}
        made.append(one | more)
    return json.dumps({"cells": made, "metadata": _METADATA, "nbformat": 4, "nbformat_minor": 5})


def build(lesson: Path) -> None:
    """Make the .ipynb beside a lesson's .py: its cells, and what they print with the reference solutions."""
    jupytext, nbclient, nbformat = map(importlib.import_module, ("jupytext", "nbclient", "nbformat"))
    made = jupytext.read(lesson, fmt="py:percent")
    made.metadata = nbformat.from_dict(_METADATA)
    made.nbformat_minor = 5
    ids: set[str] = set()
    for cell in made.cells:
        # An id that stays as long as the text does: a change of one cell is a change of one cell in the diff.
        cell.id = hashlib.sha256(f"{cell.cell_type} {cell.source}".encode()).hexdigest()[:12]
        while cell.id in ids:
            cell.id += "-again"
        ids.add(cell.id)
        cell.metadata = nbformat.from_dict({})
    os.environ.update(THINWALLS_IMPL="solutions", PYTHONPATH=str(course.ROOT))
    options = {"timeout": 120, "kernel_name": "python3", "record_timing": False, "coalesce_streams": True}
    nbclient.NotebookClient(made, **options).execute(cwd=str(lesson.parent))
    made.metadata.language_info = nbformat.from_dict({"name": "python"})
    nbformat.validate(made)
    nbformat.write(made, lesson.with_suffix(".ipynb"))


def main(words: list[str]) -> int:
    """The command line at the top of this file; gives the exit status."""
    lessons = sorted((course.ROOT / "notebooks").glob("*.py"))
    match words:
        case ["build", *stems]:
            for lesson in lessons:
                if not stems or lesson.stem in stems:
                    print(f"building {lesson.stem}.ipynb", flush=True)
                    build(lesson)
            return 0
        case ["check"]:
            wrong = [found for lesson in lessons if (found := differences(lesson))]
            print("\n".join(wrong) or f"{len(lessons)} notebooks belong to their .py")
            if wrong:
                print("to make them anew: python -m thinwalls.notebook build")
            return 1 if wrong else 0
    print((__doc__ or "").partition("\n\n    ")[2], file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
