"""Every function that parses bytes which somebody else made, with seeds and with the errors that it may raise.

A target takes bytes and returns, or raises an error of its family. Anything else is a finding: another
exception, a value that does not encode to what it came from where the encoding is canonical, or memory out
of proportion.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from closeranks_agent.chunks.wire import ChunkName, ChunkRequest, decode_request, encode_request
from closeranks_agent.config import load_agent_config
from closeranks_agent.converge.ledger import Ledger, LedgerDamaged
from closeranks_agent.disk.ignore import IgnoreRules
from closeranks_agent.plain.manifest import VERSION, Header, Line, read_manifest
from closeranks_coordinator.config import load_coordinator_config
from closeranks_coordinator.web.call import CURSOR, ApiError, decode_body, decode_cursor, encode_cursor
from closeranks_coordinator.web.routes import ROUTES
from closeranks_proto.content import ChunkList, decode_chunk_list, encode_chunk_list
from closeranks_proto.digests import XXH3_128
from closeranks_proto.edits import Press
from closeranks_proto.entries import Entry, Kind, decode_entry, encode_entry
from closeranks_proto.errors import CodecError, PathError, ProtocolError, UserError
from closeranks_proto.messages import AgentMessage
from closeranks_proto.pages import check_page, decode_page, encode_page
from closeranks_proto.paths import check_key, escape, unescape
from closeranks_proto.wire import (
    decode_agent_message,
    decode_coordinator_message,
    encode_message,
    unpack_bounded,
)
from forest.samples import message_types, sample

WIDTH = XXH3_128.width


@dataclass(frozen=True, slots=True)
class Target:
    """`memory`: bytes of memory that one byte of input may cost; every target may use 2 MiB besides.

    `module` is the file whose lines guide the search.
    """

    name: str
    run: Callable[[bytes], object]
    errors: tuple[type[Exception], ...]
    seeds: tuple[bytes, ...]
    memory: int = 64


def _message_seeds(side: object) -> tuple[bytes, ...]:
    rng = random.Random(5)
    frames = []
    for kind in message_types():
        ours = kind in side.__args__ if hasattr(side, "__args__") else False
        if ours is (side is AgentMessage):
            frames += [encode_message(sample(kind, rng)) for _ in range(2)]
    return tuple(frames)


def _entries() -> list[Entry]:
    digest = bytes(range(WIDTH))
    return [
        Entry(Kind.FILE, 5, digest, 0o644),
        Entry(Kind.DIRECTORY, mode=0o755),
        Entry(Kind.SYMLINK, target=b"../there"),
        Entry(Kind.FILE, 1 << 40, digest, 0o4755, owner=(0, 1000), mtime_ns=10**18),
        Entry(Kind.FILE, 1, digest, 0o600, xattrs=((b"user.a", b"1"), (b"user.b", b"\xff"))),
    ]


def _page_seeds() -> tuple[bytes, ...]:
    """Pages of every level of a tree of some hundred entries."""
    value = encode_entry(_entries()[0])
    items = [(b"d%02d\0f%03d" % (n // 40, n), value) for n in range(400)]
    directory = encode_entry(_entries()[1])
    items += [(b"d%02d" % n, directory) for n in range(10)]
    press = Press(XXH3_128, lambda digest: decode_page(press.pages[digest]))
    press.build(sorted(items))
    pages = sorted(press.pages.values(), key=len)
    return (*pages[:4], *pages[-4:])


AGENT_TOML = b"""
[agent]
node = "node-01"
coordinator = "http://127.0.0.1:7340"
listen = "127.0.0.1:7342"
state_dir = "/var/lib/closeranks/agent"
[agent.hooks]
on_quarantine = ["/bin/true", "x"]
timeout_s = 3.5
[agent.reactions]
allow_pause = true
[[volume]]
name = "photos"
path = "/srv/photos"
scan_interval_s = 60
watch = "auto"
"""
COORDINATOR_TOML = b"""
[coordinator]
listen_agents = "127.0.0.1:7340"
listen_api = "127.0.0.1:7341"
state_dir = "/var/lib/closeranks/coordinator"
[fleet]
nodes = ["node-01", "node-02", "node-03"]
max_quarantined = 1
digest = "blake3"
[guards]
deleted_share = 0.2
[speed]
fleet_bytes_s = 20000000
[[volume]]
name = "photos"
policy = "writers"
writers = ["node-01"]
settle_s = 1e1
scan_interval_s = 60.0
on_divergence = "alert"
ignore = ["*.tmp", "cache/", "!keep"]
track = ["mode", "owner"]
"""
# What a mutation finds too rarely: numbers that Python will not turn into text, or into a float.
HUGE = (
    b"1" * 400, b"9" * 5000, b"0x" + b"f" * 9000, b"1e999", b"-inf", b"nan", b"2026-02-30", b"00:00:61",
    b"[" * 3000, b'"' + b"\\u0000" * 40 + b'"', b'"[::1%' + b"x" * 50 + b']:1"', b'"127.0.0.1:' + b"9" * 3000 + b'"',
)  # fmt: skip


def _with_huge(text: bytes) -> tuple[bytes, ...]:
    """The file, and the file with each of its values replaced by each of HUGE."""
    lines = text.split(b"\n")
    found = [text]
    for number, line in enumerate(lines):
        if b" = " in line:
            key = line.partition(b" = ")[0]
            found += [
                b"\n".join([*lines[:number], key + b" = " + value, *lines[number + 1 :]]) for value in HUGE
            ]
    return tuple(found)


_PLACE = Path(tempfile.gettempdir())


def _file(data: bytes, use: Callable[[str], object]) -> object:
    """Parsers of files get one."""
    fd, path = tempfile.mkstemp(prefix="fuzz-", dir=_PLACE)
    try:
        os.write(fd, data)
        os.close(fd)
        return use(path)
    finally:
        os.unlink(path)


def _ledger(data: bytes) -> object:
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=_PLACE) as place:
        (Path(place) / "ledger").write_bytes(data)
        fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
        try:
            ledger = Ledger(fd, b"ledger")
            try:
                return list(ledger.read())
            finally:
                ledger.close()
        finally:
            os.close(fd)


def _ledger_seed() -> bytes:
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=_PLACE) as place:
        fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
        ledger = Ledger(fd, b"ledger")
        ledger.append([b"\x93\x01\xa1a\xc4\x01b", b"\x2a"])
        ledger.close()
        os.close(fd)
        return (Path(place) / "ledger").read_bytes()


def _manifest(data: bytes) -> object:
    """All of it is read, as `closeranks compare` does; how many entries it has."""
    return _file(data, lambda path: sum(1 for _ in read_manifest(Path(path)).items()))


def _manifest_seed() -> bytes:
    digest = bytes(range(WIDTH))
    lines = [
        Line("a", "directory", mode="0755"),
        Line(
            "a/b\\xff",
            "file",
            5,
            digest.hex(),
            "0644",
            owner=(0, 1000),
            mtime_ns=7,
            xattrs=(("user.a", "1"),),
        ),
        Line("c", "symlink", target="../there"),
    ]
    entries = [
        (b"a", Entry(Kind.DIRECTORY, mode=0o755)),
        (b"a\0b\xff", Entry(Kind.FILE, 5, digest, 0o644, b"", (0, 1000), 7, ((b"user.a", b"1"),))),
        (b"c", Entry(Kind.SYMLINK, 8, target=b"../there")),
    ]
    press = Press(XXH3_128, lambda digest: decode_page(press.pages[digest]))
    root = press.build([(key, encode_entry(entry)) for key, entry in entries])
    head = Header(
        VERSION, root.hex(), "xxh3-128", 1 << 20, ("mode",), ("*.tmp",), 3, 1, 5, 1, (("d", "busy"),)
    )
    return b"".join(msgspec.json.encode(one) + b"\n" for one in (head, *lines))


def _bodies(data: bytes) -> None:
    """One body as that of every operation that there is."""
    for kind in BODIES:
        try:
            found = decode_body(data, kind)
        except ApiError as error:
            if error.status != 400:
                raise AssertionError(f"{kind.__name__}: {error.status}") from error
            continue
        assert isinstance(found, kind)
        assert decode_body(msgspec.json.encode(found), kind) == found


BODIES = tuple(dict.fromkeys(route.body for route in ROUTES if route.body is not None))
BODY_SEEDS = (
    b"", b"{}", b'{"reason": "by hand"}', b'{"volume": "photos", "dry_run": true}', b'{"seconds": 1e1}',
    b'{"name": "n", "volume": "v", "node": null}', b'{"baseline": null}',
    b'{"volume": "v", "ids": ["000000000001"], "to": "/tmp/x", "in_place": false}',
    b'{"node": "n", "bytes_s": 20000000, "unlimited": false}', b'{"now": true, "paused": null, "auto": false}',
    b'{"reason": ' + b"[" * 3000, b'{"reason": "\\ud800"}', b'{"reason": "\xff"}', b'{"bytes_s": ' + b"9" * 5000 + b"}",
)  # fmt: skip


def _queries(data: bytes) -> None:
    """One text as every query parameter that there is."""
    text = data.decode("utf-8", "surrogateescape")
    for route in ROUTES:
        for param in route.query:
            try:
                found = param.read(text)
            except ApiError as error:
                if error.status != 400:
                    raise AssertionError(f"{param.name}: {error.status}") from error
                continue
            if param.kind == "integer":
                assert isinstance(found, int)
                assert param.low is not None
                assert param.high is not None
                assert param.low <= found <= param.high, f"{param.name} = {found}"
            elif param.kind == "string":
                assert isinstance(found, str)
                assert len(found) <= param.max_length


def _cursor(data: bytes) -> None:
    text = data.decode("latin-1")
    assert len(text) <= CURSOR.max_length * 100
    assert encode_cursor(decode_cursor(text)) == text


def _page(data: bytes) -> None:
    assert encode_page(check_page(data, XXH3_128)) == data


def _entry(data: bytes) -> None:
    assert encode_entry(decode_entry(data, WIDTH)) == data


def _chunk_list(data: bytes) -> None:
    assert encode_chunk_list(decode_chunk_list(data)) == data


def _escaped(data: bytes) -> None:
    path = unescape(data.decode("utf-8", "surrogateescape"))
    assert unescape(escape(path)) == path


def _ignore(data: bytes) -> None:
    rules = IgnoreRules(data.decode("utf-8", "surrogateescape").split("\n")[:50])
    for key in (b"a", b"cache\0x", b"a.tmp", b"\xff\0\xfe"):
        rules.matches(key, False)


_REQUEST = encode_request(
    ChunkRequest(
        "photos", "xxh3-128", 1 << 20, (ChunkName(b"a\0b", 0, bytes(16)), ChunkName(b"c", 7, bytes(16)))
    )
)

TARGETS = (
    Target("frames of agents", decode_agent_message, (CodecError,), _message_seeds(AgentMessage)),
    Target("frames of the coordinator", decode_coordinator_message, (CodecError,), _message_seeds(None)),
    Target("any msgpack", lambda data: unpack_bounded(data, 1 << 20), (CodecError,), (_REQUEST,)),
    Target("pages of a peer", _page, (CodecError, PathError), _page_seeds()),
    Target("pages of the store", decode_page, (CodecError,), _page_seeds()),
    Target("entries", _entry, (CodecError,), tuple(map(encode_entry, _entries()))),
    Target("keys", check_key, (PathError,), (b"a", b"a\0b\0c", b"x" * 255)),
    Target(
        "chunk lists", _chunk_list, (CodecError,),
        tuple(encode_chunk_list(ChunkList(n * 4096 + 1, 4096, WIDTH, bytes(WIDTH * (n + 1)))) for n in (1, 2, 300)),
    ),
    Target("chunk requests", decode_request, (ProtocolError,), (_REQUEST,)),
    Target("agent.toml", lambda data: _file(data, lambda path: load_agent_config(path, environ={})), (UserError,),
           _with_huge(AGENT_TOML), memory=400),
    Target("coordinator.toml", lambda data: _file(data, lambda path: load_coordinator_config(path, environ={})),
           (UserError,), _with_huge(COORDINATOR_TOML), memory=400),
    Target("ignore patterns", _ignore, (UserError,), (b"*.tmp", b"cache/**\n!cache/keep", b"[a-z]?\\*"), memory=4000),
    Target("escaped paths", _escaped, (PathError,), (b"a/b", b"caf\\xe9", b"new\\nline\\\\")),
    Target("query parameters", _queries, (), (b"10", b"true", b"md", b"000000000001" + b"0" * 50, b"1" * 5000)),
    Target("cursors", _cursor, (ApiError,), (encode_cursor(b"i-000001").encode(), b"")),
    Target("API bodies", _bodies, (), BODY_SEEDS, memory=400),
    Target("manifests", _manifest, (UserError,), (_manifest_seed(),), memory=400),
    Target("ledgers", _ledger, (LedgerDamaged,), (_ledger_seed(),)),
)  # fmt: skip
