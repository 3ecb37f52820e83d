"""The class: who is in the roster, whose a submission is, what lateness costs, which points were given by hand."""

import datetime
import json

import pytest

from thinwalls.batch import Person, escape, late, marks, roster

DUE = datetime.datetime.fromisoformat("2026-12-01T18:00:00+01:00")
RULE = late.policy({"grace": "15m", "percent_per_day": 10, "cut_off": "3d"})


def write(tmp_path, text, name="roster.csv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def result(**statuses):
    """A result of one stage with tasks of two points: passed, failed, ..., by id."""
    tasks = [
        {"id": name.replace("_", "."), "points": 2 * (status == "passed"), "max_points": 2, "status": status}
        for name, status in statuses.items()
    ]
    return {"score": 0, "max_score": 0, "stages": [{"id": "01", "name": "chroot", "tasks": tasks}]}


HALF = {"1_1": "passed", "1_2": "failed"}


def test_names_are_kept_whatever_is_in_them(tmp_path):
    path = write(
        tmp_path,
        "id,name,email\r\n"
        's1,"Müller, Anna",a@x.example\r\n'
        's2,"Jo ""JJ"" O\'Neil",\r\n'
        's3,"=1+1",\r\n'
        "s4,  Åse   Øye ,\r\n",
    )
    people = roster.read(path)
    assert [each.name for each in people] == ["Müller, Anna", 'Jo "JJ" O\'Neil', "=1+1", "Åse Øye"]
    assert people[0] == Person("s1", "Müller, Anna", "a@x.example")


def test_a_spreadsheets_file_with_semicolons_and_a_byte_order_mark_is_read(tmp_path):
    path = write(tmp_path, "\ufeffID;Name\ns1;Anna, the first\n\n".encode())
    assert roster.read(path) == [Person("s1", "Anna, the first")]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("", 1, "columns' names is missing"),
        ("name\nAnna\n", 1, "the column 'id' is missing"),
        ("id,extention\ns1,2d\n", 1, "no column 'extention'"),
        ("id,id\ns1,s1\n", 1, "twice a column 'id'"),
        ("id,name\ns1,Anna\ns2\n", 3, "1 values for 2 columns"),
        ("id,name\n,Anna\n", 2, "no id"),
        ("id\n=s1\n", 2, "a spreadsheet takes for a formula"),
        ("id\ns1\ns2\nS1\n", 4, "there already"),
        ('id,name\ns1,"Anna\nBerg"\ns1,Eve\n', 4, "there already"),
        ('id,name\ns1,Anna\ns2,"Be"rg\n', 3, "expected after"),
        ('id,name\ns1,Anna\ns2,"Berg\n', 3, "unexpected end"),
        ("id,submitted_at\ns1,yesterday\n", 2, "'yesterday' is no date with a time"),
        ("id,submitted_at\ns1,2026-12-01\n", 2, "has no time of day"),
        ("id,extension\ns1,two days\n", 2, "'two days' is no extension"),
        (b"id,name\ns1,Anna\ns2,M\xfcller\n", 3, "not UTF-8"),
        ("id,name\ns1,An\0na\n", 2, "null byte"),
    ],
)
def test_an_error_names_file_and_line(tmp_path, text, line, words):
    path = write(tmp_path, text)
    with pytest.raises(roster.RosterError) as caught:
        roster.read(path)
    assert str(caught.value).startswith(f"{path}, line {line}: ")
    assert words in str(caught.value)


def test_a_file_that_cannot_be_read_is_an_error(tmp_path):
    with pytest.raises(roster.RosterError, match="cannot be read: No such file"):
        roster.read(tmp_path / "none.csv")


PEOPLE = [
    Person("s1", "Anna Müller", "anna@x.example"),
    Person("s12", "Bo Berg", "bo@x.example"),
    Person("S3", "Chi Che", "chi@x.example"),
    Person("s4", "Dan Dahl"),
]


@pytest.mark.parametrize(
    ("submission", "person"),
    [
        ("s1", "s1"),
        ("s3", "S3"),
        ("anna@x.example", "s1"),
        ("bo", "s12"),
        ("Müller_Anna", "s1"),
        ("Mu\u0308ller, Anna", "s1"),
        ("Somebody_s12_assignsubmission_file", "s12"),
        ("s123", None),
        ("xs1", None),
        ("s1 and s12", None),
        ("", None),
    ],
)
def test_whose_a_submission_is(submission, person):
    found = roster.match(PEOPLE, [submission])
    assert {name: each.id for name, each in found.people.items()} == ({submission: person} if person else {})
    assert [each.id for each in found.missing] == [each.id for each in PEOPLE if each.id != person]
    assert list(found.unmatched) == ([] if person else [submission])


def test_two_submissions_of_one_person_are_nobodys_and_nobody_is_missing():
    found = roster.match(PEOPLE, ["s1", "anna", "bo", "nobody"])
    assert {name: person.id for name, person in found.people.items()} == {"bo": "s12"}
    assert found.unmatched["s1"] == found.unmatched["anna"] == "s1 has more than one submission: s1, anna"
    assert "nobody in the roster" in found.unmatched["nobody"]
    assert [each.id for each in found.missing] == ["S3", "s4"]


@pytest.mark.parametrize(
    ("submitted", "extension", "part", "words"),
    [
        ("2026-12-01T18:00:00+01:00", "", 1.0, ""),
        ("2026-12-01T17:10:00Z", "", 1.0, "10 min late, within the grace"),
        ("2026-12-01T17:16:00Z", "", 0.9, "16 min late: 10 % taken off"),
        ("2026-12-02T18:00:00+01:00", "", 0.9, "1 d late: 10 % taken off"),
        ("2026-12-02T19:01:00+01:00", "", 0.8, "1 d 1 h 1 min late: 20 % taken off"),
        ("2026-12-04T18:00:00+01:00", "", 0.7, "3 d late: 30 % taken off"),
        ("2026-12-04T18:00:01+01:00", "", 0.0, "3 d 1 min late, after the cut-off: no points"),
        ("2026-12-03T18:00:00+01:00", "2d", 1.0, ""),
        ("2026-12-03T18:00:00+01:00", "36h", 0.9, "12 h late: 10 % taken off"),
        ("2026-12-09T12:00:00+01:00", "2026-12-09T12:00:00+01:00", 1.0, ""),
        ("2026-12-01T18:00:00+01:00", "2026-11-01T12:00:00+01:00", 1.0, ""),
        ("", "", 1.0, "when it was handed in is not known: nothing is taken off"),
    ],
)
def test_what_lateness_costs(submitted, extension, part, words):
    kept, why = late.kept(Person("s1", submitted_at=submitted, extension=extension), DUE, RULE)
    assert (round(kept, 6), why) == (part, words)


def test_what_is_never_due_is_never_late():
    assert late.kept(Person("s1", submitted_at="2036-12-01T18:00"), None, RULE) == (1.0, "")
    assert late.kept(Person("s1", submitted_at="2036-12-01T18:00"), DUE, late.policy({}))[0] == 1.0


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"grace": "soon"}, "grace: 'soon' is no length of time"),
        ({"cut_off": 7}, "cut_off: '7' is no length of time"),
        ({"percent_per_day": 101}, "percent_per_day: 101 is no number from 0 to 100"),
        ({"percent_per_day": "10"}, "percent_per_day: '10' is no number"),
        ({"percent_per_day": True}, "percent_per_day: True is no number"),
        ({"percent": 10}, "'percent' is no part of a late policy"),
        ({"grace": "2d", "cut_off": "1d"}, "cut_off: it comes before the end of the grace"),
    ],
)
def test_a_wrong_policy_is_refused(table, words):
    with pytest.raises(ValueError, match=words):
        late.policy(table)


def test_a_class_is_marked_in_the_rosters_order_and_says_who_is_missing():
    results = {"stranger": result(**HALF), "bo": result(**HALF), "anna": result(**HALF)}
    made = marks.marked(results, PEOPLE, flags={"bo": ["a flag"]})
    assert [(each.id, each.person and each.person.id) for each in made] == [
        ("anna", "s1"),
        ("bo", "s12"),
        ("S3", "S3"),
        ("s4", "s4"),
        ("stranger", None),
    ]
    assert [(each.score, each.max_score) for each in made] == [(2, 4), (2, 4), (0, 4), (0, 4), (2, 4)]
    assert [each.flags for each in made] == [
        [],
        ["a flag"],
        [marks.NOTHING],
        [marks.NOTHING],
        ["nobody in the roster has this name"],
    ]
    assert [marks.unsettled(each) for each in made] == ["", "", marks.NOTHING, marks.NOTHING, ""]


def test_without_a_roster_every_submission_is_nobodys_and_nothing_is_said_of_it():
    (made,) = marks.marked({"anna": result(**HALF)})
    assert (made.person, made.flags, made.late, made.score) == (None, [], "", 2)


def test_each_stage_has_its_own_due_date():
    both = result(**HALF)
    both["stages"] += [{"id": "02", "name": "pids", "tasks": result(_="passed")["stages"][0]["tasks"]}]
    someone = [Person("s1", submitted_at="2026-12-01T20:00:00+01:00")]
    (made,) = marks.marked({"s1": both}, someone, due={"01": DUE}, rule=RULE)
    assert (made.score, made.max_score, made.late) == (3.8, 6, "chroot: 2 h late: 10 % taken off")
    (made,) = marks.marked({"s1": both}, someone, due={"01": DUE, "02": DUE}, rule=RULE)
    assert (made.score, made.late) == (3.6, "2 h late: 10 % taken off")


def test_what_is_not_gradable_is_outside_until_somebody_gives_points_for_it(tmp_path):
    given = {"s1": result(**{"1_1": "passed", "1_2": "not_gradable"})}
    (made,) = marks.marked(given)
    assert (made.score, made.max_score) == (2, 2)
    path = write(tmp_path, 'id,task,points,reason\ns1,1.2,1.5,"shown in class, at the board"\n')
    before = json.dumps(given)
    (made,) = marks.marked(given, adjustments=roster.adjustments(path))
    assert (made.score, made.max_score) == (3.5, 4)
    assert made.adjustments == ["task 1.2: 1.5 instead of 0 points: shown in class, at the board"]
    assert json.dumps(given) == before, "the stored result is not changed"


def test_a_whole_score_given_by_hand_comes_after_lateness(tmp_path):
    path = write(tmp_path, "id,points,reason\nS1,3,oral exam\n")
    someone = [Person("s1", submitted_at="2026-12-01T20:00:00+01:00")]
    (made,) = marks.marked({"s1": result(**HALF)}, someone, roster.adjustments(path), {"01": DUE}, RULE)
    assert (made.score, made.adjustments) == (3, ["the score: 3 instead of 1.8 points: oral exam"])
    (made,) = marks.marked({}, someone, roster.adjustments(path))
    assert (made.score, marks.unsettled(made)) == (3, "")


def test_trouble_of_ours_is_no_zero_until_somebody_has_decided(tmp_path):
    given = {"s1": result(**{"1_1": "passed", "1_2": "infra_error"})}
    (made,) = marks.marked(given)
    assert "1.2" in marks.unsettled(made)
    path = write(tmp_path, "id,task,points,reason\ns1,1.2,0,looked at it\n")
    (made,) = marks.marked(given, adjustments=roster.adjustments(path))
    assert marks.unsettled(made) == ""


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("s1,1.2,2,", "no reason"),
        ("s1,1.2,-1,why", "'-1' is no number of points"),
        ("s1,1.2,1e9,why", "'1e9' is no number of points"),
        ('s1,1.2,"1,5",why', "'1,5' is no number of points"),
        ("s1,1.2,3,why", "3 points, where task 1.2 has 2"),
        ("s1,9.9,1,why", "task '9.9' was not graded for 's1'"),
        ("s9,1.2,1,why", "'s9' is neither a submission nor somebody of the roster"),
        ("s1,1.1,1,why", "adjusted already"),
    ],
)
def test_a_wrong_adjustment_names_file_and_line(tmp_path, row, words):
    path = write(tmp_path, f"id,task,points,reason\ns1,1.1,1,first\n{row}\n", "adjust.csv")
    with pytest.raises(roster.RosterError) as caught:
        marks.marked({"s1": result(**HALF)}, adjustments=roster.adjustments(path))
    assert str(caught.value).startswith(f"{path}, line 3: ")
    assert words in str(caught.value)


@pytest.mark.parametrize("begin", "=+-@＝＋－＠")
def test_no_cell_begins_a_formula(begin):
    for text in (f"{begin}1+1", f" {begin}1", f"\t{begin}1", f"\r\n{begin}1"):
        assert escape.cell(text)[0] in "'\\"  # an apostrophe, or the escape of what cannot be seen


def test_names_of_files_are_harmless_and_each_its_own():
    names = [
        "a",
        "../a",
        ".a",
        "",
        "..",
        "a/b",
        "a%2Fb",
        "x" * 300,
        "x" * 301,
        "Müller",
        "a b",
        "-a",
        "con\x1b[2J",
        "\udcff",
    ]
    made = [escape.file_name(name) for name in names]
    assert len(set(made)) == len(names)
    for name in made:
        assert name and "/" not in name and not name.startswith(".") and len(name) < 200
        assert name.isascii()
