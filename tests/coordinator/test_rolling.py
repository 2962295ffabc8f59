"""Large changes that roll over a fleet: counted as a whole they are judged as they are path by path, and in slices."""

from __future__ import annotations

import asyncio
import random
from types import SimpleNamespace

import pytest

from closeranks_coordinator import slices
from closeranks_coordinator.core import history, rolling
from closeranks_coordinator.core.history import TruthHistory
from closeranks_coordinator.core.truth import SLICE_KEYS, Differ
from closeranks_coordinator.slices import SLICE_S, Slice
from closeranks_proto.digests import XXH3_128
from closeranks_proto.tree import Tree
from fakeworld import FakeWorld, file_of
from fakeworld.world import SOME_FILES, key_of, volume_config

NAMES = tuple(f"node-{number:02}" for number in range(1, 9))


def story(seed: int) -> list[str]:
    """What a fleet tells while versions roll over it, meet, stall, and rogues write in between."""
    rng = random.Random(seed)
    config = volume_config(settle_s=3.0, settle_max_s=20.0, on_divergence="alert", on_lag="wait")
    world = FakeWorld(NAMES, [config]).started()
    at = 0.0
    for version in range(3):
        holders = rng.sample(NAMES, rng.choice((2, 3, 5, 8)))
        paths = rng.sample([key.decode().replace("\0", "/") for key in SOME_FILES], rng.choice((1, 3, 5)))
        for name in holders:
            at += rng.choice((0.0, 0.7, 1.5, 2.5))

            def change(name: str = name, paths: list[str] = paths, version: int = version) -> None:
                for path in paths:
                    world[name].write("photos", path, file_of(f"version {version}"))
                if rng.random() < 0.2:
                    world[name].write("photos", rng.choice(paths), file_of(f"{name} alone"))

            world.later(at, change)
        at += rng.choice((0.0, 1.0, 6.0))
    world.run(at + 30)
    found = [
        f"{one.kind} {one.node} {one.opened_at} {[path.path for path in one.paths]}"
        for one in world.incidents()
    ]
    return [*world.told, *found]


@pytest.mark.parametrize("seed", range(25))
def test_what_is_counted_as_a_whole_is_judged_as_if_it_were_counted_path_by_path(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = story(seed)
    monkeypatch.setattr(rolling, "_spread_whole", lambda *_: False)
    assert whole == story(seed)


def trees(files: int) -> tuple[Differ, bytes, bytes]:
    objects: dict[bytes, bytes] = {}
    tree = Tree(XXH3_128, objects.__getitem__)
    roots: list[bytes] = []
    for salt in ("old", "new"):
        made = tree.build((key_of(f"f{number:06}"), file_of(f"{salt} {number}")) for number in range(files))
        objects.update(made.pages)
        roots.append(made.root)
    return Differ(tree), roots[0], roots[1]


def test_a_large_difference_is_found_out_in_slices_and_known_afterwards() -> None:
    files = 3 * SLICE_KEYS + 7
    differ, old, new = trees(files)
    assert sum(1 for _ in differ.foresee(new, old)) == 3
    found = differ.diff(new, old)
    assert len(found) == files
    differ.tree = Tree(XXH3_128, lambda digest: pytest.fail("no page is read again"))
    assert differ.diff(new, old) is found
    assert len(differ.diff(old, new)) == files
    assert list(differ.foresee(new, old)) == []
    assert list(differ.foresee(old, new)) == []


def test_a_small_difference_is_left_to_the_step() -> None:
    differ, old, new = trees(20)
    assert list(differ.foresee(new, old)) == []
    assert differ._memo == {}
    assert list(differ.foresee(new, new)) == []


def test_a_step_larger_than_the_whole_past_leaves_what_forgetting_it_would(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    differ, old, new = trees(300)
    monkeypatch.setattr(history, "HISTORY_MAX_BYTES", 50_000)
    gone_through = TruthHistory(differ, [], 0.0)
    gone_through.move(old, 0.0)
    with monkeypatch.context() as patched:
        patched.setattr(history, "CHANGE_BYTES", 180)  # not seen to be too large before it is gone through
        gone_through.move(new, 0.0)
    passed_over = TruthHistory(differ, [], 0.0)
    passed_over.move(old, 0.0)
    monkeypatch.setattr(passed_over, "_add", lambda *_: pytest.fail("it was gone through"))
    passed_over.move(new, 0.0)
    assert passed_over.roots == gone_through.roots == [(2, new)]
    assert (passed_over.bytes, passed_over._index(), passed_over._steps) == (0, {}, {})
    assert (gone_through.bytes, gone_through._index(), gone_through._steps) == (0, {}, {})


async def test_work_in_slices_lets_others_have_their_turn_and_short_work_goes_on_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr(slices, "time", SimpleNamespace(monotonic=lambda: now))
    turns: list[float] = []
    piece = Slice()
    for _ in range(10):
        asyncio.get_running_loop().call_soon(lambda: turns.append(now))
        await piece.give()
    assert turns == []
    now += 2 * SLICE_S
    await piece.give()
    assert turns == [now] * 10
