"""The table of states."""

from __future__ import annotations

import itertools
from typing import get_args

import pytest

from closeranks_coordinator.core.states import (
    STORY_MAX,
    TRANSITIONS,
    IllegalTransition,
    Phase,
    describe,
    step,
)


def test_every_phase_can_be_entered_and_left() -> None:
    phases = set(get_args(Phase))
    assert {start for start, _ in TRANSITIONS} == phases
    assert {end for _, end in TRANSITIONS} == phases


def test_the_ways_that_the_rules_name_exist() -> None:
    for way in (
        "in_rank suspect quarantined resyncing verifying in_rank",
        "joining resyncing verifying in_rank",
        "lagging resyncing verifying in_rank",
        "quarantined resyncing verifying quarantined in_rank",
    ):
        phases = way.split()
        assert all(pair in TRANSITIONS for pair in itertools.pairwise(phases))


def test_only_a_fence_leads_from_divergence_to_a_repair() -> None:
    assert ("suspect", "resyncing") not in TRANSITIONS
    assert ("suspect", "verifying") not in TRANSITIONS


def test_a_fenced_node_is_never_lagging_or_suspect() -> None:
    assert ("quarantined", "lagging") not in TRANSITIONS
    assert ("quarantined", "suspect") not in TRANSITIONS


def test_an_illegal_step_tells_the_story() -> None:
    with pytest.raises(IllegalTransition, match=r"node-03: suspect to verifying .* joining in_rank suspect"):
        step("node-03", ["joining", "in_rank", "suspect"], "suspect", "verifying")


def test_the_story_is_bounded() -> None:
    story: list[str] = []
    for _ in range(50):
        story = step("n", story, "in_rank", "lagging")
        story = step("n", story, "lagging", "in_rank")
    assert len(story) == STORY_MAX


def test_the_table_is_told_for_people() -> None:
    assert "| `verifying` | `in_rank` | proven and released |" in describe()
