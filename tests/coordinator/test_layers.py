"""A large difference in layers is what a dictionary would be, and a step of it copies its own size."""

from __future__ import annotations

import random
import sys
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from closeranks_coordinator.core import layers
from closeranks_coordinator.core.layers import LAYER_MIN_KEYS, LAYER_SHARE, Layered, Values, changed
from closeranks_coordinator.core.truth import Differ
from fakeworld import FakeWorld, file_of, key_of, volume_config
from fakeworld.trees import tree
from forest.store import Forest, file_value

KEYS = [b"%d" % number for number in range(12)]
STEPS = st.lists(
    st.lists(st.tuples(st.sampled_from(KEYS), st.none() | st.tuples(st.none(), st.binary(max_size=1))), max_size=4),
    max_size=12,
)  # fmt: skip


@settings(deadline=None, max_examples=200, derandomize=True)
@given(STEPS, st.integers(1, 3))
def test_it_is_what_a_dictionary_would_be_and_none_before_it_changes(
    steps: list[list[tuple[bytes, Values | None]]], share: int
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(layers, "LAYER_MIN_KEYS", 1)
        patched.setattr(layers, "LAYER_SHARE", share)
        expected: dict[bytes, Values] = {key: (key, None) for key in KEYS[:8]}
        found = changed({}, list(expected.items()))
        past = [(found, dict(expected))]
        for step in steps:
            found = changed(found, step)
            expected = {key: value for key, value in {**expected, **dict(step)}.items() if value is not None}
            past.append((found, dict(expected)))
    for known, then in past:
        assert (len(known), sorted(known), sorted(known.items())) == (
            len(then),
            sorted(then),
            sorted(then.items()),
        )
        assert sorted(known.values(), key=repr) == sorted(then.values(), key=repr)
        assert known.keys() == then.keys()
        assert known.keys() - {KEYS[0]} == then.keys() - {KEYS[0]}
        for key in KEYS:
            assert (key in known, known.get(key), known.get(key, 1)) == (
                key in then,
                then.get(key),
                then.get(key, 1),
            )
            if key in then:
                assert known[key] == then[key]
            else:
                with pytest.raises(KeyError):
                    known[key]


def test_a_small_difference_and_a_large_step_are_flat_copies() -> None:
    small: dict[bytes, Values] = {b"%d" % number: (None, b"") for number in range(LAYER_MIN_KEYS)}
    one: list[tuple[bytes, Values | None]] = [(b"0", None)]
    assert isinstance(changed(small, one), Layered)
    most: list[tuple[bytes, Values | None]] = [
        (key, None) for key in list(small)[: len(small) // LAYER_SHARE + 1]
    ]
    assert isinstance(changed(small, most), dict)
    del small[b"1"]
    assert isinstance(changed(small, one), dict)


def test_a_step_of_a_large_difference_takes_memory_for_what_it_changes() -> None:
    """Each commit and push of nodes that are 100,000 paths behind copied 5 MB."""
    forest, rng = Forest(), random.Random(1)
    asleep = forest.plant({b"x": file_value(rng)})
    truth = forest.edit(asleep, {b"%06d" % number: file_value(rng) for number in range(20_000)})
    differ = Differ(forest.tree)
    known = differ.diff(asleep, truth)
    taken = []
    for step in range(10):
        after = forest.edit(truth, {b"new %d %d" % (step, number): file_value(rng) for number in range(20)})
        list(differ.diff(truth, after))
        tracemalloc.start()
        try:
            found, _ = differ.follow(known, (asleep, truth), (asleep, after))
            taken.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
        known, truth = found, after
    assert len(known) == 20_200
    assert dict(known) == {one.key: (one.ours, one.theirs) for one in forest.tree.diff(asleep, truth)}
    assert max(taken) < sys.getsizeof(dict(known)) / 10


def test_replicas_far_behind_get_there_through_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "LAYER_MIN_KEYS", 8)
    names = ("node-01", "node-02", "node-03")
    config = volume_config(policy="writers", nodes=names, writers=("node-01",), settle_s=1.0)
    world = FakeWorld(names, [config], {"photos": tree(*(f"a/{number:03}" for number in range(100)))})
    for agent in world.agents.values():
        agent.watches = True
    world.started()
    world["node-03"].disconnect()
    writer = world["node-01"].disk["photos"]
    kinds: set[str] = set()
    for number in range(60):
        world["node-01"].put("photos", f"d{number % 5}/{number}", file_of(number))
        if number % 4 == 0:
            moved = key_of(f"a/{number:03}")
            world["node-01"].put("photos", f"z/{number:03}", writer[moved])
            world["node-01"].write("photos", f"a/{number:03}", None)
        world.run(0.3)
        analysis = world.fleet._world.nodes["node-03"].view("photos").analysis
        kinds.add(type(analysis and analysis.raw).__name__)
    assert kinds == {"dict", "Layered"}
    world["node-03"].connect()
    world.until(lambda: world["node-03"].disk["photos"] == writer)
    assert {one.kind for one in world.incidents()} <= {"outage"}
