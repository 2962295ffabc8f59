"""What operators say of scrubs, how nodes hear of it, and what becomes of a file that a scrub found decayed."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import pytest

from closeranks_coordinator.core.model import Connected, RootStored, ScrubAsked
from closeranks_coordinator.core.shapes import ScrubView
from closeranks_coordinator.runtime import volume_settings
from closeranks_proto import messages as wire
from closeranks_proto.digests import XXH3_128
from closeranks_proto.entries import decode_entry, encode_entry
from fakeworld import FakeWorld, file_of
from fakeworld.world import SOME_FILES, key_of, volume_config

NAMES = ("node-01", "node-02", "node-03")
MB = 1_000_000


def words(world: FakeWorld, node: str) -> list[tuple[bool, bool, int | None]]:
    found = world.sent(node, wire.Scrub)
    return [(one.now, one.paused, one.bytes_s) for one in found if isinstance(one, wire.Scrub)]


@pytest.fixture
def world() -> FakeWorld:
    return FakeWorld(NAMES).started()


def test_where_nobody_said_anything_nothing_is_sent(world: FakeWorld) -> None:
    world.run(5)
    assert all(words(world, name) == [] for name in NAMES)


def test_a_word_reaches_all_or_one_and_every_later_session(world: FakeWorld) -> None:
    world.ask(ScrubAsked(None, paused=True))
    world.ask(ScrubAsked("node-02", bytes_s=5 * MB))
    world.run(1)
    assert words(world, "node-01") == [(False, True, None)]
    assert words(world, "node-02") == [(False, True, None), (False, True, 5 * MB)]
    world["node-02"].drop(0.5)
    world.run(3)
    assert words(world, "node-02")[-1] == (False, True, 5 * MB)
    world.restart()
    world.run(3)
    assert words(world, "node-01") == [(False, True, None)] * 2


def test_what_is_said_of_all_reaches_those_that_have_a_word_of_their_own(world: FakeWorld) -> None:
    world.ask(ScrubAsked("node-02", bytes_s=5 * MB))
    world.ask(ScrubAsked(None, paused=True))
    world.run(1)
    assert words(world, "node-02")[-1] == (False, True, 5 * MB)
    world.ask(ScrubAsked(None, auto=True, paused=False))
    world.run(1)
    assert [words(world, name)[-1] for name in NAMES] == [(False, False, None)] * 3


def test_now_is_an_order_and_ends_a_pause_and_is_not_repeated(world: FakeWorld) -> None:
    world.ask(ScrubAsked("node-01", paused=True))
    assert isinstance(world.ask(ScrubAsked("node-01", now=True)), ScrubView)
    world.run(1)
    assert words(world, "node-01") == [(False, True, None), (True, False, None)]
    world["node-01"].drop(0.5)
    world.run(3)
    assert words(world, "node-01")[2:] == []


@pytest.mark.parametrize(
    ("asked", "refusal"),
    [
        (ScrubAsked("node-09", now=True), "404 unknown_node"),
        (ScrubAsked(None, bytes_s=10), "400 bad_speed"),
        (ScrubAsked(None, bytes_s=2**60), "400 bad_speed"),
    ],
)
def test_what_can_not_be_is_refused(world: FakeWorld, asked: ScrubAsked, refusal: str) -> None:
    assert world.ask(asked) == refusal
    assert all(words(world, name) == [] for name in NAMES)


def test_now_needs_somebody_who_hears_it(world: FakeWorld) -> None:
    world["node-01"].stop()
    world.run(1)
    assert world.ask(ScrubAsked("node-01", now=True)) == "503 node_unreachable"
    assert isinstance(world.ask(ScrubAsked("node-01", paused=True)), ScrubView)


def test_ages_become_moments_by_the_coordinators_clock(world: FakeWorld) -> None:
    state = wire.ScrubState(
        "running", True, 3, 5, 300, 500, 7, 1, 0, 1000, None, 90_000, 20 * MB, 200
    )  # fmt: skip
    status = wire.VolumeStatus("photos", None, 5, 5, 0, (), 0, 10**9, 10**8, 5, scrub=state)
    world["node-01"]._say(status)
    arrived_ms = world.now().wall_ms
    world.run(30)
    found = world.volume("node-01")
    assert found.last_scrub is None
    assert (found.scrub.files, found.scrub.debt_bytes, found.scrub.decayed) == (3, 7, 1)
    oldest = datetime.fromisoformat(found.scrub.oldest_unverified).timestamp() * 1000
    assert oldest == pytest.approx(arrived_ms - 90_000, abs=1)
    asked = world.ask(ScrubAsked("node-01", bytes_s=MB))
    assert isinstance(asked, ScrubView)
    assert [(one.node, one.said_bytes_s) for one in asked.nodes] == [("node-01", MB)]


# --- decay ---------------------------------------------------------------------------------------


def decay(world: FakeWorld, node: str, path: str) -> None:
    """The node's scrub commits other bytes of a file."""
    world[node].disk["photos"][key_of(path)] = file_of("decayed")
    world[node]._stream("photos", "scrub")


def test_decay_is_named_and_resynced_like_any_divergence(world: FakeWorld) -> None:
    decay(world, "node-02", "a/one.jpg")
    world.until(lambda: bool(world.incidents("divergence", "closed")), 60)
    (incident,) = world.incidents("divergence")
    assert (incident.node, [one.path for one in incident.paths]) == ("node-02", ["a/one.jpg"])
    assert any("found by a scrub" in str(hand) for hand in incident.writers)
    world.until(world.in_rank)
    assert world["node-02"].disk["photos"] == SOME_FILES


@pytest.mark.parametrize("heard", [True, False])
def test_a_writers_decay_is_no_change_of_its_own_where_all_is_told_anew(heard: bool) -> None:
    """Its journal gave way to one announcement before the scrub's step was heard of."""
    config = volume_config(policy="any-writer", writers=NAMES, nodes=NAMES)
    world = FakeWorld(NAMES, [config]).started()
    node, path = world["node-01"], key_of("a/one.jpg")
    before = node.disk["photos"][path]
    if (
        not heard
    ):  # what has decayed was its own change, of which nobody knew yet: what is left of that is its change
        before = file_of("written by node-01")
    node.disk["photos"] |= {path: file_of("decayed"), key_of("c.txt"): file_of("written")}
    root = world.plant(node.disk["photos"])
    world.node_roots["node-01", "photos"] = root
    world.event(RootStored("node-01", "photos", root, "scan", world.mono, decayed=((path, before),)))
    world.run(0.2)  # two paths at once wait for a moment
    world.until(world.in_rank)
    for name in NAMES:
        found = world[name].disk["photos"]
        assert found[key_of("c.txt")] == file_of("written"), "what it wrote is the truth"
        assert found[path] == (SOME_FILES[path] if heard else file_of("decayed"))


@pytest.mark.parametrize("changed", [False, True])
@pytest.mark.parametrize("policy", ["writers", "any-writer"])
def test_a_truth_is_not_founded_on_what_is_known_to_be_rot(policy: str, changed: bool) -> None:
    """The coordinator has lost its state, and hears of the writer first. What it wrote since it told counts, too."""
    writers = NAMES[:1] if policy == "writers" else NAMES
    world = FakeWorld(NAMES, [volume_config(policy=policy, writers=writers, nodes=NAMES)])
    writer, path, other = world["node-01"], key_of("a/one.jpg"), key_of("c.txt")
    writer.disk["photos"][path] = file_of("decayed")
    writer.session = world.new_session()
    world.event(Connected("node-01", writer.session, writer.agent_id, "node-01:7342", 0, None, ("photos",)))
    root = world.node_roots["node-01", "photos"] = world.plant(writer.disk["photos"])
    told = RootStored("node-01", "photos", root, "scan", world.mono, decayed=((path, SOME_FILES[path]),))
    world.event(told)
    if changed:
        writer.disk["photos"][other] = file_of("written")
    writer.start()
    world.run(1)
    world.start(*NAMES[1:])
    world.until(lambda: world.in_rank() and writer.disk["photos"][path] == SOME_FILES[path], 60)
    for name in NAMES:
        files = world[name].disk["photos"]
        assert (files[path], [one for one in files if b"conflict" in one and b"one" in one]) == (
            SOME_FILES[path],
            [],
        )
    if policy == "writers" and changed:
        assert world["node-02"].disk["photos"][other] == file_of("written")


def test_decay_that_is_told_anew_with_another_mode_does_not_replace_good_copies() -> None:
    """The writer had changed the mode before, and nobody had heard of that either: the content was the truth's."""
    world = FakeWorld(NAMES, [volume_config(policy="any-writer", writers=NAMES, nodes=NAMES)]).started()
    node, path = world["node-01"], key_of("a/one.jpg")
    before = encode_entry(replace(decode_entry(SOME_FILES[path], XXH3_128.width), mode=0o600))
    node.disk["photos"][path] = file_of("decayed")
    root = world.plant(node.disk["photos"])
    world.node_roots["node-01", "photos"] = root
    world.event(RootStored("node-01", "photos", root, "scan", world.mono, decayed=((path, before),)))
    world.until(lambda: world.in_rank() and node.disk["photos"][path] == SOME_FILES[path])
    assert [world[name].disk["photos"] for name in NAMES] == [SOME_FILES] * len(NAMES)


def moved_and_spoilt(world: FakeWorld, old: str, new: str) -> None:
    """node-01 renames a file, its disk spoils it, and both is heard of at once: all is told anew."""
    node = world["node-01"]
    before = node.disk["photos"].pop(key_of(old))
    node.disk["photos"][key_of(new)] = file_of("decayed")
    root = world.node_roots["node-01", "photos"] = world.plant(node.disk["photos"])
    told = RootStored("node-01", "photos", root, "scan", world.mono, decayed=((key_of(new), before),))
    world.event(told)


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("policy", ["writers", "any-writer"])
def test_what_a_writer_moved_and_its_disk_spoilt_then_is_moved_as_it_was(policy: str, again: bool) -> None:
    """The others have it under the old name, and whatever a new process has to know of that was kept."""
    writers = NAMES[:1] if policy == "writers" else NAMES
    world = FakeWorld(NAMES, [volume_config(policy=policy, writers=writers, nodes=NAMES)]).started()
    good = SOME_FILES[key_of("a/one.jpg")]
    moved_and_spoilt(world, "a/one.jpg", "moved.jpg")
    if again:
        world.restart()
    world.until(lambda: world.in_rank() and world["node-01"].disk["photos"].get(key_of("moved.jpg")) == good)
    for name in NAMES:
        files = world[name].disk["photos"]
        assert (files[key_of("moved.jpg")], key_of("a/one.jpg") in files) == (good, False)
        assert file_of("decayed") not in files.values()
    pushed = [edit.after for name in NAMES[1:] for one in world.sent(name, wire.Push) for edit in one.edits]
    assert good in pushed, "it is sent to whoever has its content under another name, and needs no source"
    assert not world.incidents("divergence")


def test_a_copy_that_decayed_before_anybody_heard_of_it_is_what_is_left_of_it() -> None:
    """Nobody has other bytes at that name, and the original stays what and where it is."""
    world = FakeWorld(NAMES, [volume_config(policy="any-writer", writers=NAMES, nodes=NAMES)]).started()
    node, good = world["node-01"], SOME_FILES[key_of("a/one.jpg")]
    node.disk["photos"][key_of("copy.jpg")] = file_of("decayed")
    root = world.node_roots["node-01", "photos"] = world.plant(node.disk["photos"])
    told = RootStored("node-01", "photos", root, "scan", world.mono, decayed=((key_of("copy.jpg"), good),))
    world.event(told)
    world.until(lambda: world.in_rank() and key_of("copy.jpg") in world["node-03"].disk["photos"])
    assert world["node-03"].disk["photos"][key_of("a/one.jpg")] == good
    assert world["node-03"].disk["photos"][key_of("copy.jpg")] == file_of("decayed")


def test_what_was_moved_and_spoilt_clashes_as_it_was() -> None:
    """Another writer came first at the new name: beside its version lies what was there, not what became of it."""
    world = FakeWorld(NAMES, [volume_config(policy="any-writer", writers=NAMES, nodes=NAMES)]).started()
    good, new = SOME_FILES[key_of("a/one.jpg")], key_of("moved.jpg")
    world["node-01"].deaf = True
    world["node-02"].put("photos", "moved.jpg", file_of("first"))
    world.until(lambda: world["node-03"].disk["photos"].get(new) == file_of("first"))
    moved_and_spoilt(world, "a/one.jpg", "moved.jpg")
    world["node-01"].deaf = False
    world.until(lambda: world.in_rank() and world["node-01"].disk["photos"][new] == file_of("first"), 60)
    for name in NAMES:
        files = world[name].disk["photos"]
        second = [value for key, value in files.items() if b"conflict-node-01" in key]
        assert (second, file_of("decayed") in files.values()) == ([good], False)


def test_what_decays_after_the_truth_has_its_new_name_is_given_by_who_has_it_under_the_old_one() -> None:
    """Nobody has followed the rename yet, and its writer's scrub has told: each has the content on its own disk."""
    world = FakeWorld(NAMES, [volume_config(policy="any-writer", writers=NAMES, nodes=NAMES)]).started()
    node, good = world["node-01"], SOME_FILES[key_of("a/one.jpg")]
    for name in NAMES[1:]:
        world[name].deaf = True
    node.disk["photos"][key_of("moved.jpg")] = node.disk["photos"].pop(key_of("a/one.jpg"))
    node.scan("photos")
    world.run(0.2)
    decay(world, "node-01", "moved.jpg")
    for name in NAMES[1:]:
        world[name].redial(0.5)
        world[name].deaf = False
    world.until(lambda: world.in_rank() and node.disk["photos"].get(key_of("moved.jpg")) == good, 60)
    assert [world[name].disk["photos"] for name in NAMES] == [node.disk["photos"]] * len(NAMES)


def test_what_has_decayed_twice_is_no_change_either() -> None:
    """The second scrub finds other rot than the first; the entry of before is that of before both."""
    world = FakeWorld(NAMES, [volume_config(policy="any-writer", writers=NAMES, nodes=NAMES)]).started()
    for name in NAMES:
        world[name].deaf = True  # nothing is repaired in between
    decay(world, "node-01", "a/one.jpg")
    world.run(0.5)
    world["node-01"].disk["photos"][key_of("a/one.jpg")] = file_of("decayed again")
    world["node-01"]._stream("photos", "scrub")
    world.run(0.5)
    for name in NAMES:
        world[name].deaf = False
    world.until(world.in_rank, 60)
    assert [world[name].disk["photos"] for name in NAMES] == [SOME_FILES] * len(NAMES)


@pytest.mark.parametrize("anew", [False, True])
def test_what_was_left_of_a_change_decays_again_and_that_is_no_change(anew: bool) -> None:
    """The first rot was all that there was of it, and is the truth. The second one would replace it everywhere."""
    world = FakeWorld(NAMES, [volume_config(policy="any-writer", writers=NAMES, nodes=NAMES)]).started()
    node, path, before = world["node-01"], key_of("a/one.jpg"), file_of("written by node-01")
    for content in ("decayed", "decayed again"):
        node.disk["photos"][path] = file_of(content)
        if content == "decayed" or anew:
            root = world.node_roots["node-01", "photos"] = world.plant(node.disk["photos"])
            world.event(RootStored("node-01", "photos", root, "scan", world.mono, decayed=((path, before),)))
        else:
            node._stream("photos", "scrub")
        world.until(world.in_rank)
    assert [world[name].disk["photos"][path] for name in NAMES] == [file_of("decayed")] * len(NAMES)


def test_what_decayed_unheard_of_and_others_have_moved_meanwhile_is_dropped() -> None:
    """Its content lives on where another writer has moved it: rot beside it is nobody's wish."""
    world = FakeWorld(NAMES, [volume_config(policy="any-writer", writers=NAMES, nodes=NAMES)]).started()
    node, good, new = world["node-01"], SOME_FILES[key_of("a/one.jpg")], key_of("mine.jpg")
    node.stop()
    files = world["node-02"].disk["photos"]
    files[key_of("theirs.jpg")] = files.pop(key_of("a/one.jpg"))
    world["node-02"]._stream("photos", "scan")
    world.until(lambda: key_of("theirs.jpg") in world["node-03"].disk["photos"])
    node.start()
    moved_and_spoilt(world, "a/one.jpg", "mine.jpg")
    world.until(lambda: world.in_rank() and new not in node.disk["photos"], 60)
    for name in NAMES:
        found = world[name].disk["photos"]
        assert (found.get(key_of("theirs.jpg")), new in found) == (good, False)
    assert any("its disk spoilt it before anybody had it" in line for line in world.logs)


def test_what_is_known_to_be_rot_is_known_to_a_new_process_that_has_yet_to_found() -> None:
    """It waits for the others; the announcement was acknowledged, and is not told again."""
    world = FakeWorld(NAMES, [volume_config(policy="writers", writers=NAMES[:1], nodes=NAMES)])
    writer, path = world["node-01"], key_of("a/one.jpg")
    writer.disk["photos"][path] = file_of("decayed")
    writer.session = world.new_session()
    world.event(Connected("node-01", writer.session, writer.agent_id, "node-01:7342", 0, None, ("photos",)))
    root = world.node_roots["node-01", "photos"] = world.plant(writer.disk["photos"])
    told = RootStored("node-01", "photos", root, "scan", world.mono, decayed=((path, SOME_FILES[path]),))
    world.event(told)
    writer.stop()
    world.restart()
    world.start(*NAMES)
    world.until(lambda: world.in_rank() and writer.disk["photos"][path] == SOME_FILES[path], 60)
    assert [world[name].disk["photos"][path] for name in NAMES] == [SOME_FILES[path]] * len(NAMES)


def truth_of(world: FakeWorld) -> str | None:
    return world.fleet.fleet_view(world.now()).volumes[0].truth_root


@pytest.mark.parametrize("writers", [("node-01",), ("node-01", "node-02", "node-03")])
def test_a_writers_decayed_file_is_no_change_of_its_own(writers: tuple[str, ...]) -> None:
    policy = "writers" if len(writers) == 1 else "any-writer"
    config = volume_config(policy=policy, writers=writers, nodes=NAMES)
    world = FakeWorld(NAMES, [config]).started()
    truth = truth_of(world)
    decay(world, "node-01", "a/one.jpg")
    world.run(0.5)
    assert truth_of(world) == truth
    world.until(world.in_rank)
    assert [world[name].disk["photos"] for name in NAMES] == [SOME_FILES] * 3
    assert not world.incidents("divergence"), "nobody is accused"
    world["node-01"].write("photos", "a/one.jpg", file_of("meant"))
    world.until(lambda: world["node-03"].disk["photos"][key_of("a/one.jpg")] == file_of("meant"))


def test_settings_reach_the_agents(world: FakeWorld) -> None:
    config = replace(world.config.volumes[0], scrub_interval_s=5.0, scrub_bytes_s=None, scrub_files_s=3)
    found = volume_settings(config)
    assert (found.scrub_interval_s, found.scrub_bytes_s, found.scrub_files_s) == (5.0, None, 3)
