"""Frames carry every message unchanged, and what is no message costs an error and no memory."""

from __future__ import annotations

import random
import tracemalloc
import typing

import msgpack
import pytest

from closeranks_proto.errors import CodecError
from closeranks_proto.limits import FRAME_MAX_ITEMS, MAX_FRAME_BYTES, MAX_TEXT_BYTES
from closeranks_proto.messages import (
    Ack,
    Activity,
    AgentMessage,
    Commit,
    CoordinatorMessage,
    Edit,
    Goodbye,
    Message,
    Objects,
    Want,
)
from closeranks_proto.wire import (
    decode_agent_message,
    decode_coordinator_message,
    encode_message,
    tells_activity,
    unpack_bounded,
)
from forest.samples import message_types, sample

TYPES = message_types()
DECODERS = {
    decode_agent_message: set(typing.get_args(AgentMessage)),
    decode_coordinator_message: set(typing.get_args(CoordinatorMessage)),
}


def refused(frame: bytes) -> None:
    for decode in DECODERS:
        with pytest.raises(CodecError):
            decode(frame)


@pytest.mark.parametrize("kind", TYPES)
def test_every_message_comes_back_on_its_side_and_is_refused_on_the_other(kind: type[Message]) -> None:
    rng = random.Random(1)
    for _ in range(50):
        message = sample(kind, rng)
        frame = encode_message(message)
        for decode, kinds in DECODERS.items():
            if kind in kinds:
                assert decode(frame) == message
            else:
                with pytest.raises(CodecError):
                    decode(frame)


@pytest.mark.parametrize("kind", TYPES)
def test_an_activity_is_known_before_it_is_decoded(kind: type[Message]) -> None:
    frame = encode_message(sample(kind, random.Random(1)))
    assert tells_activity(frame) is (kind is Activity)
    assert not tells_activity(frame[:1])


def test_no_tag_is_used_twice() -> None:
    tags = [kind.__struct_config__.tag for kind in TYPES]
    assert len(set(tags)) == len(tags) > 20


@pytest.mark.parametrize("kind", TYPES)
def test_truncated_and_trailing_bytes_are_refused(kind: type[Message]) -> None:
    frame = encode_message(sample(kind, random.Random(2)))
    for length in range(len(frame)):
        refused(frame[:length])
    refused(frame + b"\0")
    refused(frame + frame)


@pytest.mark.parametrize("kind", TYPES)
def test_mutated_frames_are_refused_or_are_messages(kind: type[Message]) -> None:
    rng = random.Random(3)
    frame = encode_message(sample(kind, rng))
    for _ in range(400):
        mutated = bytearray(frame)
        for _ in range(rng.choice([1, 1, 3])):
            mutated[rng.randrange(len(mutated))] = rng.randrange(256)
        for decode in DECODERS:
            try:
                found = decode(bytes(mutated))
            except CodecError:
                continue
            assert decode(encode_message(found)) == found


OTHERS: tuple[object, ...] = (
    {},
    {"a": 1},
    [[[[]]]],
    2**64 - 1,
    msgpack.ExtType(5, b"x"),
    msgpack.Timestamp(1),
)


@pytest.mark.parametrize("kind", TYPES)
def test_parts_of_another_type_or_number_are_refused(kind: type[Message]) -> None:
    parts = msgpack.unpackb(encode_message(sample(kind, random.Random(4))), use_list=True)
    for place in range(1, len(parts)):
        for other in OTHERS:
            refused(msgpack.packb([*parts[:place], other, *parts[place + 1 :]]))
    refused(msgpack.packb([*parts, None]))
    refused(msgpack.packb([99, *parts[1:]]))
    refused(msgpack.packb(dict(enumerate(parts))))


def test_text_is_not_taken_for_bytes_nor_bytes_for_text() -> None:
    assert decode_agent_message(msgpack.packb([20, "v", 1, [b"aGk="]])) == Want("v", 1, (b"aGk=",))
    refused(msgpack.packb([20, "v", 1, ["aGk="]]))
    refused(msgpack.packb([20, b"v", 1, [b"aGk="]]))
    refused(b"\x94\x14\xa1\xff\x01\x90")  # text that is not UTF-8


def test_numbers_beyond_what_can_be_stored_are_refused() -> None:
    assert decode_coordinator_message(encode_message(Ack("v", 2**63 - 1))) == Ack("v", 2**63 - 1)
    refused(encode_message(Ack("v", 2**63)))
    for seconds in (float("nan"), float("inf"), -1.0):
        refused(encode_message(Goodbye(seconds)))


def test_more_items_or_text_than_allowed_are_refused() -> None:
    most = Want("v", 1, (b"d",) * FRAME_MAX_ITEMS)
    assert decode_agent_message(encode_message(most)) == most
    refused(encode_message(Want("v", 1, (b"d",) * (FRAME_MAX_ITEMS + 1))))
    refused(encode_message(Want("v" * (MAX_TEXT_BYTES + 1), 1, ())))


def test_oversized_frames_are_neither_made_nor_read() -> None:
    with pytest.raises(CodecError, match="frame limit"):
        encode_message(Objects("v", 1, (bytes(MAX_FRAME_BYTES),), (), True))
    with pytest.raises(CodecError, match="at most"):
        decode_agent_message(msgpack.packb([21, "v", 1, [bytes(MAX_FRAME_BYTES)], [], True]))


HOSTILE = {
    "array": b"\xdd\xff\xff\xff\xff",
    "digests": b"\x94\x14\xa1v\x01\xdd\xff\xff\xff\xff",
    "digests that are there": b"\x94\x14\xa1v\x01\xdd\x00\x10\x00\x00" + b"\xc4\x00" * (1 << 20),
    "text": b"\x94\x14\xdb\xff\xff\xff\xff",
    "bytes": b"\x94\x14\xa1v\x01\x91\xc6\xff\xff\xff\xff",
    "map": b"\xdf\xff\xff\xff\xff",
    "extension": b"\xc9\xff\xff\xff\xff\x05",
    "deep": b"\x91" * 100_000,
    "nested": b"\xdc\x04\x00" + (b"\xdc\x0f\xff" + b"\x91\xc0" * 4095) * 256,
    "numbers": b"\xdc\x04\x00" + (b"\xdc\x0f\xff" + b"\xcd\xff\xff" * 4095) * 256,
    "nested where digests stand": b"\x94\x14\xa1v\x01" + b"\x91" * 100_000,
}


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_hostile_frames_cost_no_memory(name: str) -> None:
    refused(HOSTILE[name])
    tracemalloc.start()
    try:
        refused(HOSTILE[name])
        assert tracemalloc.get_traced_memory()[1] < 50_000
    finally:
        tracemalloc.stop()


def test_the_densest_commit_costs_a_small_multiple_of_its_bytes() -> None:
    frame = encode_message(Commit("v", 1, b"", b"", (Edit(b"", None),) * FRAME_MAX_ITEMS, "scan", 0))
    tracemalloc.start()
    try:
        decode_agent_message(frame)
        assert tracemalloc.get_traced_memory()[1] < 20 * len(frame)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\xc1",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\x00\x00\x00\x01",
        b"\x81\x01\x01",
        b"\xd4\x05x",
        b"\xa1\xff",
        b"\x01\x01",
        b"\x91" * 5000,
        msgpack.packb([0] * 11),
        bytes(101),
        msgpack.packb("t" * (MAX_TEXT_BYTES + 1)),
    ],
)
def test_unpack_bounded_refuses_what_is_not_one_small_value(frame: bytes) -> None:
    with pytest.raises(CodecError):
        unpack_bounded(frame, 100 if len(frame) < 4000 else 10_000, max_items=10)


def test_unpack_bounded_gives_tuples() -> None:
    assert unpack_bounded(msgpack.packb([1, b"b", "t", None, [True]]), 100) == (1, b"b", "t", None, (True,))
