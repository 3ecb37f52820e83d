"""What a class repository shows on GitHub: annotations, a summary, and nothing that a learner's code commands."""

import html
import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from a_class import HOSTILE, everybody, result

from thinwalls import course
from thinwalls.batch import actions

WORKFLOW = course.ROOT / "docs" / "class-workflow.yml"


def commands(output):
    """(kind, properties, message) of what GitHub's runner would obey in a log, as its documentation has it."""
    found, stopped = [], None
    for line in output.splitlines():
        # The runner looks past leading spaces; everything up to the "::" after the properties is the command.
        match = re.match(r"\s*::([\w-]+)(?: ([^:]*(?::(?!:)[^:]*)*))?::(.*)", line)
        if stopped is not None:
            stopped = None if line.strip() == f"::{stopped}::" else stopped
        elif match and match[1] == "stop-commands":
            stopped = match[3]
        elif match:
            properties = dict(part.split("=", 1) for part in match[2].split(",")) if match[2] else {}
            found.append((match[1], {k: undo(v) for k, v in properties.items()}, undo(match[3])))
    assert stopped is None
    return found


def undo(text):
    for code, sign in (("%0A", "\n"), ("%0D", "\r"), ("%3A", ":"), ("%2C", ","), ("%25", "%")):
        text = text.replace(code, sign)
    return text


def test_each_task_that_did_not_pass_has_one_annotation():
    given = result("x", ["0.5", "2.3", "6.1"], absent=["6.10"], trouble=["3.1"])
    found = commands("\n".join(actions.annotations(given, Path("stages"))))
    assert [(kind, where["title"].split()[0]) for kind, where, _ in found] == [
        ("error", "0.5"),
        ("error", "2.3"),
        ("notice", "3.1"),
        ("error", "6.1"),
        ("notice", "6.10"),
    ]
    _, where, message = found[0]
    assert where["title"] == "0.5 Failure comes back to the caller: failed"
    assert where["file"] == "stages/stage00_process.py"
    assert "expected  it is 7\nyours     it is 1\nmaybe     look at clone\nnext      ./walls hint 0.5" in message


def test_it_stands_at_the_function_that_the_task_asks_for():
    given = result("x", ["0.5", "3.1"])
    for text in actions.annotations(given, course.ROOT / "stages"):
        ((_, where, _),) = commands(text)
        line = Path(where["file"]).read_text().splitlines()[int(where["line"]) - 1]
        name = course.task(where["title"].split()[0])[1].builds[0].rpartition(".")[2]
        assert line.strip().startswith(f"def {name}("), where


def test_it_stands_at_the_line_that_does_not_load():
    given = result("x", ["0.1"])
    task = given["stages"][0]["tasks"][0]
    task |= {"status": "error", "message": "stage00_process.py is no Python: invalid syntax (line 12)"}
    ((_, where, message),) = commands("\n".join(actions.annotations(given, Path("nowhere"))))
    assert where["line"] == "12"
    assert "error     stage00_process.py is no Python" in message


@pytest.mark.parametrize("text", [HOSTILE, "a\n::error::b\r\n::add-mask::c%0A::d", "a,b:c%25", "::stop-commands::x"])
def test_a_message_is_one_command_and_no_other(text):
    made = actions.command("error", text, title=text, file="a.py")
    assert "\n" not in made and "\r" not in made
    assert commands(made) == [("error", {"title": text, "file": "a.py"}, text)]


def test_hostile_words_stay_words_in_annotations_and_in_the_summary():
    (given,) = [each.result for each in everybody() if each.id == "s05"]
    given["stages"][0]["tasks"][0]["title"] = "a | b <b>`c`</b> [d](http://e) \n## f"
    found = commands("\n".join(actions.annotations(given, Path("stages"))))
    assert {kind for kind, _, _ in found} == {"error", "notice"}
    assert len(found) == 3
    text = actions.summary(given)
    assert not re.search(r"[^\n\x20-\x7e\xa0-\uffff]|[\u202a-\u202e\u2066-\u2069]", text)
    outside = re.sub(r"<pre>[^<>]*</pre>", "", text)  # a <pre> begins a line and ends with the first </pre>
    assert not re.search(r"[<>`\[]", outside)
    assert outside.count("\n## ") == 0
    row = next(line for line in text.splitlines() if line.startswith("| 0.1"))
    assert row.count("|") == 5
    assert html.unescape(row).count("[d](http://e)") == 1
    assert len(re.findall("^### ", text, re.MULTILINE)) == text.count("<pre>") == 3


def test_the_summary_has_every_task():
    text = actions.summary(result("x", ["0.5"], absent=["6.10"]))
    ids = [task.id for stage in course.stages() for task in stage.tasks]
    assert re.findall(r"^\| (\d+\.\d+) ", text, re.MULTILINE) == ids
    assert "| 0 / 3 | ✗ failed |" in text and "| not gradable here | – not gradable |" in text


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"schema": "another"}', "\udcff"])
def test_what_is_no_result_is_refused(tmp_path, capsys, content):
    path = tmp_path / "result.json"
    if content is not None:
        path.write_bytes(content.encode(errors="surrogateescape"))
    assert actions.main([str(path), "stages"]) == 2
    assert capsys.readouterr().err.startswith(f"actions: {path}: ")
    assert actions.main([]) == 2


def test_the_workflow_gives_away_no_more_than_it_needs():
    workflow = yaml.safe_load(WORKFLOW.read_text())
    assert workflow["permissions"] == {"contents": "read"}
    assert "pull_request_target" not in WORKFLOW.read_text()
    assert "secrets." not in WORKFLOW.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("good", [True, False])
def test_the_step_of_the_workflow_works_and_obeys_no_learner(tmp_path, good):
    """The step itself, run as a runner would: its shell, its directories, and a learner who prints commands."""
    (step,) = [
        each for each in yaml.safe_load(WORKFLOW.read_text())["jobs"]["check"]["steps"] if each.get("name") == "Check"
    ]
    (tmp_path / ".course").symlink_to(course.ROOT)
    (tmp_path / "stages").mkdir()
    source = course.reference(course.stage("1"))
    if not good:
        source = source.replace('os.chdir("/")', 'print("\\n::error::owned\\n  ::add-mask::owned", flush=True)', 1)
        assert "owned" in source
    (tmp_path / "stages" / "stage01_chroot.py").write_text(source)
    places = {
        "RUNNER_TEMP": str(tmp_path),
        "GITHUB_WORKSPACE": str(tmp_path),
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"),
    }
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
        cwd=tmp_path,
        env={**os.environ, **places},
        capture_output=True,
        text=True,
    )
    found = commands(done.stdout)
    score = json.loads((tmp_path / "result.json").read_text())
    summary = (tmp_path / "summary.md").read_text()
    assert summary.startswith(f"## Thin Walls: {score['score']} of {score['max_score']} points\n")
    if good:
        assert (done.returncode, found) == (0, []), done.stdout + done.stderr
    else:
        assert done.returncode == 1
        assert "owned" in done.stdout, "the log shows what was printed"
        assert {kind for kind, _, _ in found} == {"error"}
        assert {where["file"] for _, where, _ in found} == {"stages/stage01_chroot.py"}
        assert all(where["title"].startswith("1.") for _, where, _ in found)
