"""Contents that travel along are kept within bounds of bytes, time and uses, and no faster than allowed."""

from __future__ import annotations

import gc
import tracemalloc

from closeranks_proto.carried import KEPT_BYTES, Allowance, Carried
from closeranks_proto.limits import MIB


def test_a_body_is_there_until_it_was_used_as_often_as_it_may() -> None:
    kept = Carried(1000, 10.0)
    kept.keep(b"d", b"body", 1.0, uses=2)
    kept.used(b"d")
    assert kept.find(b"d") == b"body"
    kept.used(b"d")
    assert (kept.find(b"d"), len(kept), kept.bytes) == (None, 0, 0)
    kept.used(b"d")


def test_what_came_first_is_used_first_so_new_ones_are_not_kept_where_there_is_no_room() -> None:
    room = 2 * (5 + KEPT_BYTES)
    kept = Carried(room, 10.0)
    for number in range(5):
        kept.keep(b"%d" % number, b"12345", 1.0)
        assert kept.bytes <= room
    assert [kept.find(b"%d" % number) for number in range(5)] == [b"12345", b"12345", None, None, None]
    kept.used(b"0")
    kept.keep(b"5", b"12345", 2.0)
    assert kept.find(b"5") == b"12345", "what was used makes room"
    kept.keep(b"6", b"12345", 11.5)
    assert kept.find(b"6") == b"12345", "and so does what is too old"


def test_a_body_that_is_larger_than_all_room_is_not_kept() -> None:
    kept = Carried(10 + KEPT_BYTES, 10.0)
    kept.keep(b"d", bytes(11), 1.0)
    assert (len(kept), kept.bytes) == (0, 0)
    kept.keep(b"d", bytes(10), 1.0)
    assert len(kept) == 1


def test_a_flood_of_tiny_bodies_takes_no_more_memory_than_the_bound_and_leaves_none() -> None:
    gc.collect()
    tracemalloc.start()
    try:
        kept = Carried(4 * MIB, 10.0)
        for number in range(100_000):
            kept.keep(number.to_bytes(16, "big"), b"tiny %d" % number, 1.0)
        full = tracemalloc.get_traced_memory()[0]
        assert kept.bytes > 3.9 * MIB, "it was filled"
        assert full <= 1.2 * 4 * MIB
        kept.expire(20.0)
        assert (len(kept), kept.bytes) == (0, 0)
        assert tracemalloc.get_traced_memory()[0] < 0.05 * full
    finally:
        tracemalloc.stop()


def test_what_is_kept_again_is_young_and_counted_once() -> None:
    kept = Carried(1000, 10.0)
    kept.keep(b"old", b"1234", 1.0)
    kept.keep(b"other", b"1", 2.0)
    kept.keep(b"old", b"1234", 9.0)
    assert kept.bytes == 5 + 2 * KEPT_BYTES
    kept.expire(13.0)
    assert (kept.find(b"old"), kept.find(b"other")) == (b"1234", None)
    kept.expire(19.5)
    assert kept.bytes == 0


def test_no_more_travels_than_the_burst_and_then_the_rate() -> None:
    allowance = Allowance(10.0, 20.0)
    assert allowance.take(15, 100.0)
    assert not allowance.take(6, 100.0)
    assert allowance.take(5, 100.0)
    assert not allowance.take(10, 100.5)
    assert allowance.take(10, 101.0)
    assert not allowance.take(21, 1000.0), "never more than the burst at once"
    assert allowance.take(20, 1000.0)
