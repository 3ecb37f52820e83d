"""The command line: what each command says and does, and with which exit status, in a checkout of the test's own."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from thinwalls import cli, course, doctor, lab, progress, report
from thinwalls.grading import driver, result

pytestmark = pytest.mark.slow

STAGES = course.stages()
FIRST = STAGES[0]
TASKS = [(stage, task) for stage in STAGES for task in stage.tasks]


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A copy of the checkout whose stages are the stubs, with a home and a cache; this process works in it."""
    copy = tmp_path / "course"
    for room in ("thinwalls", "stages", "solutions", "tests/stages"):
        shutil.copytree(course.ROOT / room, copy / room, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("course.toml", "pyproject.toml", "conftest.py"):
        shutil.copy(course.ROOT / name, copy / name)
    for stage in STAGES:
        (copy / "stages" / f"{stage.stem}.py").write_text(course.stub(course.reference(stage)))
    monkeypatch.setattr(course, "ROOT", copy)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(copy)
    return copy


@pytest.fixture
def walls(checkout, capsys):
    """Call the command line in this process: its exit status, what it printed, what it complained of."""

    def walls(*args):
        status = cli.main(args)
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return status, out, " ".join(err.split())  # where its lines are broken depends on the length of paths

    return walls


def process(checkout, *args):
    """The command line as a process of its own, in that checkout."""
    command = [sys.executable, "-B", "-m", "thinwalls.cli", *args]
    return subprocess.run(command, cwd=checkout, capture_output=True, text=True, timeout=60)


def solve(checkout, stage):
    shutil.copy(checkout / "solutions" / f"{stage.stem}.py", checkout / "stages" / f"{stage.stem}.py")


def pass_all(stages=STAGES):
    progress.record({task.id: "passed" for stage in stages for task in stage.tasks}, course.ROOT / "stages")


# Wrong usage, and what is not there yet


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["bogus"], "no command 'bogus'; there are start, check"),
        (["check", "9"], "no stage '9'; there are 0 (process), 1 (chroot)"),
        (["check", "0.9"], "no task '0.9'; there are 0.1, 0.2"),
        (["check", "0", "notes.txt"], "notes.txt"),
        (["check", "\x1b[31m"], r"'\x1b[31m'"),
        (["check", "--frobnicate"], "--frobnicate"),
        (["check", "--seed", "x"], "--seed"),
        (["check", "--impl", "nowhere"], "'nowhere' does not exist"),
        (["check", "--impl", "course.toml"], "'course.toml' is no folder"),
        (["check", "--impl", "tests"], "holds no stage file (stage00_process.py"),
        (["check", "--json", "nowhere/x.json"], "there is no folder"),
        (["check", "--json", "stages"], "no regular file"),
        (["check", "--json", "/dev/stdout"], "no regular file"),
        (["check", "--watch", "--json", "x.json"], "do not go together"),
        (["hint"], "The next open one is 0.1"),
        (["hint", "0"], "stage 0 has 0.1, 0.2"),
        (["hint", "0.9"], "no task '0.9'"),
        (["solution"], "STAGE"),
        (["solution", "7"], "no stage '7'"),
        (["reset", "0.1"], "no stage '0.1'"),
    ],
)
def test_wrong_usage_is_a_sentence_and_status_2(walls, args, says):
    status, out, err = walls(*args)
    assert (status, out) == (2, "")
    assert says in err
    assert "\x1b" not in err


def test_help_names_every_command(walls):
    status, out, _ = walls("--help")
    assert status == 0
    for command in cli._PARTS:
        assert f"./walls {command}" in out
        with pytest.raises(SystemExit) as leaving:
            cli.main([command, "--help"])
        assert leaving.value.code == 0


# Progress, hint, solution, reset


def test_without_arguments_the_walls_and_the_next_task(walls):
    status, out, _ = walls()
    assert status == 0
    assert "task   0.1" in out
    assert "stages/stage00_process.py" in out
    pass_all([FIRST])
    out = walls()[1]
    assert "9 of 9" in out
    assert "task   1.1" in out
    pass_all()
    assert "All walls of this course stand" in walls()[1]


def test_whoever_has_built_a_whole_stage_is_told_so_before_what_comes_next(walls):
    last = STAGES[-1]
    pass_all([last])
    said = report.next_step(progress.load(), last)
    assert said.startswith(f"All of stage {int(last.id)} stands")
    assert "containers_and_machines.ipynb" in said and "task   0.1" in said
    assert report.next_step(progress.load(), FIRST).startswith("Next, in stage 0")
    assert report.next_step(progress.load()).startswith("Next, in stage 0")


def test_hint_and_progress_load_nothing_slow(checkout):
    code = "import sys; from thinwalls import cli; cli.main([]); cli.main(['hint', '0.1']); print(sorted(sys.modules))"
    out = subprocess.run([sys.executable, "-B", "-c", code], cwd=checkout, capture_output=True, text=True).stdout
    assert "'thinwalls.cli'" in out
    assert not re.search(r"'(rich|pytest|_pytest|subprocess|thinwalls\.host)'", out)


def test_a_hint_goes_on_to_the_next_tier_and_stops_at_the_last(walls):
    task = course.task("0.4")[1]
    seen = [walls("hint", "0.4")[1] for _ in range(len(task.hints) + 1)]
    for tier, out in enumerate(seen[:-1]):
        assert f"That was hint {tier + 1} of {len(task.hints)}" in out
        assert " ".join(task.hints[tier].split()) in " ".join(out.split())
        assert max(map(len, out.splitlines())) <= report.width()
    assert "once more: there is none after it" in seen[-1]
    assert "It builds on 0.1 and 0.2 and 0.3" in seen[0]


def test_a_solution_is_shown_after_the_stage_has_passed_or_when_spoiled(walls):
    status, out, err = walls("solution", "0")
    assert (status, out) == (1, "")
    assert "5 of 5 tasks" in err
    assert "--spoil" in err
    reference = course.reference(FIRST)
    assert walls("solution", "0", "--spoil") == (0, reference, "")
    pass_all([FIRST])
    assert walls("solution", "stage00_process")[:2] == (0, reference)
    progress.record({"0.1": "failed"}, course.ROOT / "stages")  # broken since: it was passed all the same
    assert walls("solution", "0")[0] == 0


def test_reset_keeps_every_earlier_file(walls, checkout):
    path = checkout / "stages" / f"{FIRST.stem}.py"
    stub = path.read_text()
    assert "nothing to do" in walls("reset", "0")[1]
    pass_all([FIRST])
    for number in (1, 2, 3):
        path.write_text(f"mine, {number}\n")
        status, out, _ = walls("reset", "0")
        assert status == 0
        assert f"{FIRST.stem}.py.{number}" in out
        assert path.read_text() == stub
    assert [path.with_name(f"{path.name}.{n}").read_text() for n in (1, 2, 3)] == [f"mine, {n}\n" for n in (1, 2, 3)]
    known = progress.load()
    assert known.open(FIRST) == list(FIRST.tasks)
    assert known.ever_passed(FIRST)
    path.unlink()
    assert walls("reset", "0")[0] == 0
    assert path.read_text() == stub


@pytest.mark.parametrize(
    "damage", ["", "{", "[]", '{"schema": "thinwalls/progress/v1", "tasks": {"0.1": 7}}', "\0" * 99]
)
def test_a_damaged_progress_file_is_kept_and_progress_starts_afresh(walls, damage):
    pass_all([FIRST])
    for number in ("", ".1"):
        progress.file().write_text(damage)
        status, out, err = walls()
        assert status == 0
        assert "was damaged" in err
        assert "task   0.1" in out
        assert progress.file().with_name(f"progress.json.bad{number}").read_text() == damage
    assert walls()[2] == ""


def test_progress_that_cannot_be_written_is_told_and_stops_nothing(walls, checkout):
    (checkout / ".thinwalls").write_text("in the way")
    status, out, err = walls("hint", "0.1")
    assert status == 0
    assert "That was hint 1" in out
    assert "cannot be written" in err


def test_several_at_once_lose_no_entry(checkout):
    def hints(task):
        for _ in task.hints:
            progress.show_hint(task)

    threads = [threading.Thread(target=hints, args=[task]) for _, task in TASKS for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {name: entry.hints for name, entry in progress.load().tasks.items()} == {
        task.id: len(task.hints) for _, task in TASKS
    }
    assert sorted(path.name for path in progress.file().parent.iterdir()) == [".gitignore", "lock", "progress.json"]


def test_progress_remembers_the_best_the_last_and_the_source(checkout):
    task = FIRST.tasks[0]
    solve(checkout, FIRST)
    for status in ("failed", "timeout", "passed", "failed", "not_gradable", "infra_error"):
        entry = progress.record({task.id: status}, checkout / "stages").entry(task)
    assert (entry.best, entry.last) == ("passed", "failed")
    assert len(entry.source) == 64


@pytest.mark.parametrize(
    ("options", "broken", "stands"),
    [([], "", False), (["--all-mine"], "", True), ([], "line 3 of stage00_process.py", True)],
)
def test_only_a_failure_that_is_surely_the_tasks_own_takes_it_away(walls, monkeypatch, options, broken, stands):
    pass_all([FIRST])
    found_by(monkeypatch, ["error"] * len(FIRST.tasks), broken=broken)
    assert walls("check", "0", *options)[0] == 1
    assert [progress.load().stands(task) for task in FIRST.tasks] == [stands] * len(FIRST.tasks)


# check


def test_a_fresh_checkout_is_graded_at_its_first_stage(checkout):
    done = process(checkout, "check")
    assert (done.returncode, done.stderr) == (1, "")
    out = done.stdout
    assert "No stage is begun yet" in out
    assert out.count("is not built yet") == len(FIRST.tasks)
    assert "0 of 9 points" in out
    assert re.search(r"These challenges again: ./walls check --seed \d+$", out, re.MULTILINE)
    assert "task 1.1" not in out


def test_what_is_begun_is_graded_passed_tasks_a_line_each_and_remembered(checkout):
    solve(checkout, FIRST)
    done = process(checkout, "check", "--json", "result.json")
    assert (done.returncode, done.stderr) == (0, "")
    out = done.stdout
    assert "What you have begun: stage 0. The others: ./walls check 1" in out
    for task in FIRST.tasks:
        assert re.search(rf"^{task.id}  {task.title} +{task.points} / {task.points}$", out, re.MULTILINE)
    assert "9 of 9 points" in out
    assert "--seed" not in out
    assert "task   1.1" in out, "what comes next"
    assert progress.load().open(FIRST) == []
    body = json.loads((checkout / "result.json").read_text())
    assert (body["schema"], body["score"], body["max_score"]) == ("thinwalls/result/v1", 9, 9)
    assert {task["status"] for stage in body["stages"] for task in stage["tasks"]} == {"passed"}


HOSTILE = """
import os
from thinwalls import linux
from thinwalls.wall import Program
def run(program):
    print("\\x1b]0;title\\x07[red]not red[/red]", flush=True)
    os.write(1, b"\\xff\\xfe\\n")
    return "\\x1b[2J[bold]" + program.argv[0]
def become(program): pass
def exit_status(status): pass
"""


def test_a_failure_teaches_and_nothing_a_terminal_obeys_gets_through(checkout):
    folder = checkout / "other"
    folder.mkdir()
    (folder / f"{FIRST.stem}.py").write_text(HOSTILE)
    done = process(checkout, "check", "process", "--impl", "other", "--seed", "7")
    assert (done.returncode, done.stderr) == (1, "")
    out = done.stdout
    block = out.split("0.2 ")[0]
    for name in ("did", "expected", "yours", "printed", "next"):
        assert re.search(rf"^{name:<10}\S", block, re.MULTILINE), f"no line for {name}"
    assert "./walls hint 0.1" in block
    assert r"\x1b[2J[bold]" in block
    assert r"\x1b]0;title\x07[red]not red[/red]" in block
    assert "\x1b" not in out
    assert "These challenges again: ./walls check process --impl other --seed 7" in out
    assert progress.load().tasks == {}, "another's files are not this learner's progress"


@pytest.mark.parametrize("word", ["0", "00", "process", "stage00_process", "stages/stage00_process.py", "0.1"])
def test_a_stage_has_many_names(word, checkout):
    tasks, sentence = cli._asked_for([word], "stages", checkout / "stages")
    assert {stage.id for stage, _ in tasks} == {"00"}
    assert sentence == ""


def found_by(monkeypatch, statuses, bounded=True, broken=""):
    """Let the grading find these statuses without doing anything."""

    def grade(tasks, impl, seed, all_mine, keeper, tell, at_once):
        verdicts = {
            task.id: result.Verdict(task.id, status, message="why", broken=broken)
            for (_, task), status in zip(tasks, statuses, strict=True)
        }
        for verdict in verdicts.values():
            tell(verdict)
        return result.Result(impl, seed, tasks, {"bounded": bounded}, verdicts)

    monkeypatch.setattr(driver, "grade", grade)


@pytest.mark.parametrize(
    ("statuses", "status", "says"),
    [
        (["passed"] * 5, 0, "9 of 9 points"),
        (["passed"] * 4 + ["not_gradable"], 3, "A task cannot be graded on this machine (0.5)"),
        (["failed"] + ["passed"] * 3 + ["not_gradable"], 1, "5 of 6 points"),
        (["infra_error"] + ["passed"] * 4, 1, "not yours"),
        (["timeout"] + ["error"] * 4, 1, "0 of 9 points"),
    ],
)
def test_the_exit_status_tells_failure_from_what_this_machine_cannot_do(walls, monkeypatch, statuses, status, says):
    found_by(monkeypatch, statuses)
    answer, out, _ = walls("check", "0")
    assert answer == status
    assert says in out


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("a wall", "stage01_chroot.py is no Python: invalid syntax (line {line})"),
        (
            "no_such_name",
            "stage01_chroot.py cannot be loaded: NameError: name 'no_such_name' is not defined (line {line})",
        ),
    ],
)
def test_a_file_that_does_not_load_is_to_be_mended_first(checkout, line, says):
    path = checkout / "stages" / f"{STAGES[1].stem}.py"
    solve(checkout, STAGES[1])
    path.write_text(f"{path.read_text()}{line}\n")
    number = len(path.read_text().splitlines())
    out = " ".join(process(checkout, "check", "1.1").stdout.split())
    assert says.format(line=number) in out
    assert f"next mend line {number} of stage01_chroot.py" in out


def test_on_stages_of_ones_own_the_hint_is_for_the_task_that_is_missing(checkout):
    solve(checkout, STAGES[1])
    out = process(checkout, "check", "1.1", "--all-mine").stdout
    missing = re.search(r"task (0\.\d) is not built yet", out)
    assert missing, out
    assert f"./walls hint {missing[1]}" in out and "./walls hint 1.1" not in out


def test_without_a_memory_cgroup_a_sentence_says_so(walls, monkeypatch):
    found_by(monkeypatch, ["passed"] * 5, bounded=False)
    assert "Memory is not bounded here" in walls("check", "0")[1]
    found_by(monkeypatch, ["passed"] * 5)
    assert "Memory is not bounded here" not in walls("check", "0")[1]


def test_without_hosts_nothing_is_graded_and_the_doctor_is_quoted(walls, monkeypatch):
    from thinwalls import host

    def refuse(*_):
        raise host.HostError("no throwaway host can be made here")

    monkeypatch.setattr(host, "Host", refuse)
    monkeypatch.setattr(doctor, "why_no_host", lambda said: "The moon is full. To mend it: wait.")
    status, out, err = walls("check", "0")
    assert status == 3
    assert "The moon is full. To mend it: wait." in err
    assert "0.1" not in out


def test_ctrl_c_is_a_sentence_and_leaves_nothing(checkout):
    command = [sys.executable, "-B", "-m", "thinwalls.cli", "check", "--impl", "solutions"]
    with subprocess.Popen(command, cwd=checkout, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout.readline().startswith("Stage 0")
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=10)
    assert running.returncode == 130
    assert err == "\nwalls: stopped, and nothing of it is left running\n"


def test_a_reader_that_goes_away_is_no_traceback(checkout):
    line = f"{sys.executable} -B -m thinwalls.cli check --impl solutions | head -n 1"
    done = subprocess.run(line, shell=True, cwd=checkout, capture_output=True, text=True)
    assert done.stdout.startswith("Stage 0")
    assert "Traceback" not in done.stderr


def test_a_terminal_that_cannot_show_a_brick_gets_another(checkout):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-B", "-m", "thinwalls.cli"], cwd=checkout, env=environment, capture_output=True
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b".. .. ...." in done.stdout


# start


@pytest.mark.parametrize("uid", [0, 1000])
def test_start_opens_the_lab_at_the_next_notebook_and_keeps_its_token(walls, checkout, monkeypatch, uid):
    called = []
    monkeypatch.setattr(os, "execve", lambda program, command, environment: called.append((command, environment)))
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(
        doctor, "examine", lambda: [doctor.Capability("kernel", "missing", "old", doctor.EVERY, "mend it")]
    )
    (checkout / "notebooks").mkdir()
    (checkout / "notebooks" / "stage01_chroot.ipynb").write_text("{}")
    pass_all([FIRST])
    _, out, _ = walls("start", "--no-browser")
    assert "task   1.1" in out
    assert "kernel: old mend it" in out
    ((command, environment),) = called
    assert command[1:4] == ["-P", "-m", "jupyterlab"]
    assert environment["JUPYTER_CONFIG_PATH"].split(os.pathsep)[0] == str(Path(lab.__file__).parent)
    assert f"--ServerApp.root_dir={checkout}" in command
    assert "--LabApp.default_url=/lab/tree/notebooks/stage01_chroot.ipynb" in command
    assert "--no-browser" in command
    assert ("--allow-root" in command) == (uid == 0)
    assert "token" not in " ".join(command).lower()
