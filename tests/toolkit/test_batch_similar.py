"""Flags for files that are the same program: disguises are seen through, honest work is not flagged, nothing is run."""

import re
import time

import pytest

from thinwalls import course
from thinwalls.batch import similar

STAGES = course.stages()
ROOM = course.ROOT / "tests"


def disguised(source):
    """The same program in another dress: renamed, reordered, its comments and docstrings gone, laid out anew."""
    import ast

    tree = ast.parse(source)
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    names |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)} - {"self", "cls"}
    names |= {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("_")}
    fields = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)} | {
        k.arg for k in ast.walk(tree) if isinstance(k, ast.keyword)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in names - fields:
            node.id = f"my_{node.id}"
        elif isinstance(node, ast.arg) and node.arg in names - fields:
            node.arg = f"my_{node.arg}"
        elif isinstance(node, ast.ExceptHandler) and node.name in names - fields:
            node.name = f"my_{node.name}"
        elif isinstance(node, ast.FunctionDef):
            if node.name in names - fields:
                node.name = f"_my{node.name}"
            if ast.get_docstring(node) is not None:
                node.body[0] = ast.Pass()
    first = [node for node in tree.body if not isinstance(node, ast.FunctionDef)]
    tree.body = first + [node for node in reversed(tree.body) if isinstance(node, ast.FunctionDef)]
    return "# mine\n" + ast.unparse(tree)


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.stem)
def test_the_published_solution_is_known_in_any_dress(stage):
    source = course.reference(stage)
    made = similar.fingerprint(source, stage)
    other = disguised(source)
    assert made and other != source
    assert re.sub(r"\s", "", other) != re.sub(r"\s", "", source)
    assert similar.fingerprint(other, stage) == made


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.stem)
def test_a_stub_says_nothing(stage):
    assert similar.fingerprint(course.stub(course.reference(stage)), stage) is None
    assert similar.fingerprint("", stage) is None
    assert similar.fingerprint("def", stage) is None


@pytest.mark.parametrize("path", sorted((ROOM / "right").glob("*/*.py")), ids=lambda path: path.stem)
def test_honest_work_of_another_kind_is_not_the_reference(path):
    stage = course.stage(path.parent.name)
    assert similar.fingerprint(path.read_text(), stage) != similar.fingerprint(course.reference(stage), stage)


def test_one_changed_line_is_another_program():
    stage = course.stage("0")
    source = course.reference(stage)
    assert source.count("128 + os.WTERMSIG(status)") == 1
    changed = source.replace("128 + os.WTERMSIG(status)", "127 + os.WTERMSIG(status)")
    assert similar.fingerprint(changed, stage) not in (None, similar.fingerprint(source, stage))


def test_what_can_be_written_one_way_only_is_not_flagged():
    stage = course.stage("1")
    source = course.stub(course.reference(stage), only=frozenset({"1.2", "1.3", "1.4"}))
    assert "os.chroot(self.rootfs)" in source
    assert similar.fingerprint(source, stage) is None


def test_flags_name_the_reference_and_each_other(tmp_path):
    stage = course.stage("0")
    mine = course.reference(stage).replace("128 + os.WTERMSIG(status)", "os.WTERMSIG(status) + 128")
    files = {
        "anna": mine,
        "bo": disguised(mine),
        "chi": course.reference(stage),
        "dan": course.stub(course.reference(stage)),
        "eve": mine.replace("os.WTERMSIG(status) + 128", "9"),
    }
    made = {}
    for name, source in files.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "stage00_process.py").write_text(source)
        made[name] = similar.fingerprints(tmp_path / name)
    assert similar.flags(made) == {
        "anna": ["stage00_process.py is the same program as that of bo"],
        "bo": ["stage00_process.py is the same program as that of anna"],
        "chi": ["stage00_process.py is the same program as the published solution"],
    }
    assert made["dan"] == {}


def test_no_more_than_five_others_are_named():
    made = dict.fromkeys("abcdefgh", {"00": "x"})
    assert similar.flags(made)["a"] == ["stage00_process.py is the same program as that of b, c, d, e, f and 2 more"]


DEEP = {
    "minus": "x = " + "-" * 60000 + "1",
    "brackets": "x = " + "(" * 30000 + ")" * 30000,
    "sum": "def f():\n    return " + "+".join("1" for _ in range(30000)),
    "dots": "def f(x):\n    return x" + ".a" * 30000,
    "calls": "def f(x):\n    return x" + "()" * 30000,
    "lambdas": "def f():\n    return " + "lambda:" * 9000 + "1",
    "elifs": "def f(x):\n    if x:\n        pass\n" + "    elif x:\n        pass\n" * 2500,
    "blocks": "\n".join(" " * n + "if x:" for n in range(90)) + "\n" + " " * 90 + "pass",
    "strings": "def f():\n    return " + "f'{" * 100 + "1" + "}'" * 100,
    "wide": "def f():\n    return [" + "1," * 30000 + "]",
    "many": "def f(): 1+1\n" * 4600,
    "number": "def f():\n    return " + "9" * 60000,
    "surrogate": "def f():\n    return '\\udcff'\n",
    "nul": "def f():\n    return 1\0",
}


@pytest.mark.parametrize("kind", DEEP)
def test_neither_depth_nor_size_ends_it(kind):
    began = time.monotonic()
    made = similar.fingerprint(DEEP[kind], course.stage("0"))
    assert made is None or len(made) == 64
    assert time.monotonic() - began < 5


def test_a_tree_deeper_than_pythons_stack_is_compared():
    """These are parsed; a walk that recurses would not get to their end."""
    import ast
    import sys

    stage = course.stage("0")
    source = "def f(x):\n    return x" + ".a" * (sys.getrecursionlimit() + 500)
    assert similar.fingerprint(source, stage)
    with pytest.raises(RecursionError):
        ast.dump(ast.parse(source))
    assert similar.fingerprint(source, stage) != similar.fingerprint(source + ".a", stage)


def test_nothing_of_a_submission_is_run(tmp_path):
    touched = tmp_path / "touched"
    body = f"open({str(touched)!r}, 'w')\n"
    (tmp_path / "stage00_process.py").write_text(body + "def f():\n" + f"    {body}" * 30 + f"class A:\n    {body}")
    (tmp_path / "stage01_chroot.py").symlink_to(course.ROOT / "solutions" / "stage01_chroot.py")
    assert set(similar.fingerprints(tmp_path)) == {"00"}
    assert not touched.exists()
