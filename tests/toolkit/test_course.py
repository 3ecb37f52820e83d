"""The course is whole: every room has every stage, stubs fail on their own task, the order of building holds.

That the solutions pass is a step of its own of `./walls test`.
"""

import ast
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from thinwalls import course
from thinwalls.grading import driver, plugin, result
from thinwalls.host import Keeper

STAGES = course.stages()
# Stage 6 is two walls and three protocols, though most of them is given: see docs/design.md.
MOST_LINES = {"06": (240, 80)}  # of code, by stage: of a solution, of its stub
TASKS = [(stage, task) for stage in STAGES for task in stage.tasks]


@pytest.fixture(scope="module")
def keeper():
    with Keeper() as keeper:
        yield keeper


def names(things):
    return [thing.stem if isinstance(thing, course.Stage) else thing[1].id for thing in things]


@pytest.mark.parametrize("stage", STAGES, ids=names(STAGES))
def test_a_stage_is_in_every_room(stage):
    for room, ending in (("notebooks", ".ipynb"), ("notebooks", ".py"), ("stages", ".py"), ("solutions", ".py")):
        assert (course.ROOT / room / (stage.stem + ending)).is_file(), f"{room}/{stage.stem}{ending} is missing"
    assert stage.suite.is_file()


@pytest.mark.parametrize("room", ["notebooks", "solutions", "tests/stages"])
def test_no_room_has_a_file_that_belongs_to_no_stage(room):
    known = {f"{prefix}{stage.stem}" for stage in STAGES for prefix in ("", "test_")} | {"__init__"}
    if room == "notebooks":
        known |= {lesson.stem for lesson in course.lessons()}
    files = [path for path in (course.ROOT / room).iterdir() if path.is_file()]
    assert [path.name for path in files if path.stem not in known] == []


@pytest.mark.parametrize("lesson", course.lessons(), ids=lambda lesson: lesson.stem)
def test_a_lesson_without_a_stage_is_there_and_named_as_in_the_manifest(lesson):
    assert lesson.minutes > 0
    assert f"# # {lesson.title}\n" in (course.ROOT / "notebooks" / f"{lesson.stem}.py").read_text()
    assert (course.ROOT / "notebooks" / f"{lesson.stem}.ipynb").is_file()


@pytest.mark.parametrize(("stage", "task"), TASKS, ids=names(TASKS))
def test_a_task_is_whole(stage, task):
    assert task.points in (1, 2, 3)
    assert task.minutes > 0
    assert len(task.hints) >= 3
    assert all(len(hint) > 40 for hint in task.hints), "a hint that says next to nothing"
    known = {each.id for _, each in TASKS}
    assert set(task.needs) <= known
    assert all(number(need) < number(task.id) for need in task.needs), "a task may need only what comes before it"
    notebook = (course.ROOT / "notebooks" / f"{stage.stem}.py").read_text()
    assert f"Task {task.id}: {task.title}" in notebook, "the notebook has no heading for it"
    assert f"./walls check {task.id}" in notebook
    defined = {
        prefix + node.name for prefix, node in functions(course.reference(stage)) if course.task_of(node) == task.id
    }
    assert set(task.builds) == defined, "the manifest's `builds` and the docstrings of the solution disagree"


def test_what_a_task_adds_to_the_functions_of_others_is_found_in_their_words():
    source = course.reference(course.stage("06"))
    assert course.adds(source, "6.3") == ["pull"]
    assert course.adds(source, "6.4") == ["Repository.manifest", "Repository.blob", "write_blob"]
    assert course.adds(source, "6.5") == ["Tree.locate", "Tree.place"]
    assert course.adds(source, "6.10") == ["Tree.place"]
    assert course.adds(source, "6.1") == []


@pytest.mark.parametrize("stage", STAGES, ids=names(STAGES))
def test_every_task_has_exactly_one_graded_test(stage):
    found = re.findall(r'@pytest\.mark\.task\("([\d.]+)"\)', stage.suite.read_text())
    assert Counter(found) == Counter(task.id for task in stage.tasks)


@pytest.mark.parametrize("stage", STAGES, ids=names(STAGES))
def test_the_stub_has_the_signatures_of_the_solution_and_none_of_its_bodies(stage):
    solution = course.reference(stage)
    stub = course.stub(solution)
    compile(stub, stage.stem, "exec")
    signatures = {
        prefix + node.name: ast.dump(node.args) + ast.dump(node.returns or node.args)
        for prefix, node in functions(stub)
    }
    expected = {
        prefix + node.name: ast.dump(node.args) + ast.dump(node.returns or node.args)
        for prefix, node in functions(solution)
        if not node.name.startswith("_") or node.name.startswith("__")
    }
    assert signatures == expected
    assert course.unbuilt(stub) == {name for task in stage.tasks for name in task.builds}
    assert "# task" not in stub
    most, most_of_stub = MOST_LINES.get(stage.id, (150, 80))
    assert code_lines(stub) <= most_of_stub
    assert code_lines(solution) <= most


@pytest.mark.parametrize("stage", STAGES, ids=names(STAGES))
def test_a_fresh_stub_fails_every_task_by_its_own_name(stage, keeper, tmp_path):
    (tmp_path / f"{stage.stem}.py").write_text(course.stub(course.reference(stage)))
    found = driver.grade(driver.select([stage.id]), str(tmp_path), keeper=keeper)
    for task in stage.tasks:
        verdict = found.verdict(task)
        assert verdict.status == result.FAILED
        assert verdict.yours.startswith(f"task {task.id} is not built yet")


@pytest.mark.parametrize("stage", STAGES, ids=names(STAGES))
def test_tasks_can_be_built_in_their_order(stage, keeper, tmp_path):
    """With the tasks after one left as the stub has them, that one and all before it pass, and the others do not."""
    if any(task.cgroup for task in stage.tasks) and not keeper.cgroup:
        pytest.skip("no cgroup can be made here: the tasks of this stage are not gradable")
    shown = {}  # by the reference: once is enough
    for position, task in enumerate(stage.tasks):
        later = stage.tasks[position + 1 :]
        source = course.stub(course.reference(stage), only=frozenset(each.id for each in later))
        (tmp_path / f"{stage.stem}.py").write_text(source)
        several = driver.several()
        found = driver.grade(
            driver.select([stage.id]), str(tmp_path), seed=1, keeper=keeper, rehearsed=shown, at_once=several
        )
        passed = [each.id for each in stage.tasks if found.verdict(each).status == result.PASSED]
        assert passed == [each.id for each in stage.tasks[: position + 1]], f"built up to {task.id}: " + "\n".join(
            str(verdict) for verdict in found.verdicts.values() if verdict.status != result.PASSED
        )


@pytest.mark.parametrize("stage", STAGES, ids=names(STAGES))
def test_a_folder_without_the_file_earns_nothing(stage, keeper, tmp_path):
    found = driver.grade(driver.select([stage.id]), str(tmp_path), keeper=keeper)
    assert found.counts() == {result.FAILED: len(stage.tasks)}
    assert found.as_json()["score"] == 0


def number(task):
    """6.10 comes after 6.5."""
    return [int(part) for part in task.split(".")]


def functions(source):
    """Every function of a source with the prefix "Class." where it has one."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef):
            yield "", node
        elif isinstance(node, ast.ClassDef):
            yield from ((f"{node.name}.", each) for each in node.body if isinstance(each, ast.FunctionDef))


def code_lines(source):
    """Lines that are neither empty, nor a comment, nor of a docstring."""
    docstrings = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module) and ast.get_docstring(node) is not None:
            docstrings.update(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    lines = enumerate(source.splitlines(), start=1)
    return sum(
        1 for number, line in lines if number not in docstrings and line.strip() and not line.strip().startswith("#")
    )


def test_what_was_compiled_is_believed_without_a_look_at_the_source(tmp_path):
    (tmp_path / "one.py").write_text("word = 'from the source'\n")
    there, data = course.compiled(f"{tmp_path}/one.py", "word = 'compiled'\n")
    Path(there).parent.mkdir()
    Path(there).write_bytes(data)
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import one; print(one.word, one.__file__)"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"compiled {tmp_path}/one.py\n"


@pytest.mark.parametrize(("side", "compiled"), [("reference", {"00", "01"}), ("yours", {"00"})])
def test_a_learners_source_is_not_compiled_in_the_grader(monkeypatch, side, compiled):
    monkeypatch.setattr(plugin, "Machine", lambda keeper, task, seed, files, *_: files)
    stage, task = course.task("1.2")
    source = course.reference(stage) + ("" if side == "reference" else "# somebody's own\n")
    files = plugin.Grader("stages", 1, keeper=object())._machine(side, stage, task, source)
    assert {Path(path).name[len("stage") :][:2] for path in files if path.endswith(".pyc")} == compiled
    assert files[f"/course/stages/{stage.stem}.py"] == source
