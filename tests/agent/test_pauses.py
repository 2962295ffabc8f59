"""How long an agent waits before it dials again: short for a coordinator that restarts, long for one that is broken."""

from __future__ import annotations

import random

from closeranks_agent.pauses import SHORT_MAX, Pauses
from closeranks_proto.limits import RECONNECT_MAX_S, RECONNECT_MIN_S

FIRST_MAX_S = 3 * RECONNECT_MIN_S
SEEDS = range(200)


def test_a_coordinator_that_restarts_twice_is_dialled_as_soon_the_second_time() -> None:
    for seed in SEEDS:
        pauses = Pauses(random.Random(seed))
        for lived_s in (3600.0, 4.0, 4.0):
            assert RECONNECT_MIN_S <= pauses.after(lived_s) <= FIRST_MAX_S
            while pauses.after(None) < 1.0:
                pass


def test_a_coordinator_that_takes_each_session_and_drops_it_is_dialled_ever_less() -> None:
    for seed in SEEDS:
        pauses = Pauses(random.Random(seed))
        waits = [pauses.after(0.1) for _ in range(200)]
        assert max(waits[:SHORT_MAX]) <= FIRST_MAX_S
        assert sum(waits[100:]) / 100 > RECONNECT_MAX_S / 4
        assert max(waits) <= RECONNECT_MAX_S


def test_a_session_that_lasted_ends_the_distrust() -> None:
    pauses = Pauses(random.Random(1))
    for _ in range(200):
        pauses.after(0.1)
    assert pauses.after(RECONNECT_MAX_S + 1) <= FIRST_MAX_S
    assert pauses.after(0.1) <= FIRST_MAX_S


def test_what_brings_no_session_grows() -> None:
    pauses = Pauses(random.Random(1))
    waits = [pauses.after(None) for _ in range(300)]
    assert sum(waits[100:]) / 200 > RECONNECT_MAX_S / 4
    assert len(set(waits)) > 100, "a fleet does not dial in step"
