"""The course as its manifest describes it (course.toml), and the stubs that its reference solutions imply."""

import ast
import errno
import importlib.util
import io
import marshal
import os
import re
import stat
import sys
import threading
import tokenize
import tomllib
import warnings
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]  # the checkout: notebooks/, stages/, solutions/, tests/
SOURCE_LIMIT = 64 * 1024  # bytes a stage file may have
_READ_AGAIN = lru_cache(maxsize=64)  # a source is looked through for every task of its stage
_WARNINGS = threading.Lock()  # what a process makes of warnings, all its threads have in common
_TASK = re.compile(r"Task (\d+\.\d+)\b")
_LINE_OF_TASK = re.compile(r"(?P<indent>\s*)\S.*# task (?P<task>\d+\.\d+)$")


class Unknown(LookupError):
    """There is no such stage or task."""


@dataclass(frozen=True)
class Task:
    """The unit of grading. ``builds``: the functions it asks for; ``needs``: the tasks that must stand before it;
    ``attack``: what the learner writes is an attack, tried on the reference's wall; ``cgroup``: its host must be handed
    a cgroup, for the learner to make others in; ``network``: its host has a way out;
    ``ids``: it needs a second user id."""

    id: str
    title: str
    points: int
    minutes: int
    needs: tuple[str, ...]
    builds: tuple[str, ...]
    hints: tuple[str, ...]
    attack: bool = False
    cgroup: bool = False
    network: bool = False
    ids: bool = False


@dataclass(frozen=True)
class Stage:
    """One wall: a notebook, a file to fill in, a reference, a graded suite, all under one stem."""

    id: str
    name: str
    title: str
    minutes: int
    needs: tuple[str, ...]
    forbids: tuple[str, ...]
    tasks: tuple[Task, ...]

    @property
    def stem(self) -> str:
        """The name the stage has in every room of the house, such as ``stage01_chroot``."""
        return f"stage{self.id}_{self.name}"

    @property
    def suite(self) -> Path:
        """Its graded suite."""
        return ROOT / "tests" / "stages" / f"test_{self.stem}.py"


@cache
def stages() -> tuple[Stage, ...]:
    """All stages, in the order of building."""
    return tuple(_stage(table) for table in _manifest()["stage"])


@cache
def _manifest() -> dict[str, Any]:
    return tomllib.loads((ROOT / "course.toml").read_text())


def _stage(table: dict[str, Any]) -> Stage:
    lists = {name: tuple(table[name]) for name in ("needs", "forbids")}
    tasks = tuple(
        Task(**{**task, **{name: tuple(task[name]) for name in ("needs", "builds", "hints")}}) for task in table["task"]
    )
    return Stage(table["id"], table["name"], table["title"], table["minutes"], **lists, tasks=tasks)


@dataclass(frozen=True)
class Lesson:
    """A notebook that belongs to no stage. ``minutes``: for reading it."""

    stem: str
    title: str
    minutes: int


@cache
def lessons() -> tuple[Lesson, ...]:
    """The lessons beside the stages."""
    return tuple(Lesson(**table) for table in tomllib.loads((ROOT / "course.toml").read_text())["lesson"])


@dataclass(frozen=True)
class WallOfRun:
    """A wall of ``./walls run``: its class, what it is made with, and the stage that replaces it ("": none)."""

    name: str  # "stage01_chroot.Root"
    args: tuple[str, ...]
    until: str

    @property
    def stage(self) -> Stage:
        """The stage it is built in."""
        return stage(self.name.partition(".")[0])


@cache
def walls() -> tuple[WallOfRun, ...]:
    """The walls of ``./walls run``, in their order."""
    return tuple(WallOfRun(each["class"], tuple(each["args"]), each.get("until", "")) for each in _manifest()["wall"])


def stage(word: str) -> Stage:
    """The stage a person means by "1", "01", "stage01_chroot" or "chroot". Raises Unknown."""
    for each in stages():
        if word in (each.id, each.name, str(int(each.id))) or Path(word).stem in (each.stem, f"test_{each.stem}"):
            return each
    known = ", ".join(f"{int(each.id)} ({each.name})" for each in stages())
    raise Unknown(f"there is no stage {word!r}; there are {known}")


def task(word: str) -> tuple[Stage, Task]:
    """The task with the id ``word``, such as "1.4", and its stage. Raises Unknown."""
    for each in stages():
        for candidate in each.tasks:
            if candidate.id == word:
                return each, candidate
    number = word.partition(".")[0]
    where = [each for each in stages() if str(int(each.id)) == number] or list(stages())
    known = ", ".join(candidate.id for each in where for candidate in each.tasks)
    raise Unknown(f"there is no task {word!r}; there are {known}")


def reference(stage: Stage) -> str:
    """The source of the reference solution."""
    return (ROOT / "solutions" / f"{stage.stem}.py").read_text()


@_READ_AGAIN
def stub(source: str, only: frozenset[str] | None = None) -> str:
    """The learner's file that a reference solution implies.

    A function whose docstring begins "Task 1.2:" keeps its signature and docstring, and its body becomes
    ``raise NotImplementedError("task 1.2 is not built yet")``; a function of a private name without a task goes;
    in what stays, a line that ends with ``# task 1.2`` goes. With ``only``, this happens to those tasks alone, and
    everything else is as if they had not been thought of yet.
    """
    if only is not None and not any(number in source for number in only):
        return source  # of another stage
    tree = ast.parse(source)
    lines = source.splitlines()
    cut: list[tuple[int, int, list[str]]] = []  # first line, last line (both from 1), what stands there instead
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef):
            continue
        number = task_of(node)
        if number is None:
            if only is None and node.name.startswith("_") and not node.name.startswith("__"):
                start = node.lineno
                while start > 1 and not lines[start - 2].strip():
                    start -= 1
                cut.append((start, node.end_lineno or start, []))
        elif only is None or number in only:
            indent = " " * node.body[0].col_offset
            body = f'{indent}raise NotImplementedError("task {number} is not built yet")'
            cut.append(((node.body[0].end_lineno or 0) + 1, node.end_lineno or 0, [body]))
    for first, last, instead in sorted(cut, reverse=True):
        lines[first - 1 : last] = instead
    text: list[str] = []
    dropped = False
    for line in lines:
        marked = _LINE_OF_TASK.match(line)
        if marked and only is not None and marked["task"] in only:
            text.append(f"{marked['indent']}pass")  # it may be all that its block has
        elif (not marked or only is not None) and not (dropped and not line and not text[-1]):
            text.append(line)
        dropped = bool(marked and only is None)  # a paragraph of its own leaves one empty line behind, not two
    return "\n".join(text).rstrip() + "\n"


def task_of(function: ast.FunctionDef) -> str | None:
    """The id of the task whose words begin the function's docstring, if any."""
    found = _TASK.match(ast.get_docstring(function) or "")
    return found[1] if found else None


def adds(source: str, number: str) -> list[str]:
    """The functions of other tasks ("pull", "Tree.place") to which a task adds: their docstrings say so ("6.3 adds").

    In the order of the source.
    """
    found = []
    for outer in ast.parse(source).body:
        for node in outer.body if isinstance(outer, ast.ClassDef) else [outer]:
            said = ast.get_docstring(node) or "" if isinstance(node, ast.FunctionDef) else ""
            if isinstance(node, ast.FunctionDef) and re.search(rf"(?<![\d.]){re.escape(number)} adds\b", said):
                found.append(f"{outer.name}.{node.name}" if isinstance(outer, ast.ClassDef) else node.name)
    return found


def parsed(source: str) -> ast.Module:
    """The tree of a learner's source; an odd escape in a string is no error, whatever this process makes of warnings.

    Raises SyntaxError, and ValueError for what is no text of a program.
    """
    with _WARNINGS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(source)


_tree = lru_cache(maxsize=8)(parsed)  # for those in here, who only look at it


@_READ_AGAIN
def library(source: str) -> tuple[str, ...]:
    """The modules of Python's own library that a source imports."""
    found: set[str] = set()
    for node in ast.walk(_tree(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found.add(node.module)
    return tuple(sorted(name for name in found if name.partition(".")[0] in sys.stdlib_module_names))


@_READ_AGAIN
def unbuilt(source: str) -> frozenset[str]:
    """The names ("run", "Root.inside") of functions that are still what the stub had: nothing but NotImplementedError.

    Raises SyntaxError, and ValueError for what is no text of a program.
    """
    found = set()

    def look(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef):
                look(node.body, f"{node.name}.")
            elif isinstance(node, ast.FunctionDef):
                rest = node.body[1:] if ast.get_docstring(node) is not None else node.body
                if len(rest) == 1 and isinstance(rest[0], ast.Raise):
                    raised = rest[0].exc.func if isinstance(rest[0].exc, ast.Call) else rest[0].exc
                    if isinstance(raised, ast.Name) and raised.id == "NotImplementedError":
                        found.add(prefix + node.name)

    look(_tree(source).body, "")
    return frozenset(found)


@_READ_AGAIN
def forbidden(source: str, patterns: tuple[str, ...]) -> str | None:
    """The first use in ``source`` of a name the manifest forbids ("subprocess", "os.spawn*"), with its line; or None.

    A rule for honest people: whoever hides a name well enough gets round it, and has not learned anything.
    """
    from fnmatch import fnmatchcase

    nodes = list(ast.walk(_tree(source)))
    stands_for = {"posix": "os"}  # the name a module has in this file, or is implemented under -> its own
    for node in nodes:
        if isinstance(node, ast.Import):
            stands_for.update(
                (alias.asname, stands_for.get(alias.name, alias.name)) for alias in node.names if alias.asname
            )
    for node in nodes:
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = stands_for.get(node.module or "", node.module or "")
            names = [module, *(f"{module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            names = [f"{stands_for.get(node.value.id, node.value.id)}.{node.attr}"]
        for name in names:
            for pattern in patterns:
                if fnmatchcase(name, pattern) or name.startswith(pattern + "."):
                    return f"{name} in line {node.lineno}"  # type: ignore[attr-defined]
    return None


@_READ_AGAIN
def compiled(path: str, source: str) -> tuple[str, bytes]:
    """Where Python looks for what a source of ours at ``path`` was compiled to, and that: it believes it as it is.

    So the stages around the one that is graded need not be compiled in every host anew. Nobody else's source is
    compiled in the grader. See PEP 552 (an unchecked hash-based .pyc) and PEP 3147 (its name).
    """
    directory, name = os.path.split(path)
    there = f"{directory}/__pycache__/{name.removesuffix('.py')}.{sys.implementation.cache_tag}.pyc"
    code = marshal.dumps(compile(source, path, "exec", dont_inherit=True))
    unchecked = (1).to_bytes(4, "little")
    head = importlib.util.MAGIC_NUMBER + unchecked + importlib.util.source_hash(source.encode())
    return there, head + code


class Unreadable(ValueError):
    """A stage file is not one that Python could read; the words are for the learner. line: where, if that is known."""

    def __init__(self, sentence: str, line: int | None = None):
        super().__init__(sentence)
        self.line = line


@_READ_AGAIN
def _text(data: bytes, name: str) -> str:
    """The text of a stage file with this content. Raises what read_source() makes sentences of."""
    source = data.decode("utf-8-sig")
    if odd := re.search(r"[\x00-\x08\x0b\x0e-\x1f\x7f]", source):
        raise Unreadable(f"{name} is no text: it has the control character {odd[0]!r}")
    if (encoding := tokenize.detect_encoding(io.BytesIO(data).readline)[0]) not in ("utf-8", "utf-8-sig"):
        # Python would read another text than the one that is looked at here.
        raise Unreadable(f"{name} is to be read in another encoding than UTF-8: {encoding}")
    _tree(source)
    return source


def read_source(path: Path) -> str:
    """The text of somebody's stage file. Raises FileNotFoundError and Unreadable, with a sentence each."""
    name = path.name
    try:
        # A link may lead to the reference, or to what only the grader may read; a FIFO would keep us waiting.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise Unreadable(f"{name} is no regular file")
            data = os.read(fd, SOURCE_LIMIT + 1)
        finally:
            os.close(fd)
        if len(data) > SOURCE_LIMIT:
            raise Unreadable(f"{name} has more than {SOURCE_LIMIT // 1024} KiB, which no stage needs")
        return _text(data, name)
    except SyntaxError as error:
        raise Unreadable(f"{name} is no Python: {error.msg} (line {error.lineno})", error.lineno) from None
    except UnicodeDecodeError as error:
        raise Unreadable(f"{name} is not UTF-8: byte {error.start}") from None
    except (RecursionError, MemoryError):
        raise Unreadable(f"{name} is no Python that can be read: its expressions are nested too deeply") from None
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no file {name} in {path.parent.name}/") from None
    except OSError as error:
        what = (
            "is a symbolic link: put the file itself there"
            if error.errno == errno.ELOOP
            else f"cannot be read: {error.strerror}"
        )
        raise Unreadable(f"{name} {what}") from None
    except ValueError as error:
        raise (
            error if isinstance(error, Unreadable) else Unreadable(f"{name} cannot be read as Python: {error}")
        ) from None
