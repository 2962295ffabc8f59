"""What lies in the trash: its items, and the records of the ledger that tell of them.

A record holds all that is needed to bring an item back, or to finish the exchange that a kill cut off, when nothing but
the ledger and the bytes themselves are left. Records of former versions are read for as long as their items may lie
there, so the shape of one never changes: what is new gets a word of its own at the front.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import msgpack

from closeranks_proto.entries import DIGEST_AT, Kind, entry_kind
from closeranks_proto.messages import TrashItem

from .ledger import LedgerDamaged


@dataclass(frozen=True, slots=True)
class Discard:
    """One entry on its way to the trash. `stage_name` is where an exchange leaves it, b"" without one."""

    key: bytes
    kind: Kind
    size: int  # bytes, as people see it
    charge: int  # bytes that it occupies, as the bound counts it
    mode: int
    mtime_ns: int
    inode: int
    why: str  # replaced removed
    value: bytes
    stage_name: bytes = b""

    def content(self, width: int) -> bytes:
        """The content digest of a file, as the index knew it; b"" where it is not known."""
        if (
            self.kind is not Kind.FILE
            or len(self.value) < DIGEST_AT + width
            or entry_kind(self.value) is not Kind.FILE
        ):
            return b""
        return self.value[DIGEST_AT : DIGEST_AT + width]


@dataclass(frozen=True, slots=True)
class Kept:
    """One record of the ledger. `trashed_unix_ms` is shown, `at_ms` is of the trash's own clock (see `ageing`)."""

    number: int
    trashed_unix_ms: int
    at_ms: int
    incident: str
    discard: Discard
    ordinary: bool = False  # the truth itself has left it: it may give way

    @property
    def id(self) -> str:
        return f"{self.number:012x}"


def discard_of(key: bytes, status: os.stat_result, why: str, value: bytes, stage_name: bytes) -> Discard:
    """What goes to the trash, by its lstat."""
    match status.st_mode & 0o170000:
        case 0o040000:
            kind = Kind.DIRECTORY
        case 0o120000:
            kind = Kind.SYMLINK
        case _:
            kind = Kind.FILE
    size = status.st_size if kind is Kind.FILE else 0
    charge = min(size, status.st_blocks * 512)  # a sparse file occupies less than its size
    mode = status.st_mode & 0o7777
    return Discard(key, kind, size, charge, mode, status.st_mtime_ns, status.st_ino, why, value, stage_name)


def item_of(volume: str, kept: Kept) -> TrashItem:
    """The item as operators see it."""
    discard = kept.discard
    return TrashItem(
        kept.id,
        volume,
        discard.key,
        discard.kind.name.lower(),
        discard.size,
        kept.trashed_unix_ms,
        kept.incident,
        discard.why,
    )


def encode(kept: Kept) -> bytes:
    """The item's record."""
    one = kept.discard
    fields = (one.key, int(one.kind), one.size, one.charge, one.mode, one.mtime_ns, one.inode, one.why)
    tag = "aged pushed" if kept.ordinary else "aged item"  # the second word is older than what it covers
    packed: bytes = msgpack.packb(
        (
            tag,
            kept.number,
            kept.trashed_unix_ms,
            kept.at_ms,
            kept.incident,
            *fields,
            one.value,
            one.stage_name,
        ),
        use_bin_type=True,
    )
    return packed


def decode(record: object) -> Kept | None:
    """The item of a ledger record; None for a marker. Raises LedgerDamaged for what is neither."""
    match record:
        case ("item" | "pushed" as tag, int(number), int(at), *rest):
            # As old as it is shown: there was no other clock.
            return decode((f"aged {tag}", number, at, at, *rest))
        case (
            "aged item" | "aged pushed" as tag, int(number), int(at), int(at_ms), str(incident), bytes(key), int(kind),
            int(size), int(charge), int(mode), int(mtime), int(inode), str(why), bytes(value), bytes(stage_name),
        ):  # fmt: skip
            discard = Discard(key, Kind(kind), size, charge, mode, mtime, inode, why, value, stage_name)
            return Kept(number, at, at_ms, incident, discard, tag == "aged pushed")
        case ("settled", int()):
            return None
        case _:
            raise LedgerDamaged(
                f"the trash's ledger has a record of an unknown shape: {type(record).__name__}"
            )


def marker(number: int) -> bytes:
    """The record that says: no exchange is pending of the items up to this number."""
    packed: bytes = msgpack.packb(("settled", number))
    return packed


def settled_up_to(record: object) -> int:
    """The number of a marker; 0 of anything else."""
    match record:
        case ("settled", int(number)):
            return number
        case _:
            return 0
