"""`[speed]` of coordinator.toml: limits, the weekly schedule, and what is wrong with them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from closeranks_coordinator.config import CoordinatorConfig, load_coordinator_config
from closeranks_coordinator.core.rules import SpeedRules, SpeedWindow
from closeranks_proto.settings import SettingsError

BASE = """
[coordinator]
state_dir = "/state"
[fleet]
nodes = ["n1", "n2", "n3"]
[[volume]]
name = "photos"
on_divergence = "resync"
"""
WINDOW = """
[speed]
node_bytes_s = 10000000
utc_offset = "+01:00"
[[speed.window]]
days = ["sat", "mon"]
from = "22:00"
to = "06:00"
node_bytes_s = "none"
fleet_bytes_s = 50000000
"""


def load(tmp_path: Path, text: str) -> CoordinatorConfig:
    file = tmp_path / "coordinator.toml"
    file.write_text(BASE + text)
    return load_coordinator_config(file, {}, {})


def test_without_the_table_nothing_is_limited(tmp_path: Path) -> None:
    config = load(tmp_path, "")
    assert config.fleet.speed == SpeedRules()
    assert not any("[speed]" in note for note in config.notes)


def test_windows_overrule_the_base(tmp_path: Path) -> None:
    window = SpeedWindow((0, 5), 79200, 21600, None, 50_000_000)
    assert load(tmp_path, WINDOW).fleet.speed == SpeedRules(10_000_000, None, 3600, (window,))


def test_the_clock_of_the_windows_has_a_zone(tmp_path: Path) -> None:
    config = load(tmp_path, WINDOW.replace('utc_offset = "+01:00"', 'zone = "Europe/Berlin"'))
    assert config.fleet.speed.zone == "Europe/Berlin"
    assert any("from 22:00 to 06:00 (Europe/Berlin): " in note for note in config.notes)


@pytest.mark.parametrize(
    "zone", ['"Europe/Nowhere"', '"Europe"', '"/etc/localtime"', '"../localtime"', '""', "1"]
)
def test_a_zone_that_the_machine_does_not_know_is_refused(tmp_path: Path, zone: str) -> None:
    with pytest.raises(SettingsError, match="not a time zone that this machine knows") as caught:
        load(tmp_path, WINDOW.replace('utc_offset = "+01:00"', f"zone = {zone}"))
    assert "Europe/Berlin" in str(caught.value)


def test_one_clock_is_enough(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="not both"):
        load(tmp_path, WINDOW.replace("[[speed.window]]", 'zone = "Europe/Berlin"\n[[speed.window]]'))


def test_what_a_window_leaves_out_is_the_bases(tmp_path: Path) -> None:
    text = WINDOW.replace('node_bytes_s = "none"\n', "")
    assert load(tmp_path, text).fleet.speed.windows[0].node_bytes_s == 10_000_000


def test_check_config_says_what_it_comes_to(tmp_path: Path) -> None:
    notes = [note for note in load(tmp_path, WINDOW).notes if "[speed]" in note]
    assert notes == [
        "[speed]: a node 10 MB/s, the fleet no limit outside of the windows",
        "[speed]: mon, sat from 22:00 to 06:00 (UTC+01:00): a node no limit, the fleet 50 MB/s",
    ]


@pytest.mark.parametrize(
    ("wrong", "right", "said"),
    [
        ('"22:00"', '"25:00"', '[[speed.window]] number 1: from = "25:00": not a time of the day'),
        ('"06:00"', '"22:00"', "it begins and ends at once"),
        ('"06:00"', '"24:01"', "not a time of the day"),
        ('from = "22:00"\n', "", "from is missing"),
        ('["sat", "mon"]', '["saturday"]', "days"),
        ('["sat", "mon"]', "[]", "too few elements"),
        ("10000000", "10", "too small"), ("10000000", '"10X"', "not"),
        ('"+01:00"', '"CET"', "not an offset from UTC"), ('"+01:00"', '"+15:00"', "not an offset"),
        ('node_bytes_s = "none"\nfleet_bytes_s = 50000000\n', "", "the window limits nothing"),
        ("utc_offset", "utc_offest", "did you mean 'utc_offset'?"),
        ("[[speed.window]]", "[speed.window]", "two brackets"),
    ],
)  # fmt: skip
def test_mistakes_are_named(tmp_path: Path, wrong: str, right: str, said: str) -> None:
    assert wrong in WINDOW
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, WINDOW.replace(wrong, right))
    assert said in str(caught.value)


def test_a_mistake_in_a_window_has_its_line(tmp_path: Path) -> None:
    text = BASE + WINDOW.replace('"22:00"', '"25:00"')
    line = 1 + text.splitlines().index('from = "25:00"')
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, WINDOW.replace('"22:00"', '"25:00"'))
    assert f"coordinator.toml:{line}:" in str(caught.value)


def test_how_many_returns_escalate_is_configured(tmp_path: Path) -> None:
    assert load(tmp_path, "").fleet.recurrence_max == 3


def test_the_schedule_of_the_readme_is_one(tmp_path: Path) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    (example,) = [text for text in re.findall(r"```toml\n(.*?)```", readme, re.DOTALL) if "[speed]" in text]
    speed = load(tmp_path, example).fleet.speed
    assert speed.fleet_bytes_s == 20_000_000
    (window,) = speed.windows
    assert (window.days, window.fleet_bytes_s) == ((0, 1, 2, 3, 4, 5, 6), None)
