"""The graded suites, judged by mutants: small changes to the references (mutants.py) that a suite must notice.

``tests/mutants/STEM.toml`` names those that need not be noticed: ``[[equivalent]]`` for a change after which the program
is as right as before, at most five a stage, and ``[[survivor]]`` for one that no test notices yet, or not every time.
Each has its reason. All others must be noticed by some task of their stage, and are at least nine of ten.

An ordinary run takes a few of each stage, others when its reference changes. All: ``--mutants all``; one: ``--mutants
all -k NAME``.
"""

import contextlib
import functools
import random
import tomllib
from collections.abc import Iterator

import pytest
from judging import BANKS, NO_POINTS, Entry, Judge
from mutants import mutants, mutated

from thinwalls import course
from thinwalls.grading import plugin, result

NOT_JUDGED_YET = set[str]()  # new stages, by id, of whose survivors nobody has said why they survive
MOST_EQUIVALENT = 5  # a stage
LEAST_KILLED = 0.9  # of those that are not


def excused(stage: course.Stage, kind: str) -> dict[str, str]:
    """The mutants of a stage that need not be noticed, and why."""
    path = BANKS / "mutants" / f"{stage.stem}.toml"
    listed = tomllib.loads(path.read_text()).get(kind, []) if path.exists() else []
    return {each["mutant"]: each["why"] for each in listed}


@functools.cache
def bank(stage: course.Stage) -> list[Entry]:
    """The mutants of a stage that a test must notice."""
    not_these = excused(stage, "equivalent") | excused(stage, "survivor")
    source = course.reference(stage)
    found = []
    for mutant in mutants(source):
        if mutant.name not in not_these:
            make = lambda path, name=mutant.name: path.write_text(mutated(source, name))  # noqa: E731
            found.append(Entry(stage, mutant.name, make, {}, mutant.task or stage.tasks[0].id))
    return found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "entry" in metafunc.fixturenames:
        few = metafunc.config.getoption("--mutants")
        found = []
        for stage in course.stages():
            all_of_it = bank(stage) if stage.id not in NOT_JUDGED_YET or few == "even-those" else []
            draw = random.Random(course.reference(stage))  # so a run turns red for a change, and never for a date
            found += (
                all_of_it if few in ("all", "even-those") else draw.sample(all_of_it, min(int(few), len(all_of_it)))
            )
        metafunc.parametrize("entry", [pytest.param(entry, id=entry.id) for entry in found])


@pytest.fixture(scope="module")
def judge(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judge]:
    with contextlib.closing(Judge.of(request, tmp_path_factory.mktemp("mutants"))) as judge:
        yield judge


@pytest.mark.slow
def test_a_mutant_is_noticed(entry: Entry, judge: Judge, request: pytest.FixtureRequest) -> None:
    found = judge.judged(request.node.name)
    request.node.user_properties.append(("seconds", found.seconds))
    statuses = {verdict.status for verdict in found.verdicts.values()}
    if result.NOT_GRADABLE in statuses and not statuses & NO_POINTS:
        pytest.skip("a task that may notice it is not gradable here")
    print(f"--seed {judge.seed}", *map(plugin.as_text, found.verdicts.values()), sep="\n")
    assert statuses <= {result.PASSED, *NO_POINTS, result.NOT_GRADABLE}
    assert statuses & NO_POINTS, f"no task of stage {entry.stage.id} notices: {entry.name}"


@pytest.mark.parametrize("stage", course.stages(), ids=lambda stage: stage.id)
def test_what_need_not_be_noticed_is_little_and_has_a_reason(stage: course.Stage) -> None:
    equivalent, survivors = excused(stage, "equivalent"), excused(stage, "survivor")
    made = [mutant.name for mutant in mutants(course.reference(stage))]
    assert {*equivalent, *survivors} <= set(made), "an excuse for what is no mutant any more"
    assert not equivalent.keys() & survivors.keys()
    assert all(why.endswith(".") for why in (*equivalent.values(), *survivors.values()))
    assert len(equivalent) <= MOST_EQUIVALENT
    assert len(survivors) <= (1 - LEAST_KILLED) * (len(made) - len(equivalent))
