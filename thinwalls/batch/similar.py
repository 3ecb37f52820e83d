"""Files that are the same program: as the reference's, or as another submission's. Flags for a person to look at.

Compared are syntax trees, so that comments, layout, the order of functions and the names of variables make no
difference. A submission is read and never imported. The solutions are public, and two people can have the same idea:
what is said here is no verdict.

Only functions count in which something was built: those that are still the stub's are the same for everybody. And
where that is little, it says nothing either: two lines in which chroot(2) and chdir(2) are called can be written only
one way.
"""

import ast
import builtins
import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path

from thinwalls import course

_LITTLE = 100  # nodes of the tree; what is built in fewer is alike by nature (all of stage 1 has 128)
_KNOWN = frozenset(dir(builtins))
# What a tree says that does not matter: where something stands, and what types it is said to have.
_SKIPPED = frozenset({"ctx", "returns", "annotation", "type_comment", "kind", "type_params"})


def fingerprint(source: str, stage: course.Stage) -> str | None:
    """What two files have in common if they are the same program; None for one in which too little is built to say.

    None too for a text that is no program. Never raises.
    """
    functions = _functions(source)
    if functions is None:
        return None
    given = _given(stage)
    built = {name: each for name, each in functions.items() if each != given.get(name)}
    if sum(size for size, _ in built.values()) < _LITTLE:
        return None
    text = "\n".join(sorted(f"{name} {digest}" for name, (_, digest) in built.items()))
    return hashlib.sha256(text.encode()).hexdigest()


@functools.cache
def _given(stage: course.Stage) -> dict[str, tuple[int, str]]:
    """The functions of the stub."""
    return _functions(course.stub(course.reference(stage))) or {}


def fingerprints(folder: Path) -> dict[str, str]:
    """The fingerprint of each stage file in a folder, by stage id; of those that have one."""
    found = {}
    for stage in course.stages():
        try:
            made = fingerprint(course.read_source(folder / f"{stage.stem}.py"), stage)
        except (FileNotFoundError, course.Unreadable):
            continue
        if made:
            found[stage.id] = made
    return found


def flags(submissions: Mapping[str, Mapping[str, str]]) -> dict[str, list[str]]:
    """What is to be looked at, in sentences, by submission. submissions: what ``fingerprints`` gave for each."""
    said: dict[str, list[str]] = {}
    for stage in course.stages():
        reference = fingerprint(course.reference(stage), stage)
        same: dict[str, list[str]] = {}
        for name, made in submissions.items():
            if stage.id in made:
                same.setdefault(made[stage.id], []).append(name)
        for digest, names in same.items():
            for name in names:
                others = [other for other in names if other != name]
                if digest == reference:
                    what = "is the same program as the published solution"
                elif others:
                    more = f" and {len(others) - 5} more" if len(others) > 5 else ""
                    what = f"is the same program as that of {', '.join(others[:5])}{more}"
                else:
                    continue
                said.setdefault(name, []).append(f"{stage.stem}.py {what}")
    return said


def _functions(source: str) -> dict[str, tuple[int, str]] | None:
    """name -> (nodes, digest) of every function of a file, and of the classes it has; None if it is no program."""
    try:
        tree = course.parsed(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    found: dict[str, tuple[int, str]] = {}
    names: dict[str, int] = {}
    for outer in tree.body:
        inner = outer.body if isinstance(outer, ast.ClassDef) else [outer]
        prefix = f"{outer.name}." if isinstance(outer, ast.ClassDef) else ""
        for node in inner:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                size, digest = _digest(node)
                # A private name is the writer's own; it may be the second of its name.
                name = prefix + (node.name if node.name.startswith("__") or node.name[0] != "_" else "_" + digest)
                number = names[name] = names.get(name, 0) + 1
                found[f"{name}#{number}"] = (size, digest)
    return found


def _digest(function: ast.AST) -> tuple[int, str]:
    """(nodes, digest) of one function. With a stack of its own: a tree may be deeper than Python's."""
    names: dict[str, str] = {}

    def known(name: str) -> str:
        """The writer's own names are numbered as they come; the world's are what they are."""
        return name if name in _KNOWN else names.setdefault(name, f"#{len(names)}")

    hasher = hashlib.sha256()
    size = 0
    stack: list[object] = [function]
    while stack:
        item = stack.pop()
        if isinstance(item, ast.AST):
            size += 1
            hasher.update(f"({type(item).__name__}".encode())
            stack.append(")")
            parts: list[object] = []
            for field, value in ast.iter_fields(item):
                if field in _SKIPPED or (field == "name" and item is function):
                    continue
                if field in ("id", "arg", "name") and isinstance(value, str) and not isinstance(item, ast.keyword):
                    value = known(value)
                elif field == "attr" and str(value).startswith("_"):
                    value = known(str(value))
                elif field == "body" and isinstance(value, list):
                    value = [each for each in value if not _says_nothing(each)]
                parts += [f" {field}=", value]
            stack += reversed(parts)
        elif isinstance(item, list):
            stack += ["]", *reversed(item)]
            hasher.update(b"[")
        else:
            text = item if isinstance(item, str) else repr(item)
            hasher.update(f"{len(text)}:{text}".encode(errors="surrogatepass"))
    return size, hasher.hexdigest()


def _says_nothing(node: object) -> bool:
    """A docstring or another text that nothing is done with, and ``pass``."""
    return isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
