"""Reads and looks: the first of them at once, a stream of them ever less often, within bounds."""

from __future__ import annotations

from closeranks_agent.watch.pacing import (
    CALM_S,
    PAUSE_MAX_S,
    PAUSE_MIN_S,
    REST_A_PATH_S,
    REST_CALM_S,
    REST_DOUBLINGS_MAX,
    REST_MAX_S,
    REST_MIN_S,
    STORM_EVENTS,
    STORM_PAUSE_MAX_S,
    UNDRAINED_PAUSE_S,
    Looks,
    Reads,
)


def paused(reads: Reads, count: int, times: int, now: float) -> list[float]:
    """Reads that follow each other as soon as they may."""
    found = []
    for _ in range(times):
        found.append(reads.pause(count, True, now))
        now += found[-1]
    return found


def test_a_lone_event_is_followed_by_the_shortest_pause() -> None:
    reads = Reads()
    paused(reads, 1, 20, 10.0)
    assert reads.pause(1, True, 10.0 + 20 * PAUSE_MAX_S + PAUSE_MAX_S + 2 * CALM_S) == PAUSE_MIN_S


def test_a_stream_is_read_less_and_less_often_and_masses_even_less() -> None:
    few, many = paused(Reads(), 1, 20, 10.0), paused(Reads(), STORM_EVENTS, 20, 10.0)
    assert few == sorted(few)
    assert few[-1] == PAUSE_MAX_S
    assert many[-1] == STORM_PAUSE_MAX_S


def test_a_full_queue_is_emptied_without_much_of_a_rest() -> None:
    reads = Reads()
    paused(reads, STORM_EVENTS, 20, 10.0)
    assert reads.pause(STORM_EVENTS, False, 20.0) == UNDRAINED_PAUSE_S


def test_a_lone_look_at_one_path_hardly_waits_and_one_at_many_does() -> None:
    for size, rest in ((1, REST_A_PATH_S), (100, 100 * REST_A_PATH_S), (100_000, REST_MAX_S)):
        looks = Looks()
        looks.ended(size, 10.0)
        assert looks.due == 10.0 + rest


def test_looks_in_a_row_wait_twice_as_long_each_time_until_one_is_lone_again() -> None:
    looks, now, rests = Looks(), 10.0, []
    for _ in range(REST_DOUBLINGS_MAX + 4):
        looks.ended(1, now)
        rests.append(round(looks.due - now, 9))
        now = looks.due
    assert rests[1:4] == [2 * REST_MIN_S, 4 * REST_MIN_S, 8 * REST_MIN_S]
    assert rests[-1] == REST_MIN_S * 2**REST_DOUBLINGS_MAX
    now += 2 * REST_CALM_S
    looks.ended(1, now)
    assert looks.due == now + REST_A_PATH_S
