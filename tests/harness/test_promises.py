"""Only what is replayed is promised: each row of the README's table names tests that exist, and counts them right."""

from __future__ import annotations

import pytest

from harness_promises import BEGIN, END, README, ROOT, Row, counts, rows, total


@pytest.fixture(scope="module")
def table() -> list[Row]:
    return rows(README.read_text())


@pytest.fixture(scope="module")
def collected(table: list[Row]) -> dict[str, int]:
    return counts({node for row in table for node in row.nodes})


def test_every_promise_names_tests_that_exist(table: list[Row], collected: dict[str, int]) -> None:
    assert len(table) >= 10
    for row in table:
        assert row.nodes, f"no test is named for: {row.promise}"
        missing = [node for node in row.nodes if node not in collected]
        assert not missing, f"{row.promise}: there is no {missing}"


def test_no_count_says_more_than_is_collected(table: list[Row], collected: dict[str, int]) -> None:
    """More may have come since; `python tests/harness_promises.py` writes the counts anew."""
    wrong = {row.promise: (row.shown, total(row, collected)) for row in table}
    assert {name: pair for name, pair in wrong.items() if not 0 < pair[0] <= pair[1]} == {}


def test_no_test_that_a_promise_rests_on_may_be_skipped_in_ci(table: list[Row]) -> None:
    lines = (ROOT / ".ci" / "allowed-skips").read_text().splitlines()
    allowed = [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]
    rests = {node for row in table for node in row.nodes}
    assert [node for node in rests if any(part in node for part in allowed)] == []


def test_a_row_is_read_with_its_tests_and_its_count() -> None:
    text = f"{BEGIN}\n| promise | how | runs |\n|---|---|---|\n| kept | killed: `a/test_b.py::test_c` | 1,234 |\n{END}"
    (row,) = rows(text)
    assert (row.promise, row.nodes, row.shown) == ("kept", ("a/test_b.py::test_c",), 1234)
    with pytest.raises(ValueError, match="cells"):
        rows(text.replace("| kept |", "|"))
