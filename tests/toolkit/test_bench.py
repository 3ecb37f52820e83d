"""``./walls bench``: it measures, its JSON is well formed, wrong input is refused, and nothing of it is left behind.

How fast anything is is no question here: few samples, and no clock.
"""

import dataclasses
import json
import os
import shutil
import tarfile
from pathlib import Path

import machine_state
import pytest

from thinwalls import cli
from thinwalls.batch.measure import Measured
from thinwalls.bench import classes, command, figures, grading, neighbour, page, pulling, starting
from thinwalls.bench.figures import Aim, Malformed, Measurement, Table, Unmeasurable
from thinwalls.host import Keeper

TABLE = Table("Starts", "ms", {"ours": [0.004, 0.003, 0.005], "theirs": [0.008]}, [Aim("ours", "theirs", 0.6)])
FOUND = Measurement("start", [TABLE], {"podman": "there is no such program"}, ["By turns."])


@pytest.fixture
def nothing_left():
    before = machine_state.snapshot()
    yield
    machine_state.reap(before)
    assert machine_state.difference(before, machine_state.settled(before)) == []


# What was found


@pytest.mark.parametrize(
    ("aim", "says"),
    [
        (Aim("ours", "theirs", 0.6), "0.50 times theirs (aim: at most 0.6: met)"),
        (Aim("ours", "theirs", 0.4), "0.50 times theirs (aim: at most 0.4: missed)"),
        (Aim("ours", "theirs", 0.9, least=True), "0.50 times theirs (aim: at least 0.9: missed)"),
        (Aim("ours", "theirs"), "0.50 times theirs"),
        (Aim("ours", "", 4), "(aim: at most 4 ms: met)"),
        (Aim("ours", "", 3.9), "(aim: at most 3.9 ms: missed)"),
        (Aim("ours", "others", 0.6), ""),
    ],
)
def test_a_row_says_its_ratio_and_whether_the_aim_is_met(aim, says):
    rows = list(dataclasses.replace(TABLE, aims=[aim]).rows())
    assert rows == [("ours", "4.0 ms", "3.0 ms", "3", says), ("theirs", "8.0 ms", "8.0 ms", "1", "")]


def test_text_and_page_name_what_was_left_out_and_the_machine():
    assert "not measured: podman: there is no such program" in FOUND.text()
    made = " ".join(FOUND.markdown().split())
    assert "| ours | 4.0 ms | 3.0 ms | 3 | 0.50 times theirs (aim: at most 0.6: met) |" in made
    assert "Not measured: podman: there is no such program." in made
    piped = dataclasses.replace(FOUND, tables=[dataclasses.replace(TABLE, samples={"curl | tar": [1.0]})])
    assert r"| curl \| tar | 1000.0 ms |" in piped.markdown()
    assert f"kernel {os.uname().release}" in made


def test_what_is_written_is_read_again(tmp_path):
    figures.write(tmp_path / "found.json", [FOUND, FOUND])
    assert figures.read(tmp_path / "found.json") == [FOUND, FOUND]


@pytest.mark.parametrize(
    "change",
    [
        lambda found: "no JSON",
        lambda found: json.dumps(found),
        lambda found: json.dumps([{}]),
        lambda found: json.dumps([{**found, "more": 1}]),
        lambda found: json.dumps([{**found, "machine": {}}]),
        lambda found: json.dumps([{**found, "tables": [{**found["tables"][0], "unit": "miles"}]}]),
        lambda found: json.dumps([{**found, "tables": [{**found["tables"][0], "samples": {"ours": []}}]}]),
        lambda found: json.dumps([{**found, "tables": [{**found["tables"][0], "samples": {"ours": ["1"]}}]}]),
    ],
)
def test_what_is_no_measurement_is_refused(change, tmp_path):
    (tmp_path / "found.json").write_text(change(dataclasses.asdict(FOUND)))
    with pytest.raises(Malformed, match=r"found.json holds no measurement"):
        figures.read(tmp_path / "found.json")


def test_a_page_keeps_its_own_words_and_gets_the_tables_of_what_is_stored(tmp_path):
    written = tmp_path / "page.md"
    written.write_text("Before.\n<!-- bench start -->\nold\n<!-- end -->\n<!-- bench pull -->\n<!-- end -->\nAfter.\n")
    page.store(FOUND, tmp_path, written)
    text = written.read_text()
    assert text.startswith("Before.\n<!-- bench start -->\n\nStarts:")
    assert text.endswith("<!-- end -->\n<!-- bench pull -->\n\nNot measured yet.\n\n<!-- end -->\nAfter.\n")
    assert "old" not in text
    assert page.made(text, tmp_path) == text


def test_the_tables_of_the_document_are_those_of_what_is_stored():
    text = page.PAGE.read_text()
    assert text.count("<!-- bench ") == 3
    assert page.made(text) == text


# What is asked for


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["bench", "fast"], "fast"),
        (["bench", "start", "--samples", "0"], "at least 1"),
        (["bench", "start", "--samples", "many"], "many"),
        (["bench", "start", "--image", "x.tar"], "./walls bench pull"),
        (["bench", "start", "--json", "/nowhere/found.json"], "/nowhere"),
    ],
)
def test_wrong_usage_is_refused(words, says, capsys, monkeypatch):
    monkeypatch.setattr(command, "PARTS", {})
    assert cli.main(words) == 2
    assert says in capsys.readouterr().err


def test_what_cannot_be_measured_is_said_and_the_rest_is_kept(monkeypatch, capsys, tmp_path):
    def not_here(samples, archive):
        raise Unmeasurable("not on this machine")

    monkeypatch.setattr(command, "PARTS", {"pull": not_here, "start": lambda samples: FOUND})
    assert cli.main(["bench", "all", "--samples", "1", "--json", str(tmp_path / "found.json")]) == 3
    said = capsys.readouterr()
    assert "pull: not on this machine" in said.err
    assert "0.50 times theirs" in said.out
    assert [each.part for each in figures.read(tmp_path / "found.json")] == ["start"]


def test_with_docs_each_part_is_kept_and_an_image_is_for_pulling_alone(monkeypatch, tmp_path):
    kept, asked = [], []

    def part(name):
        return lambda *given, **options: asked.append((name, given, options)) or dataclasses.replace(FOUND, part=name)

    monkeypatch.setattr(command, "PARTS", {name: part(name) for name in ("start", "pull")})
    monkeypatch.setattr(page, "store", kept.append)
    assert cli.main(["bench", "all", "--docs", "--image", "x.tar"]) == 0
    assert [each.part for each in kept] == ["start", "pull"]
    assert asked == [("start", (None,), {}), ("pull", (None,), {"archive": Path("x.tar")})]


# Measuring


def test_start_measures_every_runtime_or_says_why_not(nothing_left):
    found = starting.measure(1)
    rows = [name for table in found.tables for name in table.samples]
    for name in ("crun", "runc", "podman"):
        assert any(name in row for row in rows) or any(name in absent for absent in found.absent)
    assert rows.count("Thin Walls") == (1 if os.geteuid() else 5)
    assert all(len(samples) == 1 for table in found.tables for samples in table.samples.values())


def test_who_is_not_root_is_told_what_is_left_out(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    absent = {}
    assert starting.as_root(1, absent) == []
    assert "only root" in absent["crun, runc and podman beside stages 1 to 5"]
    with pytest.raises(Unmeasurable, match="only root"):
        pulling.measure(1)


def test_pull_measures_and_leaves_nothing(tmp_path, nothing_left):
    archive = tmp_path / "image.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(__file__, "usr/share/doc/bench")
    if os.geteuid():
        with pytest.raises(Unmeasurable, match="only root"):
            pulling.measure(1, 10**6, archive)
        return
    times, synced, memory = pulling.measure(1, 10**6, archive).tables
    assert pulling.OURS in times.samples
    assert times.samples.keys() == synced.samples.keys()
    assert all(ended <= synced.samples[name] for name, ended in times.samples.items())
    assert 5 * 10**6 < memory.samples[pulling.OURS][0] < 10**9
    for name, program in (("podman pull", "podman"), ("curl | tar xz", "curl")):
        assert (name in times.samples) == bool(shutil.which(program))


@pytest.mark.parametrize("archive", ["", "missing", "no-archive"])
def test_what_is_no_archive_cannot_be_pulled(archive, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    (tmp_path / "no-archive").write_text("It is none.\n")
    with pytest.raises(Unmeasurable, match="is no tar archive"):
        pulling.measure(1, 10**6, tmp_path / archive)


def test_programs_that_are_missing_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda *args, **options: None)
    (tmp_path / "image.tar.gz").write_bytes(b"")
    absent = {}
    with pulling.Registry() as registry:
        assert list(pulling._lanes(tmp_path, registry, absent)) == [pulling.OURS]
    assert absent["skopeo copy and umoci unpack"] == "there is no skopeo and no umoci"


def test_without_mmdebstrap_the_image_is_another_and_that_is_said(tmp_path, monkeypatch):
    library = tmp_path / "library"
    library.mkdir()
    (library / "module.py").write_text("pass\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(pulling.sysconfig, "get_path", lambda name: str(library))
    with pulling.Registry() as registry:
        said = pulling._image(tmp_path, None, registry)
    assert said.startswith("Python's own library (mmdebstrap could make no Debian image here: ")
    assert "2 entries" in said


def test_grade_measures_whole_commands_and_each_stage():
    (table,) = grading.measure(1, ["0.1", "1.1"]).tables
    whole = "./walls check --impl solutions 0.1 1.1"
    assert list(table.samples) == [whole, "of it stage 0, 1 tasks", "of it stage 1, 1 tasks"]


def test_a_grade_in_which_a_task_fails_is_no_measurement(monkeypatch):
    monkeypatch.setattr(grading, "_CHECK", f"import sys; sys.argv[3] = 'tests/wrong'\n{grading._CHECK}")
    with pytest.raises(Unmeasurable, match="nothing was graded: .*no stage"):
        grading.measure(1, ["0.1"])
    broken = "import json, sys; tasks = [{'id': '0.1', 'status': 'failed', 'duration_s': 1}]\n"
    broken += "open(sys.argv[5], 'w').write(json.dumps({'stages': [{'id': '00', 'tasks': tasks}]}))"
    monkeypatch.setattr(grading, "_CHECK", broken)
    with pytest.raises(Unmeasurable, match=r"0\.1 failed"):
        grading.measure(1, ["0.1"])


def test_limits_are_measured_where_there_are_any(nothing_left):
    with Keeper() as keeper:
        possible = keeper.cgroup and len(os.sched_getaffinity(0)) > 1
    if not possible:
        with pytest.raises(Unmeasurable, match="a cgroup and two processors"):
            neighbour.measure(1)
        return
    (table,) = neighbour.measure(1).tables
    assert {name: len(samples) for name, samples in table.samples.items()} == {"alone": 1, "beside them": 1}


def test_a_class_is_graded_by_one_job_and_by_two(monkeypatch):
    def graded(count, jobs):
        return Measured(count, jobs, 8.0 / jobs, 8.0 / jobs / count, [3.0] * 2, [9.0], 60, wrong[jobs])

    wrong: dict[int, list[str]] = {1: [], 2: []}
    monkeypatch.setattr(classes.batch, "measure", graded)
    text = classes.measure(4).text()
    for words in ("A class of 4 submissions", "0.50 times the class by one job", "met", "60 MiB", "9.0 s"):
        assert words in text
    wrong[2] = ["s-001 (honest): 0.1 is failed"]
    with pytest.raises(Unmeasurable, match="1 verdicts are not what was deserved: s-001"):
        classes.measure(4)
