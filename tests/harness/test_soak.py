"""The soak's judgement: what grows is found, what rises once, jumps about or levels off is not."""

from __future__ import annotations

import random
import xml.etree.ElementTree as ElementTree

import pytest

from soak.chart import draw
from soak.samples import Series, is_full
from soak.trend import judge, slope

Points = list[tuple[float, float]]


def series(value: object, count: int = 600) -> Points:
    assert callable(value)
    return [(float(at), float(value(at))) for at in range(count)]


def test_a_steady_leak_grows_whatever_the_noise() -> None:
    rng = random.Random(1)
    verdict = judge(series(lambda at: 100 + at * 0.1 + rng.uniform(-10, 10)), allowed=8.0)
    assert verdict is not None
    assert verdict.grows
    assert verdict.slope_hour == pytest.approx(360, rel=0.1)


@pytest.mark.parametrize(
    "shape",
    [
        lambda at: 100.0,
        lambda at: 100 + (at % 50),  # a sawtooth
        lambda at: 100 + (50 if at > 300 else 0),  # a step, then level
        lambda at: 100 + 200 * (1 - 0.98**at),  # fills up and levels off
        lambda at: 100_000.0 if at % 7 == 0 else 100.0,  # odd samples
        lambda at: 100 - at * 0.1,
    ],
    ids=["level", "sawtooth", "step", "levels off", "odd samples", "falls"],
)
def test_what_is_no_growth_is_none(shape: object) -> None:
    verdict = judge(series(shape), allowed=8.0)
    assert verdict is not None
    assert not verdict.grows


def test_few_samples_give_no_verdict_and_a_slope_stands_a_quarter_of_lies() -> None:
    assert judge(series(lambda at: at, count=10), allowed=1.0) is None
    assert slope(series(lambda at: 1e9 if at % 4 == 0 else at)) == pytest.approx(1.0)


def test_the_chart_is_well_formed_and_shows_each_series() -> None:
    drawn = draw("a < b", [Series(f"node-{n}", "memory", [(0.0, 1.0), (60.0, 2.0 + n)]) for n in range(3)])
    found = ElementTree.fromstring(drawn)
    lines = [one for one in found.iter() if one.tag.endswith("polyline")]
    assert len(lines) == 3
    assert all(len(one.attrib["points"].split()) == 2 for one in lines)


@pytest.mark.parametrize(
    ("kept", "full"), [("0.0", False), ("3.2e+07", False), ("3.3554e+07", True), ("3.3554432e+07", True)]
)
def test_sampling_begins_when_the_cache_has_reached_its_bound(kept: str, full: bool) -> None:
    text = f"closeranks_store_cache_bytes {kept}\ncloseranks_store_cache_max_bytes 3.3554432e+07\n"
    assert is_full(text) is full
    assert not is_full("closeranks_store_cache_bytes 0.0\n"), "a coordinator that does not tell is not full"
