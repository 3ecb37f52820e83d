"""Options of the tests that judge the graders."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("thinwalls")
    group.addoption(
        "--mutants", default="3", help="how many of each stage: a number, all, or even-those that are not judged yet"
    )
    group.addoption("--messages", action="store_true", help="write tests/messages; see tests/toolkit/messages.py")
    group.addoption("--first", default="", help="stages whose banks are judged before the others: 01,04")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The order of --first, and what --messages is about."""
    first = config.getoption("--first").split(",")
    if config.getoption("--messages"):
        from test_banks import MESSAGES

        items[:] = [
            item
            for item in items
            if item.name.startswith("test_a_wrong_answer") and item.callspec.params["entry"].id in MESSAGES
        ]
    files = list(dict.fromkeys(item.path for item in items))  # each has a judge, which ends with its last test
    items.sort(key=lambda item: (files.index(item.path), _stage(item) not in first))


def _stage(item: pytest.Item) -> str:
    entry = getattr(item, "callspec", None) and item.callspec.params.get("entry")
    return entry.stage.id if entry else ""
