"""The benchmarks' frame: what holds, what is a ratio, what ends a run with 1."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import pytest

from frame import run as runner
from frame.interleaved import interleaved
from frame.machine import describe, filesystem
from frame.measured import Measured, compared, unmeasured
from frame.peers import NotInstalled, command, find, shell
from frame.registry import REGISTRY, Bench, Entry
from replication import overhead


def test_a_ratio_is_the_median_of_the_turns_own() -> None:
    row = compared("hash", [1.0, 10.0, 2.0], "peer", [2.0, 20.0, 3.0], 100, "files/s", at_least=2.0)
    assert row.against is not None
    assert (row.against.ratio, row.value, row.against.value) == (2.0, 50, 100 / 3)
    assert row.holds
    assert not compared("hash", [1.0], "peer", [1.9], 100, "files/s", at_least=2.0).holds


def test_what_could_not_be_measured_does_not_hold_where_something_was_promised() -> None:
    assert not unmeasured("hash", "no peer", at_least=2.0).holds
    assert not unmeasured("memory", "no root", bound=80).holds
    assert unmeasured("for comparison", "no peer").holds


def test_contestants_run_in_turns_and_the_first_changes() -> None:
    order: list[str] = []
    runs = {name: lambda name=name: order.append(name) for name in ("a", "b")}
    taken = interleaved(runs, rounds=2)
    assert order == ["b", "a", "a", "b", "b", "a"]
    assert [len(spent) for spent in taken.values()] == [2, 2]


def test_a_run_that_times_itself_is_believed() -> None:
    assert interleaved({"a": lambda: 0.25}, rounds=3)["a"] == [0.25] * 3


def test_a_peer_that_fails_or_is_missing_is_no_measurement() -> None:
    with pytest.raises(NotInstalled, match="install_peers"):
        find("no-such-program-anywhere")
    with pytest.raises(OSError, match="ended with 3: why"):
        shell('echo "$1" >&2; exit 3', "why")()
    command(["true"])()


def test_the_machine_is_described(tmp_path: Path) -> None:
    found = describe(tmp_path)
    assert found["filesystem"] == filesystem(tmp_path) != "unknown"
    assert isinstance(found["cores"], int)


def test_every_measurement_that_is_registered_can_be_loaded() -> None:
    for entry in REGISTRY.values():
        assert callable(entry.load()), entry


def test_a_broken_bound_ends_with_1_and_stands_in_the_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = type(sys)("measured_for_a_test")
    module.measure = lambda bench: [  # type: ignore[attr-defined]
        Measured("in bounds", 1, "s", 2),
        Measured("quick" if bench.quick else "full", bench.either(5, 3), "s", 4),
    ]
    monkeypatch.setitem(sys.modules, "measured_for_a_test", module)
    monkeypatch.setattr(runner, "RESULTS", tmp_path)
    entries = {"mine": Entry("measured_for_a_test", "a test", quick=True), "other": Entry("none", "long")}
    assert runner.run(entries, ["mine"]) == 1
    assert "BROKEN" in capsys.readouterr().out
    assert [row["holds"] for row in json.loads((tmp_path / "bench.json").read_text())["results"]] == [
        True,
        False,
    ]
    assert runner.run(entries, [], quick=True) == 0
    assert runner.run(entries, ["nothing"]) == 2
    assert json.loads((tmp_path / "mine-quick.json").read_text())["machine"]["cores"] >= 1


def test_a_measurements_directory_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = type(sys)("measured_for_a_test")
    seen: list[Path] = []

    def measure(bench: Bench) -> list[Measured]:
        seen.append(bench.base)
        (bench.base / "data").write_bytes(b"x")
        return []

    module.measure = measure  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "measured_for_a_test", module)
    monkeypatch.setattr(runner, "RESULTS", tmp_path / "results")
    assert runner.run({"mine": Entry("measured_for_a_test", "a test")}, [], place=tmp_path) == 0
    assert seen[0].parent == tmp_path
    assert not seen[0].exists()


@pytest.mark.parametrize(
    ("spread", "limit_s", "least", "most"), [(0.0, 1e9, 10, 10), (0.2, 1e9, 11, 500), (0.2, 0.0, 10, 10)]
)
def test_turns_go_on_until_they_can_tell_or_time_is_up(
    monkeypatch: pytest.MonkeyPatch, spread: float, limit_s: float, least: int, most: int
) -> None:
    rng = random.Random(1)
    monkeypatch.setattr(overhead, "once", lambda *_: (1.0 + spread * rng.random(), 1.0))
    nothing: Any = None
    taken = overhead.turns(nothing, overhead.Writer("a", "", []), 10, limit_s)
    counts = {len(runs) for runs in taken.values()}
    assert len(counts) == 1
    assert least <= counts.pop() <= most
    assert overhead.is_narrow(taken) == (limit_s > 0)
