"""Pushes of the truth's steps: whose doing they are, which answer counts, who is sent none, and in which order."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from closeranks_coordinator.core import pushing
from closeranks_coordinator.core.model import Connected, FromAgent, RootStored, Send, Step
from closeranks_proto import messages as wire
from closeranks_proto.entries import entry_size
from closeranks_proto.limits import PUSH_GOOD_S
from fakeworld import FakeWorld, file_of, key_of, volume_config
from fakeworld.trees import tree

NAMES = ("node-01", "node-02", "node-03")
FILES = tree("a/one.jpg", "c.txt")


def fleet(*more: str, **changes: Any) -> FakeWorld:
    """All nodes write; `more` are files besides, `changes` other settings."""
    asked: dict[str, Any] = {
        "policy": "any-writer",
        "writers": NAMES,
        "settle_s": 1.0,
        "scan_interval_s": 1.0,
        **changes,
    }
    config = volume_config(nodes=NAMES, **asked)
    world = FakeWorld(NAMES, [config], {"photos": {**FILES, **tree(*more)}})
    for agent in world.agents.values():
        agent.watches = True
    return world.started()


def same(world: FakeWorld) -> bool:
    disks = [agent.disk["photos"] for agent in world.agents.values()]
    return all(disk == disks[0] for disk in disks)


def pushes(world: FakeWorld, node: str) -> list[wire.Push]:
    return [one for one in world[node].got if isinstance(one, wire.Push)]


def test_what_a_push_made_is_no_change_though_the_node_tells_of_it_after_it_was_away() -> None:
    """The truth went on to a value and came back. Who was pushed that value, and was cut off, has written nothing."""
    world, key = fleet(), key_of("c.txt")
    node = world["node-03"]
    node.deaf = True
    world["node-01"].put("photos", "c.txt", file_of("pushed"))
    world.until(lambda: bool(pushes(world, "node-03")))
    node.disk["photos"][key] = file_of("pushed")  # made, and the connection broke before it was told
    node.disconnect()
    world["node-01"].put("photos", "c.txt", FILES[key])
    world.run(1)
    node.deaf = False
    node.connect()
    world.until(lambda: same(world) and world.in_rank())
    assert node.disk["photos"][key] == FILES[key]


def test_the_answer_to_an_older_push_does_not_end_the_one_under_way() -> None:
    world = fleet()
    world["node-03"].deaf = True
    world["node-01"].put("photos", "c.txt", file_of("new"))
    world.until(lambda: bool(pushes(world, "node-03")))
    (push,) = pushes(world, "node-03")
    late = wire.PushResult("photos", push.push - 1, 1, 0, 0, 0, 0, "", None)
    world.event(FromAgent("node-03", late))
    world.run(2)
    assert pushes(world, "node-03") == [push]


def test_who_is_converged_is_pushed_nothing_meanwhile() -> None:
    world = fleet()
    node = world["node-03"]
    node.pushes_fail, node.order_s = True, 5.0
    world["node-01"].put("photos", "c.txt", file_of("new"))
    world.until_state("node-03", "resyncing")
    before = len(pushes(world, "node-03"))
    world["node-01"].put("photos", "other.txt", file_of("other"))
    world.run(3)
    assert world.state("node-03") == "resyncing"
    assert len(pushes(world, "node-03")) == before
    node.pushes_fail = False
    world.until(lambda: same(world) and world.in_rank())


def test_bits_that_a_push_withheld_stay_excused_when_a_converge_was_overtaken() -> None:
    """The node keeps no list of what pushes withheld, and the converge that would have told it was cancelled."""
    world = fleet(policy="writers", writers=NAMES[:1])
    node = world["node-03"]
    node.withholds = True
    world["node-01"].put("photos", "c.txt", file_of("tool", mode=0o1777))
    world.until(lambda: world.volume("node-03").withheld == 1 and world.in_rank())
    node.pushes_fail, node.order_s = True, 5.0
    world["node-01"].put("photos", "other.txt", file_of("other"))
    world.until_state("node-03", "resyncing")
    world["node-01"].remove("photos", "other.txt")
    world.until_state("node-03", "verifying")
    node.pushes_fail = False
    world.run(10)
    assert world.in_rank()
    assert world.volume("node-03").withheld == 1
    assert not world.incidents()


def test_bits_that_the_truth_has_given_up_are_excused_no_more() -> None:
    world = fleet(policy="writers", writers=NAMES[:1])
    node = world["node-03"]
    node.withholds = True
    world["node-01"].put("photos", "c.txt", file_of("tool", mode=0o4755))
    world.until(lambda: world.volume("node-03").withheld == 1 and world.in_rank())
    world["node-01"].put("photos", "c.txt", file_of("tool", mode=0o755))
    world.until(lambda: same(world) and world.in_rank())
    node.put("photos", "c.txt", file_of("tool", mode=0o4755))
    world.until_state("node-03", "quarantined")


@pytest.mark.parametrize("becomes_a_file", [False, True])
def test_a_directory_goes_behind_all_that_it_holds(
    becomes_a_file: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large removal takes several pushes: a directory whose files come in a later one could not be removed."""
    monkeypatch.setattr(pushing, "PUSH_MAX_EDITS", 3)
    paths = [f"x/{place}/{number}" for place in "pqr" for number in range(3)]
    world, removed = fleet(*paths), tree(*paths)
    world["node-01"].remove("photos", "x")
    if becomes_a_file:
        world["node-01"].write("photos", "x", file_of("a file now"))
    world.until(lambda: same(world) and world.in_rank())
    sent, gone = pushes(world, "node-03"), set[bytes]()
    assert len(sent) > 3
    for push in sent:
        gone |= {edit.key for edit in push.edits}
        for key in sorted(gone):
            left = [one for one in removed if one.startswith(key + b"\0") and one not in gone]
            assert not left, f"{key!r} goes before {left}"


def overdue(world: FakeWorld) -> None:
    """node-03 was pushed a value and did not answer; the truth came back from it, and another push is sent."""
    node = world["node-03"]
    node.deaf = True
    world["node-01"].put("photos", "c.txt", file_of("pushed"))
    world.until(lambda: bool(pushes(world, "node-03")))
    world["node-01"].put("photos", "c.txt", FILES[key_of("c.txt")])
    world["node-01"].put("photos", "other.txt", file_of("other"))
    world.until(lambda: len(pushes(world, "node-03")) == 2, 2 * PUSH_GOOD_S)
    assert [edit.key for edit in pushes(world, "node-03")[1].edits] == [key_of("other.txt")]


def test_what_the_push_before_the_last_one_made_is_no_change() -> None:
    """It was overdue, and is not forgotten with the next one."""
    world, key = fleet(on_lag="wait"), key_of("c.txt")
    overdue(world)
    node = world["node-03"]
    node.disk["photos"][key] = file_of("pushed")
    node.disconnect()
    node.session, before = world.new_session(), world.node_roots["node-03", "photos"]
    hello = Connected(
        "node-03", node.session, node.agent_id, "node-03:7342", 0, None, ("photos",), ("photos",)
    )
    world.event(hello)  # it has something from before to tell, so it is pushed nothing yet
    world.event(RootStored("node-03", "photos", before, "known", world.mono, heard=False))
    node.scan("photos")
    node.deaf = False
    world.until(lambda: same(world) and world.in_rank(), 120)
    assert node.disk["photos"][key] == FILES[key]


def test_once_a_push_was_answered_what_was_sent_before_it_is_the_nodes_own() -> None:
    """It writes by itself what it was pushed long ago: that is a change."""
    world, key = fleet(on_lag="wait"), key_of("c.txt")
    overdue(world)
    node = world["node-03"]
    node.deaf = False
    node._pushed(pushes(world, "node-03")[1])
    world.until(lambda: same(world) and world.in_rank())
    node.put("photos", "c.txt", file_of("pushed"))
    world.run(2)
    world.until(lambda: same(world) and world.in_rank())
    assert node.disk["photos"][key] == file_of("pushed")


def test_what_a_rogue_has_changed_since_a_push_was_planned_is_not_pushed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The rest of a large push waits for its turn. What differs by the node's own doing then is named instead."""
    monkeypatch.setattr(pushing, "PUSH_MAX_EDITS", 1)
    paths = [f"e/{number}" for number in range(5)]
    world = fleet(*paths, policy="writers", writers=NAMES[:1])
    node = world["node-03"]
    node.push_s = 0.15
    for path in paths:
        world["node-01"].disk["photos"][key_of(path)] = file_of(f"new {path}")
    world["node-01"].write("photos", "e/4", file_of("new e/4"))
    world.until(lambda: bool(pushes(world, "node-03")))
    node.write("photos", "e/2", file_of("rogue"))
    world.until(lambda: bool(world.incidents("divergence")), 20)
    assert world.incidents("divergence")[0].node == "node-03"
    world.until(lambda: same(world) and world.in_rank())


def test_who_has_lost_its_tree_is_no_source() -> None:
    world = fleet()
    world["node-03"].disconnect()
    world["node-01"].put("photos", "new.txt", file_of("new"))
    world.until(lambda: key_of("new.txt") in world["node-02"].disk["photos"])
    world.run(1)
    world["node-02"].problem("photos", "not_mounted")
    world["node-03"].connect()
    world.until(lambda: bool(pushes(world, "node-03")))
    assert pushes(world, "node-03")[0].sources == ("node-01",)


def test_who_waits_for_what_nobody_can_give_is_pushed_all_else_and_not_converged() -> None:
    """No order to converge would bring it either, and while one is under way nothing is pushed."""
    world = fleet()
    writer, node = world["node-01"], world["node-03"]
    writer.put("photos", "lost.txt", file_of("lost"))
    world.until(lambda: bool(pushes(world, "node-03")))
    writer.disconnect()
    world.run(20)
    world["node-02"].put("photos", "other.txt", file_of("other"))
    world.until(lambda: key_of("other.txt") in node.disk["photos"], 2)
    assert world.state("node-03") == "lagging"
    assert not world.sent("node-03", wire.Converge)
    writer.connect()
    world.until(lambda: same(world) and world.in_rank())


def test_who_comes_back_is_pushed_what_it_missed_and_has_its_grace_from_then_on() -> None:
    """It was late all the time that it was away: nobody could have brought it on."""
    world = fleet(lag_grace_s=10.0)
    node = world["node-03"]
    node.disconnect()
    world["node-01"].put("photos", "new.txt", file_of("new"))
    world.run(20)
    node.pushes_fail = True
    node.connect()
    world.run(2)
    assert pushes(world, "node-03")
    node.pushes_fail = False
    world.until(lambda: same(world) and world.in_rank())
    assert not world.sent("node-03", wire.Converge)


@pytest.mark.parametrize("bound", ["FETCH_MAX_BYTES", "PUSH_MAX_BYTES"])
def test_a_push_carries_no_more_than_its_bound_but_for_a_single_file(
    bound: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else one push would keep a node busy, and everything behind it waiting, for hours."""
    most = 1000 if bound == "FETCH_MAX_BYTES" else 200
    monkeypatch.setattr(pushing, bound, most)
    world = fleet()
    writer, node = world["node-01"], world["node-03"]
    for number in range(12):
        writer.disk["photos"][key_of(f"f{number:02}")] = file_of(number, 400)
    writer.write("photos", "large", file_of("large", 5000))
    world.until(lambda: same(world) and world.in_rank())
    sent = pushes(world, "node-03")
    assert len(sent) > 3
    for push in sent:
        if bound == "FETCH_MAX_BYTES":
            size = sum(entry_size(edit.after or b"") for edit in push.edits)
        else:
            size = sum(len(edit.key) + len(edit.after or b"") + pushing.EDIT_BYTES for edit in push.edits)
        assert size <= most or len(push.edits) == 1
    assert node.disk["photos"] == writer.disk["photos"]


def test_no_push_ends_between_a_new_name_and_the_one_that_its_content_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else the file is copied, its old name looked for among all of its directory, and trashed by the next push."""
    monkeypatch.setattr(pushing, "PUSH_MAX_EDITS", 8)
    names = [f"old/{number:02}" for number in range(30)]
    world = fleet(*names)
    writer = world["node-01"]
    for name in names:
        writer.disk["photos"][key_of(f"new/{name[4:]}")] = writer.disk["photos"].pop(key_of(name))
    writer.disk["photos"][b"new"] = writer.disk["photos"].pop(b"old")
    world.until(lambda: same(world) and world.in_rank())
    sent = [push for push in pushes(world, "node-03") if any(b"new" in edit.key for edit in push.edits)]
    assert len(sent) > 7
    for push in sent:
        made = {edit.key[4:] for edit in push.edits if edit.key.startswith(b"new\0")}
        gone = {edit.key[4:] for edit in push.edits if edit.key.startswith(b"old\0")}
        assert made == gone


def test_every_push_has_a_number_of_its_own() -> None:
    """By it an answer is known for that of the push under way."""
    world = fleet()
    for number in range(3):
        world["node-01"].put("photos", "c.txt", file_of(number))
        world.until(lambda: same(world) and world.in_rank())
    for name in NAMES[1:]:
        numbers = [push.push for push in pushes(world, name)]
        assert len(numbers) >= 3
        assert numbers == sorted(set(numbers))


def test_pushes_that_fail_come_less_and_less_often_and_never_end() -> None:
    world = fleet(on_lag="wait")
    node = world["node-03"]
    node.pushes_fail = True
    world["node-01"].put("photos", "c.txt", file_of("new"))
    times: list[float] = []

    def noted(_event: object, step: Step) -> None:
        times.extend(
            world.mono
            for one in step.effects
            if isinstance(one, Send) and isinstance(one.message, wire.Push) and one.node == "node-03"
        )

    world.after_step.append(noted)
    world.run(300)
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert pauses[0] < 2.0
    assert pauses[3] > pauses[0]
    assert max(pauses) <= pushing.RETRY_MAX_S + 2.0
    assert 300 / (pushing.RETRY_MAX_S + 2.0) <= len(times) < 60
    node.pushes_fail = False
    world.until(lambda: same(world) and world.in_rank(), 120)


def test_why_one_path_does_not_get_to_a_node_is_said_while_others_do() -> None:
    """It makes progress with the others, so it is never converged, which would say it."""
    world = fleet(lag_grace_s=10.0)
    late = world["node-03"]
    late.unmakeable = {key_of("immutable")}
    world["node-01"].put("photos", "immutable", file_of("new"))

    def go_on(seconds: int) -> None:
        for turn in range(seconds):
            world["node-01"].put("photos", "c.txt", file_of(turn))
            world.run(1.0)

    go_on(5)
    assert world.view("node-03").waiting is None, "whoever is late for some seconds has no trouble"
    go_on(15)
    assert world.view("node-03").waiting == "photos: no"
    late.unmakeable = set()
    world.until(lambda: same(world) and world.in_rank())
    assert world.view("node-03").waiting is None
