"""`[guards]` and `[volume.guards]`: defaults, overrides, mistakes, and what check-config says of them."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest

from closeranks_coordinator.config import CoordinatorConfig, load_coordinator_config
from closeranks_coordinator.core.rules import GuardRules
from closeranks_proto.settings import SettingsError

HEAD = """
[coordinator]
state_dir = "/state"
[fleet]
nodes = ["n1", "n2", "n3"]
"""
PHOTOS = """
[[volume]]
name = "photos"
policy = "any-writer"
on_divergence = "resync"
"""
WEB = PHOTOS.replace("photos", "web")


def load(tmp_path: Path, text: str, environ: dict[str, str] | None = None) -> CoordinatorConfig:
    file = tmp_path / "coordinator.toml"
    file.write_text(HEAD + text)
    return load_coordinator_config(file, {}, environ or {})


def rules(config: CoordinatorConfig, volume: str) -> GuardRules:
    return next(one.guards for one in config.fleet.volumes if one.name == volume)


def problems(tmp_path: Path, text: str) -> str:
    with pytest.raises(SettingsError) as error:
        load(tmp_path, text)
    return str(error.value)


def test_guards_are_on_without_a_word(tmp_path: Path) -> None:
    assert rules(load(tmp_path, PHOTOS), "photos") == GuardRules()
    assert GuardRules().enabled


def test_a_volume_overrides_the_defaults_key_by_key(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        "[guards]\ndeleted_share = 0.1\nallow_s = 60\n"
        + PHOTOS + "[volume.guards]\nallow_s = 120\n"
        + WEB,
    )  # fmt: skip
    assert rules(config, "photos") == replace(GuardRules(), deleted_share=0.1, allow_s=120.0)
    assert rules(config, "web") == replace(GuardRules(), deleted_share=0.1, allow_s=60.0)


def test_every_rule_can_be_configured_at_its_default(tmp_path: Path) -> None:
    lines = [
        f"{field.name} = {str(field.default).lower() if isinstance(field.default, bool) else field.default}"
        for field in fields(GuardRules)
    ]
    config = load(tmp_path, "[guards]\n" + "\n".join(lines) + "\n" + PHOTOS)
    assert rules(config, "photos") == GuardRules()


def test_the_environment_stands_above_the_file(tmp_path: Path) -> None:
    config = load(tmp_path, PHOTOS, {"CLOSERANKS_GUARDS_OBSERVE_S": "7"})
    assert rules(config, "photos").observe_s == 7.0
    assert not any("OBSERVE_S" in warning for warning in config.warnings)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "[guards]\ndeleted_share = 20\n" + PHOTOS,
            "coordinator.toml:7: [guards] deleted_share = 20: too large; allowed: a number from 0.001 to 1",
        ),
        ("[guards]\ndeletd_share = 0.2\n" + PHOTOS, "did you mean 'deleted_share'?"),
        ("[guards]\nenabled = 0\n" + PHOTOS, "[guards] enabled = 0: not a boolean"),
        (
            PHOTOS + WEB + "[volume.guards]\nallow_s = 0\n",
            'coordinator.toml:17: [[volume.guards]] "web": allow_s = 0: too small; allowed: a number from 1',
        ),
        (PHOTOS + 'guards = "off"\n', "guards must be a table"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, told: str) -> None:
    assert told in problems(tmp_path, text)


def test_guards_that_are_off_are_warned_about_with_what_it_means(tmp_path: Path) -> None:
    config = load(tmp_path, PHOTOS + "[volume.guards]\nenabled = false\n")
    assert any("reaches every node within a second" in warning for warning in config.warnings)


def test_what_the_guards_hold_is_said_in_words(tmp_path: Path) -> None:
    config = load(tmp_path, PHOTOS + "[volume.guards]\nfreeze = true\nobserve_s = 0\n")
    assert any("20% of its entries deleted or 50% changed within 600 s" in note for note in config.notes)
    assert any("guards.freeze" in note and "[agent.reactions]" in note for note in config.notes)
    assert any("observe_s = 0" in warning for warning in config.warnings)
