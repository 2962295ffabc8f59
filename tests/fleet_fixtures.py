"""The fixture that tests on real processes share. Whatever a test does, at its end no log may hold a traceback.

A conftest.py imports from here what its folder needs.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from fleet import Fleet, MakeFleet, finish

FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    report = yield
    if report.failed:
        item.stash[FAILED] = True
    return report


@pytest.fixture
def make_fleet(tmp_path: Path, request: pytest.FixtureRequest) -> Generator[MakeFleet]:
    """`make_fleet(nodes=4, ...)`: a Fleet under tmp_path, ended and checked afterwards.

    How fast its disk fills is not asked, unless the test says what its guards are: other tests fill it too.
    """
    made: list[Fleet] = []

    def make(**settings: Any) -> Fleet:
        settings.setdefault("guards", {"disk_full_in_s": 0})
        fleet = Fleet(tmp_path / f"fleet-{len(made)}", **settings)
        made.append(fleet)
        return fleet

    yield make
    for fleet in made:
        finish(fleet, request.node.stash.get(FAILED, False))
