"""What the store promises: durable when it says so, whole trees, nothing lost that is relied on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from closeranks_coordinator.storage import collector
from closeranks_coordinator.storage import reserve as store_reserve
from closeranks_coordinator.storage import sqlite as store_sqlite
from closeranks_coordinator.storage.cache import CACHED_BYTES
from closeranks_coordinator.storage.collection import TouchedFilter
from closeranks_coordinator.storage.schema import connect
from closeranks_coordinator.storage.sqlite import SqliteStore, open_store
from closeranks_coordinator.storage.store import (
    Batch,
    GcReport,
    StateLocked,
    StoreClosed,
    StoredEvent,
    StoreFull,
)
from closeranks_proto.content import ChunkList, content_digest, encode_chunk_list
from closeranks_proto.digests import XXH3_128
from closeranks_proto.entries import Entry, Kind, encode_entry
from closeranks_proto.errors import MissingObject, UserError
from closeranks_proto.tree import Tree

CHUNK = 1024 * 1024


def some_object(number: int, length: int = 200) -> tuple[bytes, bytes]:
    body = random.Random(number).randbytes(length)
    return XXH3_128.of(body), body


def some_tree(files: int, seed: int = 0) -> tuple[Tree, bytes, dict[bytes, bytes]]:
    """A tree of small files: (tree over its own pages, root, pages)."""
    pages: dict[bytes, bytes] = {}
    tree = Tree(XXH3_128, lambda digest: pages[digest])
    made = tree.build((f"f{n:06}".encode(), file_entry(n + seed)) for n in range(files))
    pages.update(made.pages)
    return tree, made.root, pages


def file_entry(number: int) -> bytes:
    return encode_entry(Entry(Kind.FILE, 100, XXH3_128.of(str(number).encode()), 0o644))


async def test_an_object_can_be_read_before_and_after_it_is_durable(tmp_path: Path) -> None:
    store = open_store(tmp_path, "xxh3-128")
    digest, body = some_object(1)
    with pytest.raises(MissingObject):
        store.object(digest)
    writing = asyncio.create_task(store.write(Batch(objects={digest: body})))
    await asyncio.sleep(0)
    assert store.object(digest) == body
    await writing
    assert store.has(digest)
    assert store.object(digest) == body
    assert store.counts().objects == 1
    await store.close()
    again = open_store(tmp_path, "xxh3-128")
    assert again.object(digest) == body
    assert again.counts().object_bytes == len(body)
    await again.close()


async def test_records_roots_events_and_meta_survive_a_restart(tmp_path: Path) -> None:
    store = open_store(tmp_path, "xxh3-128", wall_ms=lambda: 1_000)
    await store.write(
        Batch(
            records=[("state", "n1", b"one"), ("state", "n2", b"two"), ("fence", "n1", b"3")],
            node_roots=[("n1", "photos", "agent-a", 7, b"r" * 16)],
            events=[StoredEvent(4, "node", "n1", 999)],
            meta={"x": b"y"},
        )
    )
    await store.write(Batch(records=[("state", "n2", None), ("state", "n1", b"new")]))
    await store.close()
    store = open_store(tmp_path, "xxh3-128")
    assert store.records() == [("fence", "n1", b"3"), ("state", "n1", b"new")]
    found = store.node_root("n1", "photos")
    assert found is not None
    assert (found.agent_id, found.seq, found.root) == ("agent-a", 7, b"r" * 16)
    assert store.events() == [StoredEvent(4, "node", "n1", 999)]
    assert store.meta("x") == b"y"
    assert store.node_root("n2", "photos") is None
    await store.close()


def test_every_setting_that_a_promise_rests_on_is_in_force(tmp_path: Path) -> None:
    """SQLite happens to begin with `synchronous = FULL`: that a setting holds does not prove that it was made."""
    connection = connect(tmp_path / "coordinator.sqlite")
    wanted = {
        "journal_mode": "wal", "synchronous": 2, "mmap_size": 0, "temp_store": 2, "cache_size": -4096,
        "journal_size_limit": 16 << 20, "wal_autocheckpoint": 1000,
    }  # fmt: skip
    assert {name: connection.pragma(name) for name in wanted} == wanted
    connection.close()


async def test_history_tells_the_root_that_stood_at_a_moment(tmp_path: Path) -> None:
    clock = [0]
    store = open_store(tmp_path, "xxh3-128", wall_ms=lambda: clock[0])
    for seq, (wall_ms, root) in enumerate([(100, b"a"), (200, b"a"), (300, b"b"), (400, b"c")], 1):
        clock[0] = wall_ms
        await store.write(Batch(node_roots=[("n1", "v", "agent", seq, root * 16)]))
    roots = [(found.root[:1], found.wall_ms) for found in store.root_history("n1", "v", 350)]
    assert roots == [(b"b", 300), (b"c", 400)]
    assert [found.root[:1] for found in store.root_history("n1", "v", 0)] == [b"a", b"b", b"c"]
    report = await store.collect([], history_before_ms=350)
    assert report.history_removed == 1, "a goes, b stood at the edge of the window and stays"
    assert [found.root[:1] for found in store.root_history("n1", "v", 0)] == [b"b", b"c"]
    await store.write(Batch(forget=[("n1", "v")]))
    assert store.node_root("n1", "v") is None
    assert store.root_history("n1", "v", 0) == []
    assert store.counts().history == 0
    await store.close()


async def test_writes_that_wait_together_become_one_transaction(tmp_path: Path) -> None:
    store = open_store(tmp_path, "xxh3-128")
    hold = threading.Event()
    holding = asyncio.create_task(store._writer.call(lambda _: hold.wait(10)))
    await asyncio.sleep(0.01)
    writes = [asyncio.create_task(store.write(Batch(objects=dict([some_object(n)])))) for n in range(40)]
    await asyncio.sleep(0.01)
    hold.set()
    await asyncio.gather(holding, *writes)
    counts = store.counts()
    assert counts.batches == 40
    assert counts.commits == 1
    assert counts.queued_bytes == 0
    await store.close()


async def test_an_equal_object_from_sixteen_nodes_is_stored_once(tmp_path: Path) -> None:
    store = open_store(tmp_path, "xxh3-128")
    _, root, pages = some_tree(2_000)
    await asyncio.gather(
        *(store.write(Batch(objects=pages, node_roots=[(f"n{n}", "v", "a", 1, root)])) for n in range(16))
    )
    assert store.counts().objects == len(pages)
    assert store.counts().node_roots == 16
    await store.close()


async def test_waiting_writes_are_bounded_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_sqlite, "QUEUED_MAX_BYTES", 10_000)
    store = open_store(tmp_path, "xxh3-128")
    hold = threading.Event()
    holding = asyncio.create_task(store._writer.call(lambda _: hold.wait(10)))
    writes = [
        asyncio.create_task(store.write(Batch(objects=dict([some_object(n, 4_000)])))) for n in range(20)
    ]
    await asyncio.sleep(0.05)
    assert store.counts().queued_bytes < 20_000
    assert store.object(some_object(19, 4_000)[0]), "what waits for room can be read too"
    cancelled = writes.pop()
    cancelled.cancel()
    await asyncio.gather(cancelled, return_exceptions=True)
    with pytest.raises(MissingObject):
        store.object(some_object(19, 4_000)[0])
    hold.set()
    await asyncio.gather(holding, *writes)
    assert store.counts().objects == 19
    await store.close()


async def test_the_cache_is_bounded_in_bytes(tmp_path: Path) -> None:
    store = open_store(tmp_path, "xxh3-128", cache_bytes=64_000)
    objects = dict(some_object(n, 4_000) for n in range(50))
    await store.write(Batch(objects=objects))
    for digest, body in objects.items():
        assert store.object(digest) == body
    held = sum(len(body) + CACHED_BYTES for body in store._cache._bodies.values())
    counts = store.counts()
    assert 56_000 < held == counts.cached_bytes <= counts.cache_max_bytes == 64_000
    await store.close()


async def test_a_second_process_is_kept_out(tmp_path: Path) -> None:
    store = open_store(tmp_path, "xxh3-128")
    with pytest.raises(StateLocked, match="in use by another coordinator"):
        open_store(tmp_path, "xxh3-128")
    await store.close()
    await open_store(tmp_path, "xxh3-128").close()


async def test_another_digest_or_format_is_refused_and_nothing_touched(tmp_path: Path) -> None:
    await open_store(tmp_path, "xxh3-128").close()
    with pytest.raises(UserError, match="holds trees made with the digest xxh3-128"):
        open_store(tmp_path, "blake3")
    connection = apsw.Connection(str(tmp_path / "coordinator.sqlite"))
    connection.pragma("user_version", 99)
    connection.close()
    with pytest.raises(UserError, match="has format 99"):
        open_store(tmp_path, "xxh3-128")
    connection = apsw.Connection(str(tmp_path / "coordinator.sqlite"))
    connection.pragma("user_version", 1)
    connection.close()
    await open_store(tmp_path, "xxh3-128").close()


async def test_a_foreign_database_or_rubbish_is_refused(tmp_path: Path) -> None:
    connection = apsw.Connection(str(tmp_path / "coordinator.sqlite"))
    connection.execute("CREATE TABLE other (x)")
    connection.close()
    with pytest.raises(UserError, match="not a database of the closeranks coordinator"):
        open_store(tmp_path, "xxh3-128")
    (tmp_path / "coordinator.sqlite").write_bytes(b"rubbish" * 1000)
    with pytest.raises(
        UserError, match=r"coordinator\.sqlite is damaged .* Restore it from a backup\. Without one, move"
    ):
        open_store(tmp_path, "xxh3-128")
    (tmp_path / "coordinator.sqlite").unlink()
    await open_store(tmp_path, "xxh3-128").close()  # as it says


async def test_asking_a_closed_store_is_an_error(tmp_path: Path) -> None:
    store = open_store(tmp_path, "xxh3-128")
    await store.close()
    await store.close()
    with pytest.raises(StoreClosed):
        await store.write(Batch())


async def test_a_caller_s_mistake_reaches_the_caller_and_the_store_lives_on(tmp_path: Path) -> None:
    store = open_store(tmp_path, "xxh3-128")
    with pytest.raises(TypeError):
        await store.write(Batch(records=[("kind", "key", object())]))  # type: ignore[list-item]
    await store.write(Batch(records=[("kind", "key", b"value")]))
    assert store.records() == [("kind", "key", b"value")]
    await store.close()


async def test_damaged_bytes_count_as_missing_until_they_come_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(tmp_path, "xxh3-128")
    digest, body = some_object(1)
    other, other_body = some_object(2)
    await store.write(Batch(objects={digest: body, other: other_body}))
    await store.close()
    connection = apsw.Connection(str(tmp_path / "coordinator.sqlite"))
    connection.execute("UPDATE bodies SET body = ? WHERE body = ?", (b"x" + body[1:], body))
    connection.close()
    store = open_store(tmp_path, "xxh3-128")
    with pytest.raises(MissingObject):
        store.object(digest)
    assert "damaged" in caplog.text
    assert not store.has(other), "a tree that contains the damaged object can not be told from others"
    await store.write(Batch(objects={digest: body}))
    assert store.object(digest) == body
    assert store.has(other)
    await store.close()
    store = open_store(tmp_path, "xxh3-128")
    assert store.object(digest) == body
    await store.close()


# --- collecting -----------------------------------------------------------------------------------


async def old_store(tmp_path: Path) -> SqliteStore:
    """A store whose epochs pass with every collection."""
    return open_store(tmp_path, "xxh3-128", protect_s=0.0)


async def collect_twice(store: SqliteStore, live: list[bytes]) -> int:
    return sum([(await store.collect(live)).removed for _ in range(2)])


async def test_what_no_live_root_reaches_goes_and_the_rest_stays(tmp_path: Path) -> None:
    store = await old_store(tmp_path)
    tree, root, pages = some_tree(3_000)
    edited = tree.edit(root, [(b"f000100", file_entry(-1))])
    await store.write(Batch(objects={**pages, **edited.pages}))
    garbage = set(pages) - {
        digest for digest, _ in Tree(XXH3_128, store.object).pages(edited.root, lambda _: False)
    }
    assert garbage
    assert await collect_twice(store, [edited.root]) == len(garbage)
    assert store.counts().objects == len(pages | edited.pages) - len(garbage)
    assert not any(store.has(digest) for digest in garbage)
    left = dict(Tree(XXH3_128, store.object).pages(edited.root, lambda _: False))
    assert len(left) == store.counts().objects
    assert sum(map(len, left.values())) == store.counts().object_bytes
    await store.close()


async def test_present_and_past_roots_of_nodes_are_live_by_themselves(tmp_path: Path) -> None:
    clock = [100]
    store = open_store(tmp_path, "xxh3-128", protect_s=0.0, wall_ms=lambda: clock[0])
    tree, root, pages = some_tree(1_000)
    edited = tree.edit(root, [(b"f000100", None)])
    await store.write(Batch(objects=pages, node_roots=[("n", "v", "a", 1, root)]))
    clock[0] = 200
    await store.write(Batch(objects=edited.pages, node_roots=[("n", "v", "a", 2, edited.root)]))
    assert await collect_twice(store, []) == 0
    assert (await store.collect([], history_before_ms=300)).removed > 0
    assert not store.has(root)
    assert store.has(edited.root)
    await store.close()


async def test_chunk_lists_of_live_files_stay_and_of_others_go(tmp_path: Path) -> None:
    store = await old_store(tmp_path)
    pages: dict[bytes, bytes] = {}
    tree = Tree(XXH3_128, lambda digest: pages[digest])
    lists: dict[bytes, bytes] = {}
    items = []
    for number in range(3):
        chunks = random.Random(number).randbytes(16 * 3)
        digest = content_digest(XXH3_128, 3 * CHUNK, CHUNK, chunks)
        lists[digest] = encode_chunk_list(ChunkList(3 * CHUNK, CHUNK, 16, chunks))
        items.append((f"big{number}".encode(), encode_entry(Entry(Kind.FILE, 3 * CHUNK, digest, 0o644))))
    made = tree.build(items)
    pages.update(made.pages)
    fewer = tree.edit(made.root, [(b"big1", None)])
    await store.write(Batch(objects={**lists, **pages, **fewer.pages}))
    assert await collect_twice(store, [fewer.root]) == 2, "the old root page and one chunk list"
    assert [store.has(digest) for digest in lists] == [True, False, True]
    await store.close()


async def test_what_was_written_or_affirmed_lately_stays_with_all_beneath_it(tmp_path: Path) -> None:
    now = [0.0]
    store = open_store(tmp_path, "xxh3-128", protect_s=100.0, mono=lambda: now[0])
    _, root, pages = some_tree(1_000)
    await store.write(Batch(objects=pages))
    for moment, removed in [(10, 0), (101, 0), (150, 0)]:
        now[0] = moment
        assert (await store.collect([])).removed == removed, moment
    assert store.has(root)
    now[0] = 202
    assert (await store.collect([])).removed == 0, "the root was asked for 52 s ago"
    now[0] = 303
    assert (await store.collect([])).removed == len(pages)
    assert not store.has(root)
    assert store.counts().objects == 0
    await store.close()


async def test_an_object_written_again_is_young_again(tmp_path: Path) -> None:
    store = await old_store(tmp_path)
    digest, body = encode_empty()
    await store.write(Batch(objects={digest: body}))
    await store.collect([])
    await store.write(Batch(objects={digest: body}))
    assert (await store.collect([])).removed == 0
    assert (await store.collect([])).removed == 1
    await store.close()


def encode_empty() -> tuple[bytes, bytes]:
    empty = Tree(XXH3_128, lambda digest: b"").empty
    return empty.root, empty.pages[empty.root]


async def test_a_tree_that_is_affirmed_while_the_marking_runs_survives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`has` says yes in the very moment between marking and sweeping: the whole tree must stay."""
    store = await old_store(tmp_path)
    _, root, pages = some_tree(1_000)
    await store.write(Batch(objects=pages))
    await store.collect([])
    original = collector.Marking.doomed

    def doomed(marking: collector.Marking) -> list[bytes]:
        found = original(marking)
        assert len(found) == len(pages)
        asyncio.run_coroutine_threadsafe(ask(), loop).result(5)
        return found

    async def ask() -> None:
        assert store.has(root)

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(collector.Marking, "doomed", doomed)
    report = await store.collect([])
    assert report.complete
    assert report.removed == 0
    assert all(store.has(digest) for digest in pages)
    await store.close()


async def test_during_the_sweep_the_condemned_are_denied_and_can_be_brought_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await old_store(tmp_path)
    _, root, pages = some_tree(1_000)
    await store.write(Batch(objects=pages))
    await store.collect([])
    original = collector.Collector._sweep

    async def sweep(self: collector.Collector, doomed: set[bytes], young_from: int) -> None:
        assert not store.has(root)
        await store.write(Batch(objects=pages))
        assert store.has(root)
        await original(self, doomed, young_from)

    monkeypatch.setattr(collector.Collector, "_sweep", sweep)
    assert (await store.collect([])).removed == 0
    assert all(store.has(digest) and store.object(digest) == body for digest, body in pages.items())
    await store.close()


async def test_what_is_brought_again_between_two_parts_of_a_sweep_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next part was chosen before; what it is of is looked at once more where it is removed."""
    store = await old_store(tmp_path)
    _, _, pages = some_tree(1_000)
    await store.write(Batch(objects=pages))
    await store.collect([])
    call, swept = store._writer.call, 0

    async def brought(work: Any) -> Any:
        nonlocal swept
        is_sweep = getattr(work, "func", None) is collector.sweep
        found = await call(work)
        swept += is_sweep
        if is_sweep and swept == 1:
            inner = store._collector._doomed
            await store.write(Batch(objects=pages))
            assert not inner, "all of them are affirmed from now on"
        return found

    monkeypatch.setattr(collector, "SWEEP_AT_ONCE", 2 * len(pages) // 3)
    monkeypatch.setattr(store._writer, "call", brought)
    await store.collect([])
    assert swept == 2
    await store.close()
    again = open_store(tmp_path, "xxh3-128")  # nothing of it is remembered
    assert all(again.object(digest) == body for digest, body in pages.items())
    await again.close()


async def test_a_tree_with_a_hole_stops_the_collection(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = await old_store(tmp_path)
    _, root, pages = some_tree(3_000)
    hole = next(digest for digest in sorted(pages) if digest != root)
    garbage = encode_empty()
    await store.write(Batch(objects={d: b for d, b in [*pages.items(), garbage] if d != hole}))
    reports = [await store.collect([root]) for _ in range(3)]
    assert not any(report.complete for report in reports)
    assert store.counts().objects == len(pages)
    assert "has a hole" in caplog.text
    await store.close()


async def test_writes_go_on_while_a_collection_runs_and_room_is_given_back(tmp_path: Path) -> None:
    store = await old_store(tmp_path)
    _, _, pages = some_tree(60_000)
    await store.write(Batch(objects=pages))
    await store.collect([])
    large = store.counts().database_bytes
    collecting = asyncio.create_task(store.collect([]))
    slowest = 0.0
    written = []
    while not collecting.done():
        began = time.monotonic()
        number = len(written)
        _, root, more = some_tree(3, seed=1_000_000 + number)
        await store.write(Batch(objects=more, node_roots=[("n", "v", "a", number + 1, root)]))
        slowest = max(slowest, time.monotonic() - began)
        written.append(root)
    assert collecting.result().removed == len(pages)
    assert written
    assert all(store.has(root) for root in written)
    assert (tmp_path / "coordinator.sqlite-wal").stat().st_size < large / 10, (
        "what the sweep wrote is given back too"
    )
    assert slowest < 2.0
    await store.write(Batch(records=[("k", "k", b"")]))
    await store.collect([])
    await store.close()
    assert (tmp_path / "coordinator.sqlite").stat().st_size < large / 2


async def test_a_node_that_never_stops_writing_keeps_a_bounded_past(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collector, "HISTORY_KEPT", 5)
    monkeypatch.setattr(collector, "HISTORY_AT_ONCE", 3)
    store = await old_store(tmp_path)
    for node in ("n1", "n2"):
        roots = [(node, "v", "a", seq, bytes([seq]) * 16) for seq in range(1, 21)]
        for root in roots:
            await store.write(Batch(node_roots=[root]))
    assert (await store.collect([])).history_removed == 30
    assert [found.seq for found in store.root_history("n1", "v", 0)] == [16, 17, 18, 19, 20]
    assert store.counts().history == 10
    await store.close()


@pytest.mark.parametrize("how", ["close", "cancel"])
async def test_a_store_can_be_closed_in_the_middle_of_a_collection(tmp_path: Path, how: str) -> None:
    store = await old_store(tmp_path)
    _, root, pages = some_tree(60_000)
    await store.write(Batch(objects=pages))
    collecting = asyncio.create_task(store.collect([root]))
    await asyncio.sleep(0.005)
    if how == "cancel":
        collecting.cancel()
    await store.close()
    report = (await asyncio.gather(collecting, return_exceptions=True))[0]
    if how == "cancel":
        assert isinstance(report, asyncio.CancelledError)
    else:
        assert isinstance(report, GcReport)
        assert not report.complete
    store = open_store(tmp_path, "xxh3-128")
    assert store.counts().objects == len(pages)
    await store.close()


def test_the_touched_filter_never_forgets_and_seldom_lies() -> None:
    filled = TouchedFilter()
    digests = [XXH3_128.of(n.to_bytes(4, "big")) for n in range(20_000)]
    for digest in digests[:10_000]:
        filled.add(digest)
    assert all(digest in filled for digest in digests[:10_000])
    assert sum(digest in filled for digest in digests[10_000:]) < 10


async def test_collections_at_random_moments_never_break_a_tree(tmp_path: Path) -> None:
    """Commits by base root, as sessions make them, with collections in between: every present tree is whole."""
    rng = random.Random(7)
    store = await old_store(tmp_path)
    tree = Tree(XXH3_128, store.object)
    made = tree.build((f"f{n:04}".encode(), file_entry(n)) for n in range(500))
    await store.write(Batch(objects=made.pages))
    roots = {f"n{n}": made.root for n in range(4)}

    async def commit(node: str, seq: int) -> None:
        keys = sorted(rng.sample(range(700), 5))
        edits = [(f"f{k:04}".encode(), rng.choice([None, file_entry(rng.randrange(50))])) for k in keys]
        edited = tree.edit(roots[node], edits)
        objects = {} if store.has(edited.root) else edited.pages
        await store.write(Batch(objects=objects, node_roots=[(node, "v", "a", seq, edited.root)]))
        roots[node] = edited.root

    for round_number in range(60):
        work = [commit(node, round_number * 10 + k) for k, node in enumerate(sorted(roots))]
        if round_number % 3 == 0:
            await asyncio.gather(*work, store.collect([], history_before_ms=2**60))
        else:
            await asyncio.gather(*work)
        for root in roots.values():
            assert sum(1 for _ in Tree(XXH3_128, store.object).walk(root)) > 100
    await store.close()


# --- faults ---------------------------------------------------------------------------------------


def run(*command: str) -> None:
    subprocess.run(command, check=True)


def start(program: str, argument: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", program, argument], stdout=subprocess.PIPE)


_KILLED = """
import asyncio, sys
from pathlib import Path
from closeranks_coordinator.storage.store import Batch
from closeranks_coordinator.storage.sqlite import open_store
from closeranks_proto.digests import XXH3_128

async def main():
    store = open_store(Path(sys.argv[1]), "xxh3-128")
    async def worker(name):
        for n in range(100_000):
            body = f"{name} {n}".encode() * 50
            await store.write(Batch(
                objects={XXH3_128.of(body): body},
                records=[("r", name, str(n).encode())],
                node_roots=[(name, "v", "a", n, XXH3_128.of(body))],
            ))
            sys.stdout.write(f"{name} {n}\\n"); sys.stdout.flush()
    await asyncio.gather(*(worker(f"w{k}") for k in range(8)))

asyncio.run(main())
"""


async def test_every_acknowledged_write_survives_kill_9(tmp_path: Path) -> None:
    for round_number in range(3):
        child = start(_KILLED, str(tmp_path))
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(40 + 30 * round_number)]
        child.send_signal(signal.SIGKILL)
        lines += child.stdout.readlines()
        child.stdout.close()
        child.wait()
        acknowledged: dict[str, int] = {}
        for line in lines:
            name, number = line.decode().split()
            acknowledged[name] = int(number)
        store = open_store(tmp_path, "xxh3-128")
        records = {key: int(blob) for _, key, blob in store.records()}
        for name, number in acknowledged.items():
            assert records[name] >= number
            found = store.node_root(name, "v")
            assert found is not None
            assert found.root is not None
            assert found.seq == records[name]
            assert store.object(found.root) == f"{name} {records[name]}".encode() * 50
        await store.close()


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """2 MiB of room; `resize` changes it."""
    monkeypatch.setattr(store_reserve, "RESERVE_BYTES", 256 * 1024)
    run("mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(tmp_path))
    yield tmp_path
    run("umount", "-l", str(tmp_path))


def fill_with_zeros(file: Path) -> None:
    with file.open("wb", buffering=0) as stream:
        while True:
            stream.write(bytes(1024))


def resize(disk: Path, size: str) -> None:
    run("mount", "-o", f"remount,size={size}", str(disk))


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small tmpfs")


async def fill(store: SqliteStore) -> tuple[dict[bytes, bytes], dict[bytes, bytes]]:
    """Write trees until there is no room: (what was kept, what was refused)."""
    kept: dict[bytes, bytes] = {}
    for number in range(10_000):
        objects = dict(some_object(1000 * number + k, 4_000) for k in range(10))
        try:
            await store.write(
                Batch(objects=objects, node_roots=[("n", "v", "a", number, next(iter(objects)))])
            )
        except StoreFull:
            await _fill_the_half(store, kept)
            return kept, objects
        kept.update(objects)
    raise AssertionError("the disk does not fill")


async def _fill_the_half(store: SqliteStore, kept: dict[bytes, bytes]) -> None:
    """What is small goes on for a while with the first half of what was set aside."""
    for number in range(1_000):
        small = dict([some_object(-1_000 - number, 2_000)])
        try:
            await store.write(Batch(objects=small))
        except StoreFull:
            return
        kept.update(small)
    raise AssertionError("small ones go on for ever")


@pytest.mark.root
@needs_root
async def test_a_change_of_400_paths_is_stored_on_a_full_disk_and_room_for_fences_stays(
    small_disk: Path,
) -> None:
    """It waited for room with all others: nobody was named while the coordinator's disk was full."""
    store = open_store(small_disk, "xxh3-128")
    half = store_reserve.RESERVE_BYTES // 2
    with pytest.raises(OSError, match="No space left"):
        fill_with_zeros(small_disk / "ballast")
    os.truncate(small_disk / "ballast", (small_disk / "ballast").stat().st_size - 16_384)
    change = dict(some_object(number, 3_000) for number in range(10))  # pages of 400 entries
    await store.write(Batch(objects=change))
    assert all(store.object(digest) == body for digest, body in change.items())
    assert "make room on that disk" in (store.counts().fault or ""), "it is told all the same"
    await _fill_the_half(store, {})
    found = os.statvfs(small_disk)
    assert found.f_bavail * found.f_frsize >= half - 16_384
    for token in range(20):
        await store.write(Batch(records=[("fence", "n1", str(token).encode())]))
    await store.close()


def free_of(disk: Path) -> int:
    found = os.statvfs(disk)
    return found.f_bavail * found.f_frsize


@pytest.mark.root
@needs_root
async def test_the_room_for_fences_stays_over_a_restart(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk with some room, and no reserve, was taken for one in order: trees were written until it was full."""
    monkeypatch.setattr(
        store_reserve, "RESERVE_BYTES", 8 * 1024 * 1024
    )  # as it is, beside the log's usual 4 MB
    resize(small_disk, "32m")

    async def fill_up(store: SqliteStore) -> int:
        for number in range(1_000):
            tree = dict(some_object(1_000 * number + k, 4_000) for k in range(50))
            try:
                await store.write(Batch(objects=tree))
            except StoreFull:
                return number
        raise AssertionError("the disk does not fill")

    store = open_store(small_disk, "xxh3-128")
    assert await fill_up(store)
    await store.close()
    for _ in range(2):
        store = open_store(small_disk, "xxh3-128")
        assert "make room on that disk" in (store.counts().fault or ""), "it is told from the start"
        await fill_up(store)
        for token in range(20):
            await store.write(Batch(records=[("fence", "n1", str(token).encode())]))
        assert store.records() == [("fence", "n1", b"19")]
        await store.close()


@pytest.mark.root
@needs_root
async def test_small_changes_that_come_together_leave_the_room_for_fences(small_disk: Path) -> None:
    """Each of them was small enough, and all of them were one transaction."""
    half = store_reserve.RESERVE_BYTES // 2
    store = open_store(small_disk, "xxh3-128")
    with pytest.raises(OSError, match="No space left"):
        fill_with_zeros(small_disk / "ballast")
    with contextlib.suppress(StoreFull):
        await store.write(Batch(objects=dict(some_object(number, 4_000) for number in range(100))))
    batches = [Batch(objects=dict([some_object(-number, 20_000)])) for number in range(1, 17)]
    found = await asyncio.gather(*map(store.write, batches), return_exceptions=True)
    assert {type(one) for one in found} == {type(None), StoreFull}
    assert free_of(small_disk) >= half - 32_768
    await store.close()


@pytest.mark.root
@needs_root
async def test_a_full_disk_is_said_and_survived(small_disk: Path) -> None:
    store = open_store(small_disk, "xxh3-128")
    kept, refused = await fill(store)
    assert kept
    assert not any(store.has(digest) for digest in refused)
    with pytest.raises(
        StoreFull, match=f"^there is no room left for the coordinator's state in {small_disk}, so "
    ):
        await store.write(Batch(objects=refused))
    assert all(store.object(digest) == body for digest, body in kept.items())
    assert store.counts().queued_bytes == 0
    resize(small_disk, "16m")
    await store.write(Batch(objects=refused))
    assert all(store.object(digest) == body for digest, body in (kept | refused).items())
    assert store.counts().objects == len(kept) + len(refused)
    await store.close()
    store = open_store(small_disk, "xxh3-128")
    assert all(store.has(digest) for digest in kept | refused)
    await store.close()


@pytest.mark.root
@needs_root
async def test_fences_can_be_recorded_on_a_full_disk(small_disk: Path) -> None:
    store = open_store(small_disk, "xxh3-128")
    kept, _ = await fill(store)
    for token in range(20):
        await store.write(Batch(records=[("fence", "n1", str(token).encode())]))
        with pytest.raises(StoreFull):
            await store.write(Batch(objects=dict([some_object(-token, 2_000)])))
    await store.close()
    store = open_store(small_disk, "xxh3-128")
    assert store.records() == [("fence", "n1", b"19")]
    assert all(store.has(digest) for digest in kept)
    resize(small_disk, "16m")
    await store.write(Batch(objects=dict([some_object(-1, 100)])))
    assert (small_disk / "reserve").stat().st_size == 256 * 1024, "set aside again"
    await store.close()


@pytest.mark.root
@needs_root
async def test_a_disk_without_room_for_trees_is_a_fault_until_there_is_room_again(small_disk: Path) -> None:
    """Records get through with the room that was set aside; nobody may take that for a disk in order."""
    store = open_store(small_disk, "xxh3-128")
    await fill(store)
    await store.write(Batch(records=[("fence", "n1", b"1")]))
    fault = store.counts().fault
    assert fault is not None
    assert "0.3 MB must be free" in fault
    resize(small_disk, "2560k")  # less than the reserve twice, which a small disk never has
    until = time.monotonic() + 10
    while store.counts().fault is not None and time.monotonic() < until:
        await asyncio.sleep(0.02)
    assert store.counts().fault is None, "also where nobody writes"
    await store.write(Batch(objects=dict([some_object(-1, 100)])))
    await store.close()


@pytest.mark.root
@needs_root
async def test_it_starts_on_a_full_disk_and_collects_garbage_there(small_disk: Path) -> None:
    store = open_store(small_disk, "xxh3-128")
    (small_disk / "ballast").write_bytes(bytes(900_000))
    _, root, pages = some_tree(3_000)
    _, _, garbage = some_tree(3_000, seed=10_000)
    await store.write(Batch(objects=pages, node_roots=[("n", "v", "a", 1, root)]))
    await store.write(Batch(objects=garbage))
    await store.close()
    with pytest.raises(OSError, match="No space left"):
        fill_with_zeros(small_disk / "more")
    store = open_store(small_disk, "xxh3-128", protect_s=0.0)
    assert store.has(root)
    assert await collect_twice(store, []) == len(set(garbage) - set(pages))
    await store.write(Batch(records=[("fence", "n1", b"1")]))
    await store.close()


@pytest.mark.root
@needs_root
async def test_a_small_batch_gets_through_when_a_large_one_beside_it_does_not_fit(small_disk: Path) -> None:
    store = open_store(small_disk, "xxh3-128")
    hold = threading.Event()
    holding = asyncio.create_task(store._writer.call(lambda _: hold.wait(10)))
    large = store.write(Batch(objects=dict(some_object(n, 4_000) for n in range(1_000))))
    small = store.write(Batch(records=[("fence", "n1", b"7")]))
    both = asyncio.gather(large, small, return_exceptions=True)
    await asyncio.sleep(0.02)
    hold.set()
    await holding
    results = await both
    assert isinstance(results[0], StoreFull)
    assert results[1] is None
    assert store.records() == [("fence", "n1", b"7")]
    await store.close()
