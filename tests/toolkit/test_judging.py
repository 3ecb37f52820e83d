"""What judges the graders, on small things of which the outcome is plain: mutants, kept messages, the table of trust."""

import messages
import pytest
import trust
from mutants import mutants, mutated

SOURCE = '''
"""A stage."""
class Wall:
    flags = A | B  # task 1.1
    kept = C | D
    def inside(self):
        """Task 1.1: do it."""
        for name in names:
            if name == 1 and not last:
                do(name, 5, how=True)
            else:
                continue
    def kept(self):
        return 1 if self else 2
def _own():
    return None
'''
NAMES = {
    ("1.1", "Wall: flags = A | B -> flags = A"),
    ("1.1", "Wall: flags = A | B -> flags = B"),
    ("1.1", "Wall.inside: if name == 1 and (not last): -> if not (name == 1 and (not last)):"),
    ("1.1", "Wall.inside: if name == 1 and (not last): -> if name == 1 or not last:"),
    ("1.1", "Wall.inside: if name == 1 and (not last): -> if name != 1 and (not last):"),
    ("1.1", "Wall.inside: if name == 1 and (not last): -> if name == 2 and (not last):"),
    ("1.1", "Wall.inside: if name == 1 and (not last): -> if name == 0 and (not last):"),
    ("1.1", "Wall.inside: if name == 1 and (not last): -> if name == 1 and last:"),
    ("1.1", "Wall.inside: do(name, 5, how=True) -> pass"),
    ("1.1", "Wall.inside: do(name, 5, how=True) -> do(name, how=True)"),
    ("1.1", "Wall.inside: do(name, 5, how=True) -> do(name, 5)"),
    ("1.1", "Wall.inside: do(name, 5, how=True) -> do(name, 6, how=True)"),
    ("1.1", "Wall.inside: do(name, 5, how=True) -> do(name, 4, how=True)"),
    ("", "_own: return None -> pass"),
}


def test_mutants_are_made_of_what_the_learner_writes_and_of_nothing_else():
    assert {(mutant.task, mutant.name) for mutant in mutants(SOURCE)} == NAMES


def test_a_mutant_is_the_program_with_one_change():
    program = mutated(SOURCE, "Wall.inside: do(name, 5, how=True) -> do(name, 6, how=True)")
    assert program.count("do(name, 6, how=True)") == 1
    assert program.replace("6", "5") == mutated(SOURCE, "_own: return None -> pass").replace("pass", "return None")


def test_a_message_fits_what_was_seen_and_what_differs_as_that_did():
    kept = messages.merged("it is 17 of word abc\nlast", "it is 18 of word xyz\nlast")
    assert kept == "it is <number> of word <word>\nlast"
    assert messages.merged(kept, "it is 19 of word abc\nlast") == kept
    assert messages.matches(kept, "it is 4711 of word foo\nlast")
    assert not messages.matches(kept, "it was 17 of word abc\nlast")
    assert not messages.matches(kept, "it is none of word abc\nlast")
    wider = messages.merged(kept, "it is none of word abc\nlast")
    assert messages.matches(wider, "it is 17 of word abc\nlast") and messages.matches(
        wider, "it is none of word abc\nlast"
    )


def test_a_message_is_compared_and_written_only_when_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(messages.course, "ROOT", tmp_path)
    monkeypatch.setattr(messages, "WHERE", tmp_path / "where.txt")
    path = tmp_path / "stage" / "name.txt"
    assert not messages.check(path, "one 1", write=True)
    assert "another text" in messages.check(path, "one 2", write=False)
    assert path.read_text() == "one 1\n"
    assert not messages.check(path, "one 2", write=True)
    assert not messages.check(path, "one 3", write=False)
    assert messages.WHERE.read_text().strip() == messages.here()


@pytest.fixture
def results(tmp_path):
    def case(name, inside=""):
        seconds = '<properties><property name="seconds" value="1.5" /></properties>'
        return f'<testcase name="{name}">{seconds}{inside}</testcase>'

    first = [
        case("test_a_wrong_answer_is_caught_by_name[01-one]", "<failure />"),
        case("test_a_wrong_answer_is_caught_by_name[01-two]"),
        case("test_a_right_answer_is_never_refused[01-one]", "<failure />"),
        case("test_a_cheat_earns_nothing[01-one]", "<error />"),
        case("test_a_mutant_is_noticed[01-one]", "<skipped />"),
        case("test_something_else"),
    ]
    (tmp_path / "1.xml").write_text(f"<testsuites>{''.join(first)}</testsuites>")
    again = case("test_a_right_answer_is_never_refused[01-one]")
    (tmp_path / "2.xml").write_text(f"<testsuites>{again}</testsuites>")
    return [tmp_path / "1.xml", tmp_path / "2.xml"]


def test_a_row_counts_the_last_that_became_of_each(results):
    row = trust.rows(results)[1]
    assert (row.there, row.good) == (
        {"wrong": 2, "right": 1, "cheats": 1, "mutants": 0},
        {"wrong": 1, "right": 1, "cheats": 0, "mutants": 0},
    )
    assert (row.skipped, row.seconds, row.in_order) == (1, 7.5, False)


def test_the_table_has_a_row_for_each_stage_and_is_put_between_its_marks(results, tmp_path, monkeypatch):
    table = trust.rows(results)
    assert len(trust.as_text(table).splitlines()) == 2 + len(table)
    monkeypatch.setattr(trust, "DOCUMENT", tmp_path / "trust.md")
    trust.DOCUMENT.write_text("before\n<!-- the table -->\nold\n<!-- the end of the table -->\nafter\n")
    trust.write(table, 17)
    text = trust.DOCUMENT.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert trust.as_text(table) in text and "seed 17" in text


def test_a_stage_is_changed_until_its_row_is_in_order(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    stages = [row.stage.id for row in trust.rows([])]
    assert trust.changed() == stages
    rows = [
        trust.Row(row.stage, dict.fromkeys(trust.KINDS, 1), dict.fromkeys(trust.KINDS, 1)) for row in trust.rows([])
    ]
    rows[2].good["wrong"] = 0
    trust.remember(rows)
    assert trust.changed() == [stages[2]]
    monkeypatch.setattr(trust.course, "ROOT", tmp_path)
    assert trust.changed() == stages
