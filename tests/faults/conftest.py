"""Fixtures of the fault tests: the fault library, and fleets that it is loaded into."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from pathlib import Path

import pytest

from faults.rounds import FLEETS
from faults.shim import Shim, build
from fleet import Daemon
from fleet_fixtures import make_fleet, pytest_runtest_makereport

__all__ = ["load_shim", "make_fleet", "pytest_runtest_makereport", "share", "shim_library"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A whole sweep is shared by several fleets, each in a test of its own; a sample is one fleet's."""
    if "share" in metafunc.fixturenames and FLEETS > 1:
        metafunc.parametrize("share", range(FLEETS), indirect=True)


@pytest.fixture
def share(request: pytest.FixtureRequest) -> int:
    """Which share of a sweep this test takes, from 0."""
    number: int = getattr(request, "param", 0)
    return number


@pytest.fixture(scope="session")
def shim_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("shim"))


@pytest.fixture
def load_shim(shim_library: Path, tmp_path: Path) -> Generator[Callable[..., Shim]]:
    """`load_shim(daemon, watch=[...])` before the daemon is started."""
    loaded: list[Shim] = []

    def load(daemon: Daemon, watch: Sequence[Path] = ()) -> Shim:
        shim = Shim(daemon, shim_library, tmp_path / f"{daemon.name}.{len(loaded)}.control", watch)
        loaded.append(shim)
        return shim

    yield load
    for shim in loaded:
        shim.close()
