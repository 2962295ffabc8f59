"""In a large fleet what follows from events is gathered; nothing overtakes a judgement that it stands on."""

from __future__ import annotations

import random

import pytest

from closeranks_coordinator.core import presence
from closeranks_coordinator.core.fleet import Fleet
from closeranks_coordinator.core.model import (
    Connected,
    Disconnected,
    Event,
    FromAgent,
    Now,
    Persist,
    QuarantineAsked,
    Refusal,
    ReleaseAsked,
    RootStored,
    Scanned,
    Send,
    Step,
    WakeAt,
    Watched,
)
from closeranks_coordinator.core.pace import PAUSE_S_A_NODE, PROMPT_NODES, Pace
from closeranks_proto import messages as wire
from closeranks_proto.digests import XXH3_128
from fakeworld import FakeWorld, file_of, key_of
from fakeworld.world import volume_config
from forest.store import Forest

LARGE = PROMPT_NODES + 1
NAMES = [f"node-{number:03d}" for number in range(LARGE)]
PAUSE_S = LARGE * PAUSE_S_A_NODE
ROOT = b"r" * 16


class Large:
    """A fleet of LARGE nodes that takes events by hand."""

    def __init__(self, on_divergence: str = "alert") -> None:
        self.forest = Forest()
        self.root = self.forest.plant({key_of("a"): file_of("a"), key_of("b"): file_of("b")})
        self.mono = 100.0
        self.config = FakeWorld(NAMES, [volume_config(on_divergence=on_divergence)]).config
        self.records: dict[tuple[str, str], bytes | None] = {}
        self.fleet = self.after_a_crash()

    def after_a_crash(self) -> Fleet:
        """A core from what is durable."""
        records = [(kind, key, blob) for (kind, key), blob in self.records.items() if blob is not None]
        return Fleet(self.config, XXH3_128, self.forest.source, records, self.now(), random.Random(1))

    def now(self) -> Now:
        return Now(self.mono, 1_700_000_000_000 + int(self.mono * 1000))

    def take(self, event: Event, after_s: float = 0.0) -> Step:
        self.mono += after_s
        step = self.fleet.step(self.now(), event)
        for effect in step.effects:
            if isinstance(effect, Persist):
                self.forest.objects.update(effect.objects)
                self.records.update({(kind, key): blob for kind, key, blob in effect.records})
        return step

    def join(self, name: str) -> list[Step]:
        return [
            self.take(Connected(name, f"s-{name}", f"id-{name}", f"{name}:7342", 0, None, ("photos",))),
            self.take(RootStored(name, "photos", self.root, "scan", self.mono)),
            self.take(Scanned(name, "photos", self.mono)),
        ]

    def join_all(self) -> None:
        for name in NAMES:
            self.join(name)
        self.take(Watched(NAMES[0], "photos", self.mono), 10 * PAUSE_S)
        self.take(Watched(NAMES[0], "photos", self.mono), 10 * PAUSE_S)

    def states(self) -> set[str]:
        return {node.state for node in self.fleet.fleet_view(self.now()).nodes}


def test_events_of_one_moment_are_followed_once_and_the_core_asks_to_be_woken_for_it() -> None:
    large = Large()
    large.take(Watched(NAMES[0], "photos", large.mono))  # follows, and begins the pause
    steps = [step for name in NAMES for step in large.join(name)]
    wakes = [effect.mono for step in steps for effect in step.effects if isinstance(effect, WakeAt)]
    assert wakes
    assert min(wakes) == pytest.approx(large.mono + PAUSE_S)
    assert large.states() == {"joining"}
    large.take(Watched(NAMES[0], "photos", large.mono), PAUSE_S)
    assert large.states() == {"in_rank"}


def test_an_operator_does_not_wait() -> None:
    large = Large()
    large.join_all()
    large.take(Watched(NAMES[0], "photos", large.mono))
    large.take(QuarantineAsked(NAMES[3], "a person"))
    assert large.fleet.state(large.now(), NAMES[3]) == "quarantined"


def test_an_operator_is_answered_by_what_is_judged() -> None:
    large = Large()
    large.join_all()
    large.take(QuarantineAsked(NAMES[3], "a person"))
    stray = large.forest.edit(large.root, {key_of("stray"): file_of("stray")})
    large.take(RootStored(NAMES[3], "photos", stray, "watch", large.mono))
    answer = large.take(ReleaseAsked(NAMES[3])).answer
    assert isinstance(answer, Refusal)
    assert answer.code == "not_verified"
    assert large.fleet.state(large.now(), NAMES[3]) == "quarantined"


def test_the_next_root_of_a_node_waits_for_the_judgement_of_the_last() -> None:
    """A file that was there for one commit was there: its clock has run."""
    large = Large()
    large.join_all()
    stray = large.forest.edit(large.root, {key_of("stray"): file_of("stray")})
    large.take(RootStored(NAMES[5], "photos", stray, "watch", large.mono))
    seen = large.fleet.node_view(large.now(), NAMES[5])
    assert seen is not None
    assert seen.volumes[0].differing_paths == 0, "not judged yet"
    more = large.forest.edit(stray, {key_of("more"): file_of("more")})
    large.take(RootStored(NAMES[5], "photos", more, "watch", large.mono))
    seen = large.fleet.node_view(large.now(), NAMES[5])
    assert seen is not None
    assert seen.volumes[0].differing_paths == 1, "the first of the two roots was judged"
    large.take(Watched(NAMES[0], "photos", large.mono), PAUSE_S)
    seen = large.fleet.node_view(large.now(), NAMES[5])
    assert seen is not None
    assert seen.volumes[0].differing_paths == 2


def test_a_root_is_not_durable_before_it_was_judged() -> None:
    """A crash in between would leave a root of which nobody knows that a push of ours made it."""
    large = Large()
    large.join_all()
    name = NAMES[5]

    def known(fleet: Fleet) -> str | None:
        seen = fleet.node_view(large.now(), name)
        assert seen is not None
        return seen.volumes[0].root

    pushed = large.forest.edit(large.root, {key_of("pushed"): file_of("pushed")})
    step = large.take(RootStored(name, "photos", pushed, "push", large.mono))
    assert step.unjudged == {name}
    other = large.take(Watched(NAMES[0], "photos", large.mono))
    assert other.unjudged == {name}, "until it is judged, whatever else happens"
    assert known(large.fleet) == pushed.hex()
    assert known(large.after_a_crash()) == large.root.hex(), "the agent tells it again, and why"
    judged = large.take(Watched(NAMES[0], "photos", large.mono), PAUSE_S)
    assert judged.unjudged == frozenset()
    assert known(large.after_a_crash()) == pushed.hex()


def test_a_fence_is_durable_before_it_is_sent_also_when_the_next_root_brings_it() -> None:
    """The judgement of the last root fences the node, and the root that asked for it makes it unjudged again."""
    large = Large("quarantine")
    large.join_all()
    name, settle_s = NAMES[5], large.config.volumes[0].settle_s
    stray = large.forest.edit(large.root, {key_of("stray"): file_of("stray")})
    large.take(RootStored(name, "photos", stray, "watch", large.mono), 2 * PAUSE_S)
    large.mono += settle_s + PAUSE_S / 2
    for watched in NAMES:  # the first is followed a moment too early, the rest in its pause
        large.take(Watched(watched, "photos", large.mono))
    more = large.forest.edit(stray, {key_of("more"): file_of("more")})
    large.take(RootStored(name, "photos", more, "watch", large.mono))
    assert large.states() == {"in_rank"}
    root = large.forest.edit(more, {key_of("last"): file_of("last")})
    step = large.take(RootStored(name, "photos", root, "watch", large.mono))
    messages = [one.message for one in step.effects if isinstance(one, Send)]
    assert [one for one in messages if isinstance(one, wire.Fence)], (
        "by the judgement that this root waited for"
    )
    assert step.unjudged == {name}
    assert isinstance(step.effects[0], Persist)
    assert [isinstance(one, Persist) for one in step.effects].count(True) == 1
    back = large.after_a_crash()
    seen = back.node_view(large.now(), name)
    assert seen is not None
    assert seen.quarantine is not None, "the fence was sent"
    assert seen.volumes[0].root == more.hex(), "the root that came with it waits"
    large.take(Watched(NAMES[0], "photos", large.mono), PAUSE_S)
    seen = large.after_a_crash().node_view(large.now(), name)
    assert seen is not None
    assert (seen.quarantine is not None, seen.volumes[0].root) == (True, root.hex())
    assert step.judged_first, "the receipt of the root before is given with the fence"


def test_a_session_that_comes_or_goes_waits_for_the_judgement_of_the_last_root() -> None:
    large = Large()
    large.join_all()
    for event in (
        Disconnected(NAMES[5], f"s-{NAMES[5]}"),
        Connected(NAMES[5], "s-2", f"id-{NAMES[5]}", "a:7342", 0, None, ("photos",)),
    ):
        more = large.forest.edit(large.root, {key_of("stray"): file_of(type(event).__name__)})
        assert large.take(RootStored(NAMES[5], "photos", more, "watch", large.mono)).unjudged == {NAMES[5]}
        assert large.take(event).unjudged == frozenset()


@pytest.mark.parametrize(
    ("message", "first"),
    [
        (wire.PushResult("photos", 1, 1, 0, 0, 0, 0, "", None), True),
        (wire.Activity(1000, (), (), ()), False),
        (wire.VolumeStatus("photos", None, 1, 1, 1, (), 0, 1, 1, None), False),
    ],
)
def test_an_answer_to_an_order_comes_behind_the_root_that_the_order_made(
    message: wire.PushResult | wire.Activity | wire.VolumeStatus, first: bool
) -> None:
    pace = Pace()
    pace.due(RootStored("a", "photos", ROOT, "push", 0.0), 0.0, LARGE)
    assert pace.must_follow_first(FromAgent("a", message)) is first
    assert not pace.must_follow_first(FromAgent("b", message))
    pace.followed(1.0, LARGE)
    assert not pace.must_follow_first(FromAgent("a", message))


def test_a_small_fleet_follows_every_event_at_once() -> None:
    pace = Pace()
    pace.followed(1.0, PROMPT_NODES)
    assert pace.due(Watched("a", "photos", 1.0), 1.0, PROMPT_NODES) == 1.0
    assert pace.due(Watched("a", "photos", 1.0), 1.0, LARGE) > 1.0


def test_a_large_fleet_is_told_of_addresses_together_and_of_a_fence_at_once() -> None:
    large = Large()
    for name in NAMES[:-1]:
        large.join(name)
    large.take(Watched(NAMES[0], "photos", large.mono), 1.0)  # everybody is told now
    late = NAMES[-1]
    told = [one for step in large.join(late) for one in step.effects if isinstance(one, Send)]
    told += [
        one
        for one in large.take(Watched(late, "photos", large.mono), 2 * PAUSE_S).effects
        if isinstance(one, Send)
    ]
    assert {one.node for one in told if isinstance(one.message, wire.Membership)} == {late}
    wait_s = LARGE * LARGE * presence.TELL_S_A_PAIR
    everybody = large.take(Watched(NAMES[0], "photos", large.mono), wait_s).effects
    members = [one for one in everybody if isinstance(one, Send) and isinstance(one.message, wire.Membership)]
    assert len(members) == LARGE
    assert len({id(one.message) for one in members}) == 1, "one message, which is encoded once"
    fenced = large.take(QuarantineAsked(NAMES[3], "a person")).effects
    assert sum(isinstance(one, Send) and isinstance(one.message, wire.Membership) for one in fenced) == LARGE


def test_a_step_that_takes_longer_than_the_pause_is_not_followed_by_the_next_one_at_once() -> None:
    """Else a fleet whose steps are long would do nothing but follow, eight events at a time."""
    pace = Pace()
    pace.followed(1.0, LARGE)
    pace.ended(1.0 + 3 * PAUSE_S, LARGE)
    seen = Watched("a", "photos", 1.0)
    assert pace.due(seen, 1.0 + 3 * PAUSE_S, LARGE) == pytest.approx(1.0 + 4 * PAUSE_S)
    pace.ended(2.0, LARGE)  # of a step in which nothing followed
    assert pace.due(seen, 2.0, LARGE) == 2.0
