"""The event log: growing ids, resumption, coalescing, bounds, restarts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from closeranks_coordinator.storage.sqlite import SqliteStore, open_store
from closeranks_coordinator.web import events as events_module
from closeranks_coordinator.web.events import EventLog, Listener, TooManyListeners


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = open_store(tmp_path, "xxh3-128")
    yield opened
    await opened.close()


async def taken(listener: Listener, count: int) -> list[str]:
    """The next events as `kind ref`, "reset" for a reset; fewer when no more are waiting."""
    found: list[str] = []
    try:
        async with asyncio.timeout(0.05 if count > 50 else 0.2):
            async for event in listener:
                found.append("reset" if event is None else f"{event.kind} {event.ref}")
                if len(found) == count:
                    break
    except TimeoutError:
        pass
    return found


async def test_a_listener_gets_what_comes_after_it_began(store: SqliteStore) -> None:
    log = EventLog(store)
    log.publish("node", "n1")
    listener = log.listen(None)
    log.publish("node", "n2")
    log.publish("incident", "i1")
    assert await taken(listener, 3) == ["node n2", "incident i1"]
    await log.close()


async def test_a_listener_resumes_behind_the_id_it_saw_last(store: SqliteStore) -> None:
    log = EventLog(store)
    ids = [log.publish("node", f"n{n}") for n in range(5)]
    assert ids == sorted(set(ids))
    assert await taken(log.listen(ids[1]), 5) == ["node n2", "node n3", "node n4"]
    assert await taken(log.listen(ids[4]), 5) == []
    await log.close()


@pytest.mark.parametrize("after", [-1, 0, 5, 2**60])
async def test_an_id_that_is_not_of_this_log_is_answered_by_a_reset(store: SqliteStore, after: int) -> None:
    log = EventLog(store)
    log.publish("node", "n1")
    listener = log.listen(after)
    log.publish("node", "n2")
    assert await taken(listener, 2) == ["reset", "node n2"]
    await log.close()


async def test_ten_changes_of_one_thing_are_delivered_once(store: SqliteStore) -> None:
    log = EventLog(store)
    listener = log.listen(None)
    for _ in range(10):
        log.publish("node", "n1")
        log.publish("volume", "v")
    assert await taken(listener, 5) == ["node n1", "volume v"]
    await log.close()


async def test_a_listener_that_falls_too_far_behind_is_reset(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events_module, "WAITING_MAX", 10)
    log = EventLog(store)
    listener = log.listen(None)
    for n in range(12):
        log.publish("incident", f"i{n}")
    assert await taken(listener, 5) == ["reset", "incident i11"]
    await log.close()


async def test_the_ring_is_bounded_and_what_fell_out_means_reset(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events_module, "RING_MAX", 10)
    log = EventLog(store)
    ids = [log.publish("node", f"n{n}") for n in range(15)]
    assert await taken(log.listen(ids[3]), 1) == ["reset"]
    assert len(await taken(log.listen(ids[4]), 99)) == 10
    await log.close()


async def test_after_an_orderly_restart_a_listener_resumes(tmp_path: Path) -> None:
    store = open_store(tmp_path, "xxh3-128")
    log = EventLog(store)
    ids = [log.publish("node", f"n{n}") for n in range(3)]
    await log.close()
    await store.close()
    store = open_store(tmp_path, "xxh3-128")
    log = EventLog(store)
    assert log.publish("node", "n9") > ids[-1]
    assert await taken(log.listen(ids[0]), 9) == ["node n1", "node n2", "node n9"]
    await log.close()
    await store.close()


async def test_after_a_crash_ids_go_on_growing_and_everybody_is_reset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events_module, "FLUSH_AFTER_S", 0.0)
    clock = [1_000_000]
    store = open_store(tmp_path, "xxh3-128")
    log = EventLog(store, lambda: clock[0])
    stored = log.publish("node", "n1")
    while not store.events():
        await asyncio.sleep(0.01)
    monkeypatch.setattr(events_module, "FLUSH_AFTER_S", 99.0)
    lost = log.publish("node", "n2")
    log.hang_up()
    await store.close()
    clock[0] += 500
    store = open_store(tmp_path, "xxh3-128")
    log = EventLog(store, lambda: clock[0])
    assert log.publish("node", "n3") > lost
    assert await taken(log.listen(stored), 9) == ["reset"]
    assert await taken(log.listen(lost), 9) == ["reset"]
    await log.close()
    await store.close()


async def test_ids_grow_although_the_clock_was_set_back(tmp_path: Path) -> None:
    store = open_store(tmp_path, "xxh3-128")
    log = EventLog(store, lambda: 2_000_000)
    first = log.publish("node", "n1")
    await log.close()
    log = EventLog(store, lambda: 1_000)
    assert log.publish("node", "n1") > first
    await log.close()
    await store.close()


async def test_listeners_are_bounded_and_hang_up_ends_them(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events_module, "LISTENERS_MAX", 2)
    log = EventLog(store)
    listeners = [log.listen(None), log.listen(None)]
    with pytest.raises(TooManyListeners):
        log.listen(None)
    log.leave(listeners.pop())
    listeners.append(log.listen(None))
    waiting = asyncio.create_task(taken(listeners[0], 1))
    await asyncio.sleep(0)
    log.hang_up()
    assert await waiting == []
    assert log.listeners == 0
    await log.close()
