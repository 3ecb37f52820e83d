"""Tasks that are graded at the same time get the verdicts that they get one after another, and nothing is left."""

import contextlib

import machine_state
import pytest

from thinwalls import course
from thinwalls.grading import driver, plugin, result

STAGES = ("0", "1")


@pytest.fixture
def nothing_left():
    before = machine_state.snapshot()
    yield
    machine_state.reap(before)
    assert machine_state.difference(before, machine_state.settled(before)) == []


def folder(place, change=lambda source: source):
    """A folder with both stages, the first of them changed."""
    for number in STAGES:
        stage = course.stage(number)
        source = course.reference(stage)
        (place / f"{stage.stem}.py").write_text(change(source) if number == "0" else source)
    return str(place)


def test_verdicts_are_the_same_and_told_in_the_order_of_the_tasks(tmp_path, nothing_left):
    impl = folder(tmp_path, lambda source: source.replace("return 128 + ", "return 127 + "))
    tasks = driver.select(STAGES)
    found = {}
    for at_once in (1, 3):
        told = []
        verdicts = driver.grade(tasks, impl, seed=7, tell=told.append, at_once=at_once).verdicts
        assert [each.id for each in told] == [task.id for _, task in tasks]
        assert all(verdicts[each.id] is each for each in told)
        found[at_once] = {each.id: (each.status, each.expected, each.yours, each.did) for each in told}
    assert found[1] == found[3]
    assert {status for status, *_ in found[3].values()} == {result.PASSED, result.FAILED}


def test_after_two_timeouts_no_further_task_of_the_stage_is_begun(tmp_path, nothing_left):
    impl = folder(tmp_path, lambda source: f"{source}\nwhile True: pass\n")
    found = driver.grade(driver.select(STAGES), impl, at_once=2)
    ours, others = ([found.verdict(task) for task in course.stage(number).tasks] for number in STAGES)
    assert {verdict.status for verdict in ours} == {result.TIMEOUT}
    tried = [verdict for verdict in ours if "not tried" not in verdict.message]
    assert len(tried) in (2, 3)  # the third may have been at work when the second timed out
    assert {verdict.status for verdict in others} == {result.PASSED}


def test_a_test_that_breaks_is_nobodys_fault_and_the_others_go_on(nothing_left):
    def breaks(machine):
        raise LookupError("lost")

    def holds(machine):
        machine.expect("a host is there", machine.runner.pid > 0, machine.runner.pid)

    tests = {"0.1": breaks, "0.2": holds, "0.3": holds, "9.9": holds}
    with contextlib.closing(plugin.Grader("solutions", 7)) as grader, grader.ahead(tests, 2):
        found = {task_id: grader.grade(task_id, test) for task_id, test in tests.items()}
        twice = grader.grade("0.3", holds)
    assert {task_id: verdict.status for task_id, verdict in found.items()} == {
        "0.1": result.INFRA_ERROR,
        "0.2": result.PASSED,
        "0.3": result.PASSED,
        "9.9": result.INFRA_ERROR,
    }
    assert "LookupError: lost" in found["0.1"].message
    assert twice.status == grader.verdicts["0.3"].status == result.INFRA_ERROR
