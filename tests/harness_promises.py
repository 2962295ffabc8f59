"""The README's table of promises, held against the tests. As a program it writes the counts anew.

A row names tests as `folder/test_file.py::test_name`, below `tests/`. Its last column is how many cases one CI
run plays at least: the collected items of those tests, each counted as often as its mark `repeats(n)` says (a
sweep over n points, n examples). Nothing in that column is written by hand, and `test_promises.py` fails where
it says more than what is collected.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
BEGIN, END = "<!-- promises -->", "<!-- end of promises -->"
NODE = re.compile(r"`([a-z0-9_/]+\.py::[A-Za-z0-9_]+)`")
COLLECT = """
import json, sys, pytest
class Counted:
    def pytest_collection_finish(self, session):
        found = {}
        for item in session.items:
            mark = item.get_closest_marker("repeats")
            name = item.nodeid.partition("[")[0].removeprefix("tests/")
            found[name] = found.get(name, 0) + (mark.args[0] if mark else 1)
        print("COUNTED " + json.dumps(found))
sys.exit(pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider", *sys.argv[1:]], plugins=[Counted()]))
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: its promise, the tests that it names, and the count that it shows."""

    promise: str
    nodes: tuple[str, ...]
    shown: int
    line: str


def rows(text: str) -> list[Row]:
    """The rows between the two marks. ValueError for a line that is none."""
    table = text.partition(BEGIN)[2].partition(END)[0].strip().splitlines()
    found = []
    for line in table[2:]:  # the heading and its rule
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) != 3:
            raise ValueError(f"a row of {len(cells)} cells: {line}")
        found.append(Row(cells[0], tuple(NODE.findall(cells[1])), int(cells[2].replace(",", "")), line))
    return found


def counts(nodes: set[str]) -> dict[str, int]:
    """By test, how many cases one run plays. CalledProcessError where a file can not be collected."""
    files = sorted({"tests/" + node.partition("::")[0] for node in nodes})
    done = subprocess.run(
        [sys.executable, "-c", COLLECT, *files], cwd=ROOT, capture_output=True, text=True, check=True
    )
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("COUNTED "))
    found: dict[str, int] = json.loads(line.removeprefix("COUNTED "))
    return found


def total(row: Row, collected: dict[str, int]) -> int:
    return sum(collected[node] for node in row.nodes)


def main() -> None:
    text = README.read_text()
    found = rows(text)
    collected = counts({node for row in found for node in row.nodes})
    for row in found:
        start = row.line.rstrip().rstrip("|").rpartition("|")[0]
        text = text.replace(row.line, f"{start}| {total(row, collected):,} |")
    README.write_text(text)


if __name__ == "__main__":
    main()
