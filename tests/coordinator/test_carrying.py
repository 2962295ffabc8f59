"""Contents that came with commits go ahead of the pushes that name them, once for each node, within bounds."""

from __future__ import annotations

import pytest

from closeranks_coordinator.carrying import Carrying
from closeranks_proto import messages as wire
from closeranks_proto.digests import XXH3_128
from closeranks_proto.entries import Entry, Kind, encode_entry
from closeranks_proto.errors import ProtocolError
from closeranks_proto.limits import (
    CARRY_COORDINATOR_BYTES,
    CARRY_FILE_MAX_BYTES,
    CARRY_KEEP_S,
    CARRY_MAX_BYTES,
    CARRY_PASSED_BYTES_S,
)
from closeranks_proto.wire import decode_coordinator_message


def value(body: bytes, size: int | None = None) -> bytes:
    return encode_entry(Entry(Kind.FILE, len(body) if size is None else size, XXH3_128.of(body), 0o644))


def push(*bodies: bytes, number: int = 1) -> wire.Push:
    edits = tuple(wire.PushEdit(b"%04d" % at, None, value(body)) for at, body in enumerate(bodies))
    return wire.Push("photos", number, edits, ())


def carrying(*bodies: bytes, uses: int = 3, now: float = 100.0) -> Carrying:
    made = Carrying(XXH3_128)
    made.keep(wire.Carried("photos", bodies), uses, now)
    return made


def told(frame: bytes | None) -> tuple[bytes, ...]:
    assert frame is not None
    message = decode_coordinator_message(frame)
    assert isinstance(message, wire.Carried)
    return message.bodies


def test_what_is_at_hand_goes_ahead_of_the_push_and_the_rest_does_not() -> None:
    made = carrying(b"one", b"two", b"of another push")
    assert told(made.frame_for(push(b"one", b"unknown", b"two"), 100.0)) == (b"one", b"two")


def test_nodes_that_stand_alike_are_sent_one_frame() -> None:
    made, first = carrying(b"one"), push(b"one")
    frame = made.frame_for(first, 100.0)
    assert made.frame_for(wire.Push("photos", 2, first.edits, ("n2",)), 100.0) is frame


def test_a_body_is_kept_until_every_other_node_was_sent_it() -> None:
    made, same = carrying(b"one", uses=2), push(b"one")
    assert made.frame_for(same, 100.0) is not None
    assert made.frame_for(push(b"one"), 100.0) is not None
    assert made.frame_for(push(b"one"), 100.0) is None


def test_a_fleet_at_rest_keeps_nothing() -> None:
    made = carrying(b"one")
    made.expire(100.0 + CARRY_KEEP_S + 1)
    assert made.frame_for(push(b"one"), 100.0 + CARRY_KEEP_S + 1) is None


def test_a_rename_moves_no_content_although_it_is_at_hand() -> None:
    made = carrying(b"same")
    edits = (wire.PushEdit(b"new", None, value(b"same")), wire.PushEdit(b"old", value(b"same"), None))
    assert made.frame_for(wire.Push("photos", 1, edits, ()), 100.0) is None


def test_a_push_of_much_is_left_to_the_peers() -> None:
    body = bytes(CARRY_FILE_MAX_BYTES)
    made = carrying(body)
    many = CARRY_MAX_BYTES // len(body) + 1
    edits = tuple(wire.PushEdit(b"%04d" % at, None, value(body)) for at in range(many))
    assert made.frame_for(wire.Push("photos", 1, edits, ()), 100.0) is None
    assert made.frame_for(wire.Push("photos", 2, edits[1:], ()), 100.0) is not None


def test_no_more_is_kept_than_the_bound() -> None:
    made = Carrying(XXH3_128)
    for number in range(2 * CARRY_COORDINATOR_BYTES // CARRY_FILE_MAX_BYTES):
        body = b"%08d" % number * (CARRY_FILE_MAX_BYTES // 8)
        made.keep(wire.Carried("photos", (body,)), 3, 100.0)
        assert made._kept.bytes <= CARRY_COORDINATOR_BYTES


def test_no_more_travels_than_the_wire_may_be_asked_for() -> None:
    body = bytes(CARRY_FILE_MAX_BYTES)
    made = carrying(body, uses=10**6)
    same = push(*[body] * (CARRY_MAX_BYTES // len(body)))
    frames = sum(made.frame_for(same, 100.0 + at / 1000) is not None for at in range(2000))
    # One body, named many times, travels once: count what was sent.
    assert frames * len(body) <= 4 * CARRY_MAX_BYTES + 2 * CARRY_PASSED_BYTES_S
    assert frames < 2000


@pytest.mark.parametrize("bodies", [(bytes(CARRY_FILE_MAX_BYTES + 1),), (bytes(CARRY_FILE_MAX_BYTES),) * 65])
def test_more_than_may_travel_with_a_commit_breaks_the_protocol(bodies: tuple[bytes, ...]) -> None:
    with pytest.raises(ProtocolError):
        Carrying(XXH3_128).keep(wire.Carried("photos", bodies), 3, 100.0)
