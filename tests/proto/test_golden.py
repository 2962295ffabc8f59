"""The bytes of today, pinned: a change here breaks every stored object and every older peer.

A deliberate change of format raises the version number in the bytes, and the vectors are made anew:

    PYTHONPATH=tests .venv/bin/python tests/proto/test_golden.py > tests/proto/golden.json
"""

from __future__ import annotations

import json
import random
import typing
from pathlib import Path

import pytest

from closeranks_proto.content import ChunkList, content_digest, decode_chunk_list, encode_chunk_list
from closeranks_proto.digests import ALGORITHMS
from closeranks_proto.entries import Entry, Kind, decode_entry, encode_entry
from closeranks_proto.messages import AgentMessage
from closeranks_proto.pages import check_page, decode_page
from closeranks_proto.wire import decode_agent_message, decode_coordinator_message, encode_message
from forest.keys import keys_of_level
from forest.samples import message_types, sample
from forest.store import Forest, small_value

DIGEST = bytes(range(16))
ENTRIES = {
    "empty file": Entry(Kind.FILE, 0, DIGEST, 0o644),
    "long file without mode": Entry(Kind.FILE, 2**40 + 7, DIGEST),
    "set-uid file with everything": Entry(
        Kind.FILE,
        4096,
        DIGEST,
        0o4755,
        b"",
        (1000, 0xFFFFFFFE),
        -1,
        ((b"user.a", b""), (b"user.b", b"\0\xff")),
    ),
    "directory": Entry(Kind.DIRECTORY, mode=0o755),
    "directory with no attributes": Entry(Kind.DIRECTORY, mode=0, xattrs=()),
    "symlink": Entry(Kind.SYMLINK, 9, target=b"../a/\xff b\n"),
    "symlink with owner and time": Entry(
        Kind.SYMLINK, 1, target=b"t", owner=(0, 0), mtime_ns=1_700_000_000_123_456_789
    ),
}
CHUNKS = {width: ChunkList(3 * 4096 - 1, 4096, width, bytes(range(3 * width))) for width in (16, 32)}


def trees(width: int) -> dict[str, dict[bytes, bytes]]:
    """Fixed sets: none, one, several levels, and one that only the caps cut."""
    mixed = keys_of_level(0, 60) + keys_of_level(1, 40) + keys_of_level(2, 16)
    return {
        "empty": {},
        "one": {b"a": small_value(3, width)},
        "three levels": {key: small_value(index, width) for index, key in enumerate(mixed)},
        "capped": {key: small_value(index, width) for index, key in enumerate(keys_of_level(0, 1100))},
    }


def vectors() -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {
        "entries": {name: encode_entry(entry).hex() for name, entry in ENTRIES.items()},
        "chunk lists": {str(width): encode_chunk_list(chunks).hex() for width, chunks in CHUNKS.items()},
        "content digests": {
            name: content_digest(algorithm, 3 * 4096 - 1, 4096, CHUNKS[algorithm.width].digests).hex()
            for name, algorithm in ALGORITHMS.items()
        },
        "digests": {name: algorithm.of(b"closeranks").hex() for name, algorithm in ALGORITHMS.items()},
        "frames": {
            kind.__name__: encode_message(sample(kind, random.Random(7))).hex() for kind in message_types()
        },
        "roots": {},
        "pages": {},
    }
    for name, algorithm in ALGORITHMS.items():
        for tree, items in trees(algorithm.width).items():
            forest = Forest(algorithm)
            root = forest.plant(items)
            found["roots"][f"{name}, {tree}"] = root.hex()
            found["pages"][f"{name}, root of {tree}"] = forest.objects[root].hex()
            if tree == "three levels":
                first = decode_page(forest.objects[root]).refs[0].digest
                while (page := decode_page(forest.objects[first])).level:
                    first = page.refs[0].digest
                found["pages"][f"{name}, first leaf of {tree}"] = forest.objects[first].hex()
    return found


def stored() -> dict[str, dict[str, str]]:
    text = Path(__file__).with_name("golden.json").read_text()
    found: dict[str, dict[str, str]] = json.loads(text)
    return found


@pytest.mark.parametrize("group", sorted(stored()))
def test_the_bytes_are_those_that_were_pinned(group: str) -> None:
    assert vectors()[group] == stored()[group]


def test_every_group_and_every_message_is_pinned() -> None:
    assert vectors().keys() == stored().keys()
    assert set(stored()["frames"]) == {kind.__name__ for kind in message_types()}


def test_pinned_bytes_are_read() -> None:
    pinned = stored()
    assert {
        name: decode_entry(bytes.fromhex(value), 16) for name, value in pinned["entries"].items()
    } == ENTRIES
    for width, blob in pinned["chunk lists"].items():
        assert decode_chunk_list(bytes.fromhex(blob)) == CHUNKS[int(width)]
    for name, blob in pinned["pages"].items():
        check_page(bytes.fromhex(blob), ALGORITHMS[name.partition(",")[0]])
    agents = {kind.__name__ for kind in typing.get_args(AgentMessage)}
    for name, frame in pinned["frames"].items():
        decode = decode_agent_message if name in agents else decode_coordinator_message
        found = decode(bytes.fromhex(frame))
        assert type(found).__name__ == name
        assert encode_message(found).hex() == frame


if __name__ == "__main__":
    print(json.dumps(vectors(), indent=1))
