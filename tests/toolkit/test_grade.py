"""A class is graded: whatever one submission does, it costs itself only, and nothing that is finished is lost."""

import argparse
import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import machine_state
import pytest

from thinwalls import course
from thinwalls.batch import command, display, engine, exports, measure, one, rules, store, submissions
from thinwalls.grading import driver
from thinwalls.grading.machine import Observation
from thinwalls.grading.result import Verdict, machine_facts
from thinwalls.host import Keeper

FIRST = course.stages()[0]
NAME = f"{FIRST.stem}.py"
REFERENCE = course.reference(FIRST)
RULES = "stages = [0]\n"


def with_code(code):
    """The reference, with something that each call of run() does first."""
    begins = REFERENCE.index("def run(")
    at = REFERENCE.index('"""', REFERENCE.index('"""', begins) + 3) + 3
    return f"{REFERENCE[:at]}\n    {code}{REFERENCE[at:]}"


HOSTILE = {
    "bomb": with_code("while True: os.fork()"),
    "loop": with_code("while True: pass"),
    "leaves": with_code("os._exit(0)"),
    "kills": with_code("os.kill(-1, 9)"),
    "floods": with_code("while True: os.write(1, b'x' * 65536)"),
    "eats": with_code("waste = [bytearray(2**20) for _ in range(2**20)]"),
    "odd": "def run(:\n",
}


def a_class(folder):
    """Ten of a class, of whom three are honest and the others are not; some as archives."""
    folder.mkdir()
    texts = {"anna": REFERENCE, "ben": course.stub(REFERENCE), "cem": REFERENCE.replace("128 +", "64 +"), **HOSTILE}
    for name, text in texts.items():
        (folder / name / "stages").mkdir(parents=True)
        (folder / name / "stages" / NAME).write_text(text)
    with zipfile.ZipFile(folder / "dora.zip", "w") as archive:
        archive.writestr(f"thin-walls/stages/{NAME}", REFERENCE)
    (folder / "corrupt.zip").write_bytes((folder / "dora.zip").read_bytes()[:-40])
    with zipfile.ZipFile(folder / "slip.zip", "w") as archive:
        archive.writestr("../../../../tmp/thinwalls-slipped", "x")
    with tarfile.open(folder / "links.tar.gz", "w:gz") as archive:
        entry = tarfile.TarInfo("stages")
        entry.type, entry.linkname = tarfile.SYMTYPE, "/etc"
        archive.addfile(entry)
        text = REFERENCE.encode()
        entry = tarfile.TarInfo(f"stages/{NAME}")
        entry.size = len(text)
        archive.addfile(entry, io.BytesIO(text))
    (folder / "empty.tar.gz").write_bytes(b"")
    (folder / "linked").symlink_to("anna")
    (folder / "notes.txt").write_text("of the instructor's")


UNUSABLE = {"corrupt", "slip", "links", "empty", "linked"}
EVERYBODY = {"anna", "ben", "cem", "dora", *HOSTILE, *UNUSABLE}


def grade(folder, out, *words):
    """``./walls grade`` in a process of its own, with stage 0 alone: what it said, and its exit status."""
    rules_file = folder.parent / "course.toml"
    if not rules_file.exists():
        rules_file.write_text(RULES)
    return subprocess.run(walls(folder, out, rules_file, *words), capture_output=True, text=True, timeout=300)


def walls(folder, out, rules_file, *words):
    arguments = [str(folder), "--out", str(out), "--course", str(rules_file), "--jobs", "2", "--unbounded", *words]
    return [sys.executable, "-m", "thinwalls.cli", "grade", *arguments]


def results(out):
    found = [json.loads(path.read_text()) for path in (out / "results").glob("*.json")]
    return {each["submission"]: each for each in found}


def statuses(result):
    return [task["status"] for stage in result["stages"] for task in stage["tasks"]]


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """The class, graded once for all tests of this file: (its folder, where the results are, what was said)."""
    top = tmp_path_factory.mktemp("class")
    a_class(top / "class")
    before = machine_state.snapshot()
    said = grade(top / "class", top / "out", "--export", "csv", "--export", "junit")
    assert machine_state.difference(before, machine_state.settled(before)) == []
    return top / "class", top / "out", said


def test_each_has_a_result_whatever_it_was(graded):
    _, out, said = graded
    assert set(results(out)) == EVERYBODY, said.stderr
    assert all(statuses(each) for each in results(out).values())
    assert said.returncode == 1  # some could not be graded at all
    assert "not looked at: notes.txt" in said.stdout


def test_honest_submissions_get_what_they_deserve_beside_hostile_ones(graded):
    found = results(graded[1])
    full = sum(task.points for task in FIRST.tasks)
    assert (found["anna"]["score"], found["dora"]["score"], found["ben"]["score"]) == (full, full, 0)
    assert 0 < found["cem"]["score"] < full


def test_hostile_submissions_get_no_points_for_what_they_break(graded):
    found = results(graded[1])
    for name in HOSTILE:
        assert found[name]["score"] < found["anna"]["score"], name
        assert "infra_error" not in statuses(found[name]), (name, found[name])
    assert "timeout" in statuses(found["loop"])
    assert set(statuses(found["odd"])) == {"error"}


def test_what_cannot_be_read_is_reported_as_what_it_was(graded):
    found = results(graded[1])
    for name, words in [
        ("corrupt", "broken"),
        ("slip", "leads out of the archive"),
        ("links", "goes through a link"),
        ("empty", "it is empty"),
        ("linked", "symbolic link"),
    ]:
        messages = {task["message"] for stage in found[name]["stages"] for task in stage["tasks"]}
        assert len(messages) == 1 and words in messages.pop(), name
        assert set(statuses(found[name])) == {"error"}
    assert not Path("/tmp/thinwalls-slipped").exists()


def test_report_and_exports_are_of_everybody(graded):
    _, out, said = graded
    assert (out / "index.html").exists() and "index.html" in said.stdout
    for name in EVERYBODY:
        assert name in (out / "class.csv").read_text()


def test_again_only_what_has_changed_is_graded_with_the_same_seed(graded):
    folder, out, _ = graded
    before = results(out)
    (folder / "ben" / "stages" / NAME).write_text(REFERENCE)
    said = grade(folder, out)
    assert f"1 graded now, {len(EVERYBODY) - 1} as they were" in said.stdout, said.stdout + said.stderr
    after = results(out)
    assert after["ben"]["score"] == after["anna"]["score"]
    assert after["ben"]["seed"] == before["ben"]["seed"]
    assert {name: each for name, each in after.items() if name != "ben"} == {
        name: each for name, each in before.items() if name != "ben"
    }


def test_a_result_that_somebody_has_edited_is_graded_again_and_that_is_said(graded):
    folder, out, _ = graded
    before = results(out)
    edited = out / "results" / "anna.json"
    edited.write_text(json.dumps({**json.loads(edited.read_text()), "score": 99, "stages": "all of them"}))
    said = grade(folder, out)
    assert "anna: its result is not as it was written" in said.stdout and "--adjust" in said.stdout, said.stderr
    assert f"1 graded now, {len(EVERYBODY) - 1} as they were" in said.stdout
    assert results(out)["anna"]["score"] == before["anna"]["score"]


def test_regrade_and_another_seed_force(graded, tmp_path):
    folder, _, _ = graded
    seeds, starts = set(), set()
    for words in ((), ("--regrade",), ("--seed", "5"), ("--seed", "5")):
        said = subprocess.run(walls(folder / "anna", tmp_path / "out", folder.parent / "course.toml", *words))
        assert said.returncode == 0
        found = results(tmp_path / "out")["anna"]
        seeds.add(found["seed"])
        starts.add((found["started"], found["duration_s"]))
    assert len(starts) == 3 and len(seeds) == 2 and 5 in seeds


@pytest.mark.slow
def test_killed_half_way_nothing_that_is_finished_is_lost_and_nothing_is_left(graded, tmp_path):
    folder, _, _ = graded
    out = tmp_path / "out"
    before = machine_state.snapshot()
    kept = {}
    for number, ending in enumerate([signal.SIGKILL, signal.SIGINT, signal.SIGKILL]):
        running = subprocess.Popen(
            walls(folder, out, folder.parent / "course.toml"), stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        for line in running.stdout:
            if " of " in line and len(results(out)) >= 5 + 2 * number:
                break
        kept = {**results(out)}
        running.send_signal(ending)
        running.wait(20)
        running.stdout.close()
        assert results(out).items() >= kept.items()
        assert machine_state.difference(before, machine_state.settled(before)) == []
    said = grade(folder, out)
    after = results(out)
    assert set(after) == EVERYBODY, said.stderr
    assert {name: after[name] for name in kept} == kept
    assert [path.name for path in (out / "results").iterdir() if not path.name.endswith(".json")] == []


def test_two_gradings_do_not_write_to_one_store(tmp_path):
    with store.Store(tmp_path), pytest.raises(store.InUse):
        store.Store(tmp_path)
    with store.Store(tmp_path):
        pass


def test_what_is_no_result_is_none(tmp_path):
    with store.Store(tmp_path) as kept:
        assert kept.read("anna") is None
        kept.write("anna", {"schema": "thinwalls/result/v1", "submission": "anna"})
        assert kept.read("anna")
        kept.path("ben").write_text(kept.path("anna").read_text())
        assert kept.read("ben") is None
        edited = kept.path("anna").read_text().replace("{", '{"score": 12,', 1)
        for text in (edited, "", "{", "[]", '{"schema": 1}', "[" * 100_000):
            kept.path("anna").write_text(text)
            assert kept.read("anna") is None
        kept.write("anna", {"schema": "thinwalls/result/v2", "submission": "anna"})  # by a later version
        assert kept.read("anna") is None


def test_a_key_changes_with_all_that_matters():
    machine = {"kernel": "6", "uid": 0}
    keys = {
        store.key("a", "b", machine, ["0.1"]),
        store.key("x", "b", machine, ["0.1"]),
        store.key("a", "x", machine, ["0.1"]),
        store.key("a", "b", {**machine, "uid": 1}, ["0.1"]),
        store.key("a", "b", machine, ["0.1", "0.2"]),
    }
    assert len(keys) == 5
    assert store.key("a", "b", {"uid": 0, "kernel": "6"}, ["0.1"]) in keys


def grading(tasks=None):
    chosen = tasks or driver.select(["0"])
    return one.Grading(submissions.Submission("anna", Path("anna")), submissions.Content({NAME: b""}), 1, chosen, {})


def test_what_is_not_the_learners_fault_is_tried_again_and_then_named():
    made = grading()
    first, *others = [task.id for _, task in made.tasks]
    assert made.begin() == [first, *others]
    made.hear({"verdict": vars(Verdict(first, "passed"))})
    made.hear({"verdict": vars(Verdict(others[0], "infra_error", message="no host"))})
    made.hear({"broke": "it died"})
    assert not made.finished
    assert made.begin() == others
    assert not made.finished
    for id in others[1:]:
        made.hear({"verdict": vars(Verdict(id, "failed"))})
    assert made.begin() == [others[0]]
    assert made.finished
    found = made.as_result().as_json()
    assert statuses(found) == ["passed", "infra_error", *["failed"] * len(others[1:])]
    assert "no host" in display.trouble(found)


class Silent:
    def started(self, submission): ...
    def heard(self, grading): ...
    def finished(self, grading, result): ...
    def tick(self): ...


def test_a_process_that_dies_is_started_again_and_the_others_go_on(tmp_path, monkeypatch):
    def attempt(content, seed, ids, observed, work, tell, at_once):
        if content.files[NAME] == b"dies":
            os.kill(os.getpid(), signal.SIGKILL)
        attempts = tmp_path / "attempts"
        before = attempts.exists()
        attempts.touch()
        for id in ids if before or content.files[NAME] == b"good" else ids[:2]:
            tell({"verdict": vars(Verdict(id, "passed"))})

    monkeypatch.setattr(one, "attempt", attempt)
    monkeypatch.setattr(engine, "warm_up", lambda tasks: None)
    monkeypatch.setattr(engine, "observe", lambda *_: {})
    gradings = [grading() for _ in range(3)]
    for each, text in zip(gradings, (b"dies", b"half", b"good"), strict=True):
        each.content = submissions.Content({NAME: text})
    kept = []
    engine.run(gradings, 1, tmp_path, Silent(), lambda each: kept.append(each) or each.as_result().as_json())
    assert [set(statuses(each.as_result().as_json())) for each in kept] == [{"infra_error"}, {"passed"}, {"passed"}]
    assert [each.attempts for each in kept] == [3, 2, 1]
    assert "3 attempts" in display.trouble(kept[0].as_result().as_json())


def test_a_process_that_does_not_end_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(one, "attempt", lambda *_: time.sleep(1000))
    monkeypatch.setattr(engine, "warm_up", lambda tasks: None)
    monkeypatch.setattr(engine, "_LONGEST", 0.3)
    made = grading()
    engine.run([made], 2, tmp_path, Silent(), lambda each: each.as_result().as_json())
    assert "longer than" in display.trouble(made.as_result().as_json())


def test_the_reference_is_observed_once_and_serves_for_many(tmp_path):
    tasks = driver.select(["0.1", "0.2"])
    with Keeper() as keeper:
        observed = driver.observe(tasks, 7, keeper)
        assert {id: type(each) for id, each in observed.items()} == {"0.1": Observation, "0.2": Observation}
        known = {id: list(each.seen) for id, each in observed.items()}
        for impl, passed in (("solutions", True), (str(tmp_path), False), ("solutions", True)):
            assert driver.grade(tasks, impl, 7, keeper=keeper, rehearsed=observed).passed() == passed
        assert {id: each.seen for id, each in observed.items()} == known


def test_an_answer_that_was_late_because_the_machine_got_slower_gets_a_second_try():
    tasks = driver.select(["0.1"])
    with Keeper() as keeper:
        observed = driver.observe(tasks, 7, keeper)
        observed["0.1"].allowed = 0.0
        assert driver.grade(tasks, "solutions", 7, keeper=keeper, rehearsed=observed).passed()


def options(tmp_path, *words):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args([*words])


def test_what_is_wrong_with_the_command_is_said_before_anything_is_graded(tmp_path):
    (tmp_path / "class" / "anna").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    (tmp_path / "bad.toml").write_text("[points]\n'9.9' = 1\n")
    folder, out = str(tmp_path / "class"), ("--out", str(tmp_path / "out"))
    for words, why in [
        ((folder, *out, "--jobs", "0"), "--jobs 0"),
        ((folder, *out, "--export", "excel"), "no export 'excel'"),
        ((folder, *out, "--export", "canvas"), "needs a --roster"),
        ((folder, "--out", str(tmp_path / "file")), "is no folder"),
        ((folder, "--out", f"{folder}/out"), "would be a submission itself"),
        ((f"{folder}/nobody", *out), "there is no"),
        ((folder, *out, "--course", str(tmp_path / "bad.toml")), "bad.toml, line 2"),
        ((folder, *out, "--roster", str(tmp_path / "none.csv")), "cannot be read"),
    ]:
        with pytest.raises(command.Refused, match=why) as refused:
            command.understood(options(tmp_path, *words))
        assert refused.value.usage
    assert not (tmp_path / "out").exists()


def test_where_nothing_bounds_memory_nothing_is_graded_unless_asked_for(tmp_path, monkeypatch):
    (tmp_path / "class" / "anna").mkdir(parents=True)
    monkeypatch.setattr(command, "machine_facts", lambda cgroup: machine_facts(None))
    words = (str(tmp_path / "class"), "--out", str(tmp_path / "out"))
    with pytest.raises(command.Refused, match="--unbounded") as refused:
        command.main(options(tmp_path, *words))
    assert not refused.value.usage
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert command.main(options(tmp_path, *words, "--unbounded")) == 1
    assert "failed: anna" in said.getvalue()


def read_rules(tmp_path, text):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return rules.read(path)


def test_the_course_is_theirs_to_change(tmp_path):
    found = read_rules(
        tmp_path,
        "title = 'OS'\nstages = [0, 'chroot']\nwithout = ['1.4']\n[points]\n'0.1' = 5\n[due]\n"
        "0 = 2026-12-01T18:00:00+01:00\nchroot = '2026-12-08 18:00'\n[late]\npercent_per_day = 10\n",
    )
    ids = [task.id for _, task in found.tasks]
    assert "0.1" in ids and "1.3" in ids and "1.4" not in ids and "2.1" not in ids
    assert (found.title, found.points, set(found.due)) == ("OS", {"0.1": 5}, {"00", "01"})
    assert found.late.percent_per_day == 10
    made = grading()
    for _, task in made.tasks:
        made.hear({"verdict": vars(Verdict(task.id, "passed" if task.id == "0.1" else "failed"))})
    before = made.as_result().as_json()
    after = found.counted(before)
    assert after["score"] == 5 and after["max_score"] == before["max_score"] + 4 and before["score"] == 1


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("title = 'x'\nstages = [0\n", 3, ""),
        ("title = 'x'\nstage = [0]\n", 2, "no 'stage'"),
        ("title = 3\n", 1, "no line of text"),
        ("\nstages = [0, 99]\n", 2, "no stage '99'"),
        ("stages = 0\n", 1, "a list is needed"),
        ("stages = []\n", 1, "no task is left"),
        ("without = ['0.1',\n '7.7']\n", 1, "no task '7.7'"),
        ("title = 'x'\n[points]\n'0.1' = 1\n'0.2' = -1\n", 4, "number of points"),
        ("points = { '0.2' = true }\n", 1, "number of points"),
        ("[points]\n'0.1' = nan\n", 2, "number of points"),
        ("points = 3\n", 1, "a table is needed"),
        ("[due]\n0 = 2026-12-01\n", 2, "no time of day"),
        ("[due]\n9 = 2026-12-01 18:00:00\n", 2, "no stage '9'"),
        ("[late]\ngrace = '15m'\npercent = 3\n", 3, "no part of a late policy"),
        ("[late]\ngrace = '15m'\ncut_off = 'soon'\n", 3, "no length of time"),
    ],
)
def test_an_error_in_the_course_file_is_reported_with_its_line(tmp_path, text, line, words):
    with pytest.raises(rules.RulesError, match=rf"mine\.toml, line {line}: .*{words}"):
        read_rules(tmp_path, text)


def test_every_name_of_an_export_is_offered():
    assert exports.NAMES == ("gradescope", "canvas", "nbgrader", "junit", "csv")


def test_a_class_of_known_verdicts_is_made_and_a_wrong_verdict_in_it_is_found(tmp_path):
    (tmp_path / "class").mkdir()
    made = measure.a_class(tmp_path / "class", 50)
    found, ignored = submissions.find([str(tmp_path / "class")])
    assert [each.id for each in found] == list(made) and ignored == []
    assert {known.kind for known in made.values()} == {measure.HONEST, measure.HOSTILE, measure.BROKEN}
    assert sum(known.kind != measure.HONEST for known in made.values()) == 10
    for each in found:
        content = submissions.read(each.path)
        assert bool(content.problem) == (made[each.id].kind == measure.BROKEN), content.problem
        texts = {name: text.encode() for name, text in made[each.id].files.items()}
        assert content.files == texts
    with store.Store(tmp_path / "out") as kept:
        for name, known in made.items():
            every = one.Grading(
                submissions.Submission(name, Path(name)), submissions.Content(), 1, rules.Rules().tasks, {}
            )
            for _, task in every.tasks:
                every.hear({"verdict": vars(Verdict(task.id, "failed" if task.id in known.fails else "passed"))})
            kept.write(name, every.as_result().as_json())
    assert measure.misjudged(tmp_path / "out", made) == []
    wrong = {**made, "s000": made["s002"], "nobody": made["s002"]}
    found = measure.misjudged(tmp_path / "out", wrong)
    assert found[0].startswith("s000 (honest): 0.1 is passed") and found[-1] == "nobody: there is no result"
