"""Small changes to a reference, made by machine: each is a mistake that a graded suite ought to notice.

mutmut and cosmic-ray do this for programs that their tests import. Here the program is one file of a submission, it
runs in a throwaway host, and only what the learner writes counts. So it is a page of ``ast``.

What the learner writes is what ``thinwalls.course.stub`` takes away: functions of a task, functions of a private name,
and lines that end with ``# task 1.2``. What is changed there: a comparison, a number by one, ``and`` and ``or``, a
condition into its contrary, a flag of several, the last argument of several or one with a name, and a statement is left
out. Texts stay, and so does what is for types alone.
"""

import ast
import copy
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from thinwalls import course

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
_CONTRARIES = (ast.Eq, ast.NotEq, ast.Is, ast.IsNot, ast.In, ast.NotIn)  # for these the other one is the contrary
_TYPES = {"annotation", "returns", "decorator_list"}
_MARKED = re.compile(r"# task (\d+\.\d+)$")


@dataclass(frozen=True)
class Mutant:
    """One of them. name: "FUNCTION: what stood there -> what stands there now"; task: of the function, "" for none."""

    name: str
    task: str


@dataclass(frozen=True)
class _Slot:
    """A place in the tree where a node stands, and the statement that it belongs to."""

    node: ast.AST
    put: Callable[[ast.AST], None]
    statement: ast.stmt


def mutants(source: str) -> list[Mutant]:
    """All mutants of a reference; their names are unique, and know nothing of line numbers."""
    return [mutant for mutant, _ in _changes(source)]


def mutated(source: str, name: str) -> str:
    """The reference with the change of that name."""
    tree = next(tree for mutant, tree in _changes(source) if mutant.name == name)
    return ast.unparse(ast.fix_missing_locations(tree))


def _changes(source: str) -> Iterator[tuple[Mutant, ast.Module]]:
    """Each mutant, and the tree while it is changed."""
    tree = course.parsed(source)
    names = Counter[str]()
    for path, task, slots in _learners(tree, source.splitlines()):
        ends = {end for slot in slots if isinstance(slot.node, ast.For | ast.While) for end in _last(slot.node.body)}
        for slot in slots:
            if isinstance(slot.node, ast.Continue) and slot.node in ends:
                continue  # the loop would go on anyway
            before = _line(slot.statement)
            for instead in _instead(slot):
                slot.put(instead)
                after = (
                    "pass"
                    if isinstance(instead, ast.Pass)
                    else _line(instead if slot.node is slot.statement else slot.statement)
                )
                name = f"{path}: {before} -> {after}"
                names[name] += 1
                name += f" ({names[name]})" if names[name] > 1 else ""
                yield Mutant(name, task), tree
            slot.put(slot.node)


def _learners(tree: ast.Module, lines: list[str]) -> Iterator[tuple[str, str, list[_Slot]]]:
    """What the learner writes: the name of the class and function, the task, and the places in it."""

    def look(node: ast.AST, prefix: str) -> Iterator[tuple[str, str, list[_Slot]]]:
        for slot in _slots(node, None):
            child = slot.node
            if isinstance(child, ast.FunctionDef):
                task = course.task_of(child)
                if task or (child.name.startswith("_") and not child.name.startswith("__")):
                    yield prefix + child.name, task or "", list(_below(child, child))
                    continue
            if isinstance(child, ast.ClassDef | ast.FunctionDef):
                yield from look(child, f"{prefix}{child.name}.")
            elif isinstance(child, ast.stmt):
                if marked := _MARKED.search(lines[(child.end_lineno or 1) - 1]):
                    yield prefix.rstrip(".") or "the module", marked[1], [slot, *_below(child, child)]
                else:
                    yield from look(child, prefix)

    yield from look(tree, "")


def _slots(node: ast.AST, statement: ast.stmt | None) -> Iterator[_Slot]:
    """The places right below a node."""
    for field, value in ast.iter_fields(node):
        if field in _TYPES or (isinstance(node, ast.keyword) and isinstance(node.value, ast.Constant)):
            continue  # an argument with a name is left out as a whole
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "time.sleep":
            continue  # how long somebody sleeps is a matter of taste
        for index, child in enumerate(value if isinstance(value, list) else [value]):
            if isinstance(child, ast.AST):
                put = (
                    (lambda new, value=value, index=index: value.__setitem__(index, new))
                    if isinstance(value, list)
                    else (lambda new, node=node, field=field: setattr(node, field, new))
                )
                own = child if isinstance(child, ast.stmt) else statement
                yield _Slot(child, put, own or ast.Pass())


def _below(node: ast.AST, statement: ast.stmt) -> Iterator[_Slot]:
    """All places below a node."""
    for slot in _slots(node, statement):
        yield slot
        yield from _below(slot.node, slot.statement)


def _instead(slot: _Slot) -> Iterator[ast.AST]:
    """What may be put in the place of a node."""
    node = slot.node
    if isinstance(node, ast.stmt):
        if _can_be_left_out(node):
            yield ast.Pass()
        if isinstance(node, ast.If | ast.While) and _has_a_contrary(node.test):
            yield _with(node, test=ast.UnaryOp(ast.Not(), node.test))
    elif isinstance(node, ast.Compare):
        for index, operator in enumerate(node.ops):
            other = _COMPARISONS[type(operator)]()
            yield _with(node, ops=[*node.ops[:index], other, *node.ops[index + 1 :]])
    elif isinstance(node, ast.Constant):
        if isinstance(node.value, bool):
            yield ast.Constant(not node.value)
        elif isinstance(node.value, int | float):
            yield ast.Constant(node.value + 1)
            yield ast.Constant(node.value - 1)
    elif isinstance(node, ast.BoolOp):
        yield _with(node, op=ast.Or() if isinstance(node.op, ast.And) else ast.And())
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield node.operand
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        yield node.left
        yield node.right
    elif isinstance(node, ast.IfExp) and _has_a_contrary(node.test):
        yield _with(node, test=ast.UnaryOp(ast.Not(), node.test))
    elif isinstance(node, ast.Call):
        if len(node.args) > 1 and not isinstance(node.args[-1], ast.Starred):
            yield _with(node, args=node.args[:-1])
        for index in range(len(node.keywords)):
            yield _with(node, keywords=[*node.keywords[:index], *node.keywords[index + 1 :]])


def _with(node: ast.AST, **changed: object) -> ast.AST:
    """The same node with other fields."""
    new = copy.copy(node)
    for field, value in changed.items():
        setattr(new, field, value)
    return new


def _can_be_left_out(node: ast.stmt) -> bool:
    """Whether what is left without it is a program that can go wrong in more than one way."""
    if isinstance(node, ast.Expr):
        return not isinstance(node.value, ast.Constant)  # a docstring
    if isinstance(node, ast.Assign):  # without a plain name the first use of it fails
        return not any(isinstance(part, ast.Name | ast.Tuple) for part in node.targets)
    return isinstance(node, ast.AugAssign | ast.Raise | ast.Return | ast.Break | ast.Continue | ast.Delete)


def _last(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements after which a body is at its end."""
    if body:
        yield body[-1]
        for field in ("body", "orelse"):
            yield from _last(getattr(body[-1], field, []))
        for handler in getattr(body[-1], "handlers", []):
            yield from _last(handler.body)


def _has_a_contrary(test: ast.expr) -> bool:
    """Whether "not" in front of a condition is another program than those that are made of it anyway."""
    if isinstance(test, ast.Compare) and len(test.ops) == 1:
        return not isinstance(test.ops[0], _CONTRARIES)
    return not isinstance(test, ast.Constant) and not (isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not))


def _line(statement: ast.stmt) -> str:
    """A statement on one line: of a compound one its head."""
    return ast.unparse(statement).splitlines()[0].strip()
