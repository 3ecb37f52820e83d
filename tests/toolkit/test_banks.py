"""The graders, judged by answers that are known: wrong ones are caught by name, right ones are never refused,
cheats earn nothing they have not worked for and harm nobody.

``tests/wrong/STEM.toml``: mistakes, as patches on the reference (the top of stage00_process.toml says how they read).
``tests/right/STEM/*.py``: other honest ways; full marks. ``tests/cheats/STEM/*.py``: their first lines are comments,
``# fails: 0.1 0.2`` (must not be earned), ``# may pass: 0.3`` (an honest part), ``# says: word`` (in a verdict of a
task that fails), ``# never prints: word``, ``# never stays: word`` (the name of a process). What cannot lie in a
repository, such as a FIFO, is made on the spot.

One entry: ``pytest tests/toolkit/test_banks.py -k NAME``; ``--seed N`` repeats a run.
"""

import contextlib
import dataclasses
import functools
import itertools
import os
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import messages
import pytest
from judging import BANKS, NO_POINTS, Entry, Judge, Verdicts, entries

from thinwalls import course
from thinwalls.grading import plugin, result

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def judge(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judge]:
    fixed = dict.fromkeys(MESSAGES, messages.SEED) if messages.compared(request.config) else {}
    with contextlib.closing(Judge.of(request, tmp_path_factory.mktemp("banks"), fixed)) as judge:
        yield judge


@pytest.fixture
def verdicts(request: pytest.FixtureRequest, judge: Judge) -> Verdicts:
    """How the entry of this test was graded; printed, with the seed, when the test fails."""
    entry = request.node.callspec.params["entry"]
    if not judge.cgroup and any(task.cgroup for task in entry.stage.tasks):
        pytest.skip("no cgroup can be made here: the tasks of this stage are not gradable")
    judged = judge.judged(request.node.name)
    request.node.user_properties.append(("seconds", judged.seconds))
    found = judged.verdicts
    if judge.ids == 1:  # a task that needs a second id is not gradable: nothing is claimed of it
        beyond = {task.id for task in entry.stage.tasks if task.ids}
        assert all(found[each].status in (result.NOT_GRADABLE, result.FAILED) for each in beyond)
        found = {each: verdict for each, verdict in found.items() if each not in beyond}
        for key in entry.known.keys() & {"fails", "may pass"}:
            entry.known[key] = [each for each in entry.known[key] if each not in beyond]
        if not entry.known.get("fails", True):
            pytest.skip("a host has one user id here: its task is not gradable")
    print(f"--seed {judge.seed_of(entry)}", *map(plugin.as_text, found.values()), sep="\n")
    return found


def _says(word: str, verdict: result.Verdict) -> bool:
    return word in "\n".join((verdict.message, verdict.expected, verdict.yours, verdict.maybe))


# Wrong answers


def _patched(stage: course.Stage, known: dict[str, Any]) -> str:
    text = course.reference(stage)
    for piece, instead in zip(known["replace"], known["with"], strict=True):
        assert text.count(piece) == 1, f"must occur once in {stage.stem}.py: {piece}"
        text = text.replace(piece, instead)
    return text


def _wrong() -> list[Entry]:
    found = []
    for stage in course.stages():
        path = BANKS / "wrong" / f"{stage.stem}.toml"
        for known in tomllib.loads(path.read_text())["wrong"] if path.exists() else ():
            for key in ("fails", "says", "replace", "with"):
                known[key] = known[key] if isinstance(known[key], list) else [known[key]]
            make = lambda path, stage=stage, known=known: path.write_text(_patched(stage, known))  # noqa: E731
            found.append(Entry(stage, known["name"], make, known))
    return found


WRONG = _wrong()


def _commonest() -> dict[str, Path]:
    """Where the text of an entry's verdict is kept, by the entry's id: the first three of each task have one."""
    found: dict[str, list[Entry]] = {}
    for entry in WRONG:
        found.setdefault(entry.known["fails"][0], []).append(entry)
    first = [entry for of_a_task in found.values() for entry in of_a_task[:3]]
    return {entry.id: BANKS / "messages" / entry.stage.stem / f"{entry.name}.txt" for entry in first}


MESSAGES = _commonest()


@entries(WRONG)
def test_a_wrong_answer_is_caught_by_name(entry: Entry, verdicts: Verdicts, pytestconfig: pytest.Config) -> None:
    fails = [task for task, verdict in verdicts.items() if verdict.status in NO_POINTS]
    passes = [task for task, verdict in verdicts.items() if verdict.status == result.PASSED]
    expected = {*entry.known["fails"], *(task for task in entry.known.get("may_fail", ()) if task in fails)}
    assert fails == [task for task in verdicts if task in expected]
    assert len(fails) + len(passes) == len(verdicts)
    told = verdicts[entry.known["fails"][0]]
    assert any(_says(word, told) for word in entry.known["says"])
    if entry.id in MESSAGES and messages.compared(pytestconfig):
        text = plugin.as_text(dataclasses.replace(told, printed=""))  # what is printed is not ours
        other = messages.check(MESSAGES[entry.id], text, pytestconfig.getoption("--messages"))
        assert not other, other


def test_every_task_has_a_wrong_answer_and_every_entry_a_task() -> None:
    for entry in WRONG:
        assert entry.name and entry.known["what"].endswith(".") and entry.known["says"]
        named = {*entry.known["fails"], *entry.known.get("may_fail", ())}
        assert named <= {task.id for task in entry.stage.tasks}, entry.id
        compile(_patched(entry.stage, entry.known), entry.id, "exec")
    names = [entry.id for entry in WRONG]
    assert len(names) == len(set(names))
    first = {entry.known["fails"][0] for entry in WRONG}
    assert first >= {task.id for stage in course.stages() for task in stage.tasks}


def test_messages_are_kept_for_these_and_no_others() -> None:
    assert sorted((BANKS / "messages").glob("*/*")) == sorted(MESSAGES.values())
    assert messages.WHERE.exists()


# Right answers


def _files(bank: str, known: Callable[[str], dict[str, Any]]) -> list[Entry]:
    return [
        Entry(
            stage, source.stem, functools.partial(Path.write_bytes, data=source.read_bytes()), known(source.read_text())
        )
        for stage in course.stages()
        for source in sorted((BANKS / bank / stage.stem).glob("*.py"))
    ]


@entries(_files("right", lambda text: {}))
def test_a_right_answer_is_never_refused(entry: Entry, verdicts: Verdicts) -> None:
    assert {verdict.status for verdict in verdicts.values()} == {result.PASSED}


@pytest.mark.parametrize("stage", course.stages(), ids=lambda stage: stage.id)
def test_the_banks_are_full(stage: course.Stage) -> None:
    least = {"wrong": 10, "right": 3, "cheats": 3}
    there = {bank: len(list((BANKS / bank / stage.stem).glob("*.py"))) for bank in least}
    there["wrong"] = sum(entry.stage == stage for entry in WRONG)
    assert all(there[bank] >= number for bank, number in least.items()), there


# The same program as an editor or a habit may write it.
DRESSES: dict[str, Callable[[str], bytes]] = {
    "byte-order-mark": lambda text: b"\xef\xbb\xbf" + text.encode(),
    "crlf": lambda text: text.replace("\n", "\r\n").encode(),
    "coding-cookie": lambda text: b"# -*- coding: utf-8 -*-\n" + text.encode(),
    "odd-escape": lambda text: text.encode() + b'\n_PATTERN = "\\d+"\n',
    "much-prose": lambda text: text.encode() + ("\n# " + "\u0444" * 1000).encode() * 29 + b"\n",
    "future": lambda text: text.replace('"""\n\n', '"""\n\nfrom __future__ import annotations\n', 1).encode(),
}


def _dressed() -> list[Entry]:
    stage = course.stage("1")  # it has an attack, whose source goes another way into the host
    text = course.reference(stage)
    dressed = {name: dress(text) for name, dress in DRESSES.items()}
    return [Entry(stage, name, functools.partial(Path.write_bytes, data=data), {}) for name, data in dressed.items()]


@entries(_dressed())
def test_a_right_answer_may_wear_any_dress(entry: Entry, verdicts: Verdicts) -> None:
    assert {verdict.status for verdict in verdicts.values()} == {result.PASSED}


# Cheats


def _header(text: str) -> dict[str, Any]:
    lines = [line[1:].strip() for line in text.splitlines()[:5] if line.startswith("#")]
    known: dict[str, Any] = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    return {**known, "fails": known["fails"].split(), "may pass": known.get("may pass", "").split()}


@entries(_files("cheats", _header))
def test_a_cheat_earns_nothing(entry: Entry, verdicts: Verdicts) -> None:
    fails, may_pass = entry.known["fails"], entry.known["may pass"]
    assert sorted(fails + may_pass) == sorted(verdicts)
    assert {verdicts[task].status for task in fails} <= NO_POINTS
    assert {verdicts[task].status for task in may_pass} <= {*NO_POINTS, result.PASSED}
    assert any(_says(entry.known["says"], verdicts[task]) for task in fails)
    never = entry.known.get("never prints")
    assert not never or all(never not in verdict.printed for verdict in verdicts.values())
    daemon = entry.known.get("never stays")
    assert not daemon or daemon not in _names_of_processes()


def _names_of_processes() -> set[str]:
    found = set()
    for path in Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):
            found.add(path.read_text().strip())
    return found


# The stage before


def _before() -> list[Entry]:
    """As a stage's file: that of the stage before, which stands already; and its own, in which every task does nothing."""
    found = []
    for before, stage in itertools.pairwise((None, *course.stages())):
        assert stage
        texts = {
            "nothing-done": re.sub(r"raise NotImplementedError\(.*\)", "return", course.stub(course.reference(stage)))
        }
        if before:
            texts["the-stage-before"] = course.reference(before)
        for name, text in texts.items():
            found.append(Entry(stage, name, functools.partial(Path.write_text, data=text)))
    return found


@entries(_before())
def test_what_stands_before_a_stage_passes_none_of_its_tasks(entry: Entry, verdicts: Verdicts) -> None:
    assert {verdict.status for verdict in verdicts.values()} <= NO_POINTS


# What somebody may lay beside the stage's file, in the hope that whoever grades has it run.
_RUNS = "import pathlib; pathlib.Path(r'{marker}').touch()\n"
_PASSES = """
import pytest
@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    report.outcome = "passed"
    return report
"""
BESIDE = {
    "conftest.py": _RUNS + _PASSES,
    "sitecustomize.py": _RUNS,
    "usercustomize.py": _RUNS,
    "pytest.py": _RUNS,
    "thinwalls/__init__.py": _RUNS,
    "os.py": _RUNS,
    "__init__.py": _RUNS,
    "beside.pth": "import sys; exec({marker!r} and \"open(r'{marker}', 'w')\")\n",
    "beside-1.dist-info/entry_points.txt": "[pytest11]\nbeside = conftest\n",
    "beside-1.dist-info/METADATA": "Metadata-Version: 2.1\nName: beside\nVersion: 1\n",
    "pytest.ini": "[pytest]\naddopts = -p conftest\npython_files = *.py\n",
    "pyproject.toml": "[tool.pytest.ini_options]\naddopts = '-p conftest'\n",
    "tox.ini": "[pytest]\naddopts = -p conftest\n",
    "test_stage00_process.py": _RUNS,
    "result.json": '{{"schema": "thinwalls/result/v1", "score": 99}}',
}


def _with_company(path: Path) -> None:
    path.write_text(course.stub(course.reference(course.stage("0"))))
    for name, text in BESIDE.items():
        (path.parent / name).parent.mkdir(exist_ok=True)
        (path.parent / name).write_text(text.format(marker=path.parent / "it-ran"))


@entries([Entry(course.stage("0"), "files-beside-it", _with_company)])
def test_what_lies_beside_a_stage_file_is_not_run(entry: Entry, verdicts: Verdicts, judge: Judge) -> None:
    assert {verdict.status for verdict in verdicts.values()} == {result.FAILED}
    assert not list(judge.folder.glob("*/it-ran"))
    assert list(judge.folder.glob("*/conftest.py"))


# Stage files that are none: what is made at the path, and a word of the verdict.
NO_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (lambda path: None, "there is no file"),
    "a-directory": (lambda path: path.mkdir(), "regular file"),
    "a-fifo": (lambda path: os.mkfifo(path), "regular file"),
    "a-link-to-the-reference": (lambda path: path.symlink_to(BANKS.parent / "solutions" / path.name), "link"),
    "a-link-to-nowhere": (lambda path: path.symlink_to("nowhere"), "link"),
    "a-link-to-itself": (lambda path: path.symlink_to(path), "link"),
    "ten-megabytes": (lambda path: path.write_bytes(b"#" * 10_000_000), "KiB"),
    "not-utf-8": (lambda path: path.write_bytes(b"# caf\xe9\n"), "UTF-8"),
    "a-null-byte": (lambda path: path.write_bytes(b"x = 1\0\n"), "control character"),
    "a-syntax-error": (lambda path: path.write_text("def run(program:\n"), "line 1"),
    "deeper-than-the-parser": (lambda path: path.write_text("x = " + "-" * 30_000 + "1\n"), "no Python"),
    "deeper-than-the-tree": (lambda path: path.write_text("x = 1" + "+1" * 30_000 + "\n"), "no Python"),
    "empty": (lambda path: path.write_text(""), "there is none of that name"),
    "unreadable": (lambda path: (path.write_text(""), path.chmod(0)), "cannot be read" if os.geteuid() else "none"),
    # In UTF-7 this comment ends where "+AAo-" stands, and the next line of the program is an import.
    "utf-7": (lambda path: path.write_bytes(b"# coding: utf-7\n# +AAo-import subprocess+AAo-\n"), "encoding"),
}  # fmt: skip


@entries([Entry(course.stage("0"), name, make, {"says": word}) for name, (make, word) in NO_FILES.items()])
def test_what_is_no_stage_file_is_told_in_a_sentence(entry: Entry, verdicts: Verdicts) -> None:
    assert {verdict.status for verdict in verdicts.values()} <= NO_POINTS
    assert _says(entry.known["says"], verdicts["0.1"])
