"""Every export is read by a program that is not ours, or held against the format as it is published.

The slow ones need what requirements-dev.txt brings.
"""

import csv
import datetime
import io
import json
import os
import re
import subprocess
import sys
import unittest
from pathlib import Path

import jsonschema
import pytest
from a_class import SCRIPT, everybody, example

from thinwalls import course
from thinwalls.batch import Graded, Person, exports, marks, roster

CLASS = everybody()
BY_ID = {each.id: each for each in CLASS}
FORMULA = tuple("=+-@\t\r＝＋－＠")


def table(path):
    return list(csv.reader(io.StringIO(path.read_bytes().decode(), newline=""), strict=True))


@pytest.mark.parametrize("name", exports.NAMES)
def test_no_export_has_what_a_terminal_or_a_reader_would_obey(tmp_path, name):
    written = exports.write(name, tmp_path, CLASS)
    files = [written] if written.is_file() else sorted(written.rglob("*.json"))
    assert files
    for path in files:
        text = path.read_bytes().decode()
        assert not re.search(r"[^\n\r\x20-\x7e\xa0-\uffff]|[\u202a-\u202e\u2066-\u2069]", text)
        assert SCRIPT not in text or name in ("gradescope", "nbgrader", "canvas", "csv")
    left = [path for path in tmp_path.rglob("*") if path.name.startswith(".")]
    assert left == []


def test_what_is_outside_the_score_is_in_no_export(tmp_path):
    all_points = sum(task.points for stage in course.stages() for task in stage.tasks)
    lost = course.task("6.10")[1].points
    assert BY_ID["s02"].max_score == all_points - lost
    assert BY_ID["s08"].max_score == all_points


# Gradescope: the format as its specification has it (autograder_samples, docs/specs.md); "status", "name_format" and
# "output_format" are newer than the stored text of it.
VISIBILITY = {"enum": ["hidden", "after_due_date", "after_published", "visible"]}
FORMAT = {"enum": ["text", "html", "simple_format", "md", "ansi"]}
GRADESCOPE = {
    "type": "object",
    "additionalProperties": False,
    "anyOf": [{"required": ["score"]}, {"required": ["tests"]}],
    "properties": {
        "score": {"type": "number"},
        "execution_time": {"type": "number"},
        "output": {"type": "string"},
        "output_format": FORMAT,
        "test_output_format": FORMAT,
        "test_name_format": FORMAT,
        "visibility": VISIBILITY,
        "stdout_visibility": VISIBILITY,
        "extra_data": {"type": "object"},
        "leaderboard": {"type": "array"},
        "tests": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "properties": {
                    "score": {"type": "number"},
                    "max_score": {"type": "number"},
                    "status": {"enum": ["passed", "failed"]},
                    "name": {"type": "string"},
                    "name_format": FORMAT,
                    "number": {"type": "string"},
                    "output": {"type": "string"},
                    "output_format": FORMAT,
                    "tags": {"type": "array", "items": {"type": "string"}},
                    "visibility": VISIBILITY,
                    "extra_data": {"type": "object"},
                },
            },
        },
    },
}


def test_gradescope_has_the_published_shape(tmp_path):
    folder = exports.write("gradescope", tmp_path, CLASS)
    files = {path: json.loads(path.read_text()) for path in folder.glob("*/results.json")}
    settled = [each for each in CLASS if not marks.unsettled(each)]
    assert len(files) == len(settled) == 9
    for content in files.values():
        jsonschema.validate(content, GRADESCOPE)
        each = BY_ID[content["extra_data"]["submission"]]
        assert content["score"] == each.score
        if not each.late and not any("score" in text for text in each.adjustments):
            assert sum(test.get("score", 0) for test in content["tests"]) == each.score
        if "score" not in each.result.get("adjusted", "") and each.result.get("stages"):
            assert sum(test.get("max_score", 0) for test in content["tests"]) == each.max_score
        assert "published solution" not in json.dumps(content), "a flag is for the instructor"


@pytest.mark.slow
def test_gradescope_is_what_gradescopes_own_library_writes(tmp_path):
    from gradescope_utils.autograder_utils.decorators import number, weight
    from gradescope_utils.autograder_utils.json_test_runner import JSONTestRunner

    class Theirs(unittest.TestCase):
        @weight(2)
        @number("1.1")
        def test_passes(self):
            """A task"""

        @weight(2)
        @number("1.2")
        def test_fails(self):
            """Another"""
            self.fail("it is 6")

    stream = io.StringIO()
    JSONTestRunner(stream=stream).run(unittest.defaultTestLoader.loadTestsFromTestCase(Theirs))
    theirs = json.loads(stream.getvalue())
    folder = exports.write("gradescope", tmp_path, [BY_ID["s02"]])
    ours = json.loads((folder / "s02" / "results.json").read_text())
    by_status = {test["status"]: test for test in theirs["tests"]}
    for test in ours["tests"]:
        if "status" in test:
            assert set(by_status[test["status"]]) <= set(test)
            for key, value in by_status[test["status"]].items():
                assert isinstance(test[key], type(value) if key not in ("score", "max_score") else int | float), key
    assert {"score", "tests", "execution_time"} <= set(theirs) & set(ours)


def canvas(path):
    """student -> score, by the rules of Canvas's importer (canvas-lms, lib/gradebook_importer.rb)."""
    rows = table(path)
    header = rows[0]
    assert len(header) > 3 and "Student" in header[0] and "ID" in header[1]
    columns = 3
    if re.search(r"SIS\s+Login\s+ID", header[2]):
        columns += 1
    elif re.search(r"SIS\s+User\s+ID", header[2]) and re.search(r"SIS\s+Login\s+ID", header[3]):
        columns += 2
    assert "Section" in header[columns - 1]
    assert not re.search("(Current|Final) (Score|Points|Grade)|Override", ",".join(header[columns:]))
    found = {}
    for row in rows[1:]:
        assert len(row) == len(header)
        value = row[columns]
        if re.fullmatch(r"-?[0-9.,]+%?", value):
            *parts, last = re.split("[,.]", value)
            value = "".join(parts) + "." + last if parts else last
        found["points" if "Points Possible" in row[0] else row[2]] = value
    return header[columns:], found


def test_canvas_reads_the_scores_and_only_of_those_who_were_graded(tmp_path):
    header, found = canvas(exports.write("canvas", tmp_path, CLASS, "Thin Walls (4711)"))
    assert header == ["Thin Walls (4711)"]
    absent = exports.left_out("canvas", CLASS)
    assert set(found) - {"points"} == {"s01", "s02", "s03", "s04", "s05", "s06", "s10"}
    assert set(found) - {"points"} == {each.id for each in CLASS} - set(absent)
    assert found["points"] == f"{BY_ID['s02'].max_score:g}"
    for name, value in found.items():
        assert name == "points" or float(value) == BY_ID[name].score
    assert absent["s09"] == marks.NOTHING
    assert "3.1" in absent["s07"]
    assert "points were to be had" in absent["s08"]


def test_canvas_gets_names_and_scores_as_they_are(tmp_path):
    _, found = canvas(exports.write("canvas", tmp_path, CLASS))
    assert found["s01"] == f"{BY_ID['s01'].score:.2f}".rstrip("0").rstrip(".")
    assert BY_ID["s01"].score == round(0.9 * BY_ID["s01"].max_score, 2)
    students = {row[2]: row[0] for row in table(tmp_path / "canvas.csv")[2:]}
    assert students["s01"] == "Müller, Anna"
    assert students["s02"] == '\'=HYPERLINK("http://evil.example","x")'
    assert students["s03"] == 'Jo "JJ" O\'Neil'
    assert table(tmp_path / "canvas.csv")[1][0] == "    Points Possible"


def test_canvas_needs_a_roster(tmp_path):
    with pytest.raises(exports.ExportError, match="roster"):
        exports.write("canvas", tmp_path, [each for each in CLASS if each.person is None])
    with pytest.raises(exports.ExportError, match="there is no export 'moodle'"):
        exports.write("moodle", tmp_path, CLASS)


NBGRADER = """
import json, logging, sys, warnings
warnings.simplefilter("ignore")
from nbgrader.api import Gradebook
from nbgrader.plugins.export import CsvExportPlugin
with Gradebook("sqlite:///" + sys.argv[1]) as book:
    book.add_assignment("Thin Walls")
    book.add_notebook("all", "Thin Walls")
    book.add_grade_cell("cell", "all", "Thin Walls", max_score=88, cell_type="code")
    for student in json.load(sys.stdin):
        book.add_student(student["id"], first_name=student["first"], last_name=student["last"], email=student["email"])
        if student["raw"] is not None:
            handed = book.add_submission("Thin Walls", student["id"], timestamp=student["time"])
            book.find_grade("cell", "all", "Thin Walls", student["id"]).auto_score = student["raw"]
            for notebook in handed.notebooks:
                notebook.late_submission_penalty = student["penalty"]
            book.db.commit()
    plugin = CsvExportPlugin()
    plugin.to = sys.argv[2]
    plugin.export(book)
"""


@pytest.mark.slow
def test_nbgrader_itself_writes_the_same_of_the_same_class(tmp_path):
    """Its own gradebook is filled with this class and exported by its own plugin."""
    people = [
        Graded(
            "s1", Person("s1", "Anna Müller", "a@x.example", "2026-12-01T20:00:00+01:00"), {"score": 80}, 72.0, 88.0
        ),
        Graded("s2", Person("s2", "Bo Berg", "b@x.example", "2026-12-01T17:00:00+01:00"), {"score": 88}, 88.0, 88.0),
        Graded("s3", Person("s3", "Chi Che", "c@x.example"), {}, 0.0, 88.0),
    ]
    for each in people[:2]:
        each.result["stages"] = [{"tasks": [{"id": "0.1", "status": "passed", "points": 1, "max_points": 1}]}]
    ours = exports.write("nbgrader", tmp_path, people)
    given = [
        {
            "id": each.id,
            "last": exports.names(each.person.name)[0],
            "first": exports.names(each.person.name)[1],
            "email": each.person.email,
            "raw": each.result.get("score"),
            "penalty": each.result.get("score", 0) - each.score,
            "time": each.person.submitted_at and str(datetime.datetime.fromisoformat(each.person.submitted_at)),
        }
        for each in people
    ]
    theirs = tmp_path / "theirs.csv"
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}  # it runs alembic
    command = [sys.executable, "-c", NBGRADER, str(tmp_path / "book.db"), str(theirs)]
    done = subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr[-2000:]

    def read(path):
        rows = sorted(csv.DictReader(path.read_text().splitlines()), key=lambda row: row["student_id"])
        number = ("raw_score", "late_submission_penalty", "score", "max_score")
        return [{key: float(value) if key in number and value else value for key, value in row.items()} for row in rows]

    assert [list(row) for row in read(ours)] == [list(row) for row in read(theirs)]
    assert read(ours) == [
        {**row, "late_submission_penalty": row["late_submission_penalty"] or 0.0} for row in read(theirs)
    ]


def test_nbgraders_table_has_everybody_but_those_whose_grading_broke(tmp_path):
    rows = table(exports.write("nbgrader", tmp_path, CLASS))
    found = {row[3]: dict(zip(rows[0], row, strict=True)) for row in rows[1:]}
    assert len(found) == len(CLASS) - 1
    assert "s07" not in found
    assert (found["s01"]["last_name"], found["s01"]["first_name"]) == ("Müller", "Anna")
    assert float(found["s01"]["raw_score"]) - float(found["s01"]["late_submission_penalty"]) == pytest.approx(
        BY_ID["s01"].score
    )
    assert float(found["s09"]["score"]) == 0
    for row in rows:
        assert not any(value.startswith(FORMULA) for value in row)


@pytest.mark.slow
def test_a_junit_reader_counts_as_we_do(tmp_path):
    import junitparser

    path = exports.write("junit", tmp_path, CLASS)
    read = junitparser.JUnitXml.fromfile(str(path))
    by_name = {suite.name: suite for suite in read}
    assert len(by_name) == len(CLASS)
    total = {"tests": 0, "failures": 0, "errors": 0, "skipped": 0}
    for each in CLASS:
        tasks = marks.tasks(each.result)
        status = [task["status"] for task in tasks]
        expected = {
            "tests": len(tasks),
            "failures": status.count("failed") + status.count("timeout"),
            "errors": status.count("error") + status.count("infra_error"),
            "skipped": status.count("not_gradable"),
        }
        (suite,) = [suite for name, suite in by_name.items() if name == each.id or name.startswith(each.id[:10])]
        assert {name: getattr(suite, name) for name in total} == expected
        cases = list(suite)
        assert [case.name.split()[0] for case in cases] == [task["id"] for task in tasks]
        suite.update_statistics()  # counted by the reader itself, case by case
        assert {name: getattr(suite, name) for name in total} == expected
        total = {name: total[name] + count for name, count in expected.items()}
    assert {name: getattr(read, name) for name in total} == total
    failed = [case for case in by_name["s02"] if not case.is_passed and not case.is_skipped]
    assert [case.name.split()[0] for case in failed] == ["0.5", "2.3"]
    assert failed[0].result[0].message == "it is 3"
    assert "maybe     look at clone" in failed[0].result[0].text


def test_the_plain_table_has_a_column_for_each_task(tmp_path):
    rows = table(exports.write("csv", tmp_path, CLASS))
    ids = [task.id for stage in course.stages() for task in stage.tasks]
    assert rows[0][9:] == ids
    found = {row[1] or row[0]: dict(zip(rows[0], row, strict=True)) for row in rows[1:]}
    assert len(found) == len(CLASS)
    for each in CLASS:
        row = found[each.person.id if each.person else "../" + SCRIPT[:30]]
        points = [float(row[name]) for name in ids if row[name]]
        if each.result.get("stages"):
            assert sum(points) == each.result["score"]
            assert row["6.10"] == ("1" if each.id == "s08" else "")
        assert row["score"] == ("" if marks.unsettled(each) else f"{each.score:.2f}".rstrip("0").rstrip("."))
    assert found["s07"]["3.1"] == ""
    assert found["s02"]["name"].startswith("'=HYPERLINK")
    assert [found[name]["name"][:2] for name in ("s08", "s09", "s10")] == ["'+", "'@", "'-"]
    for row in rows:
        assert not any(value.startswith(FORMULA) for value in row)


def test_an_empty_class_is_written_too(tmp_path):
    for name in exports.NAMES:
        if name != "canvas":
            assert exports.write(name, tmp_path, []).exists()


def examples(out):
    """What docs/exports.md shows of each export."""
    made = {}
    for name in ("canvas", "nbgrader", "junit", "csv"):
        made[name] = (
            exports.write(name, out, example(), "Thin Walls").read_bytes().decode().replace("\r\n", "\n").strip()
        )
    whole = json.loads((exports.write("gradescope", out, example()) / "mueller_17" / "results.json").read_text())
    whole["tests"] = [test for test in whole["tests"] if test["number"] == "1.3"]
    made["gradescope"] = json.dumps(whole, indent=1)
    # One of the three, to be short.
    suites = re.findall(r" <testsuite .*?</testsuite>\n", made["junit"], re.DOTALL)
    made["junit"] = suites[0].rstrip("\n")
    return made


@pytest.mark.parametrize("name", exports.NAMES)
def test_the_examples_in_the_documents_are_what_is_written(tmp_path, name):
    document = (course.ROOT / "docs" / "exports.md").read_text()
    assert f"\n{examples(tmp_path)[name]}\n```\n" in document
    assert f"| `{name}` |" in document


def test_the_roster_and_the_adjustments_in_the_documents_are_those_of_the_examples(tmp_path):
    document = (course.ROOT / "docs" / "exports.md").read_text()
    people, given = (text for text in re.findall("```csv\n(id,.*?)```", document, re.DOTALL))
    (tmp_path / "class.csv").write_text(people)
    (tmp_path / "adjust.csv").write_text(given)
    shown = example()
    assert roster.read(tmp_path / "class.csv") == [each.person for each in shown]
    (adjustment,) = roster.adjustments(tmp_path / "adjust.csv")
    assert shown[0].adjustments == [f"task 1.3: 1 instead of 0 points: {adjustment.reason}"]
