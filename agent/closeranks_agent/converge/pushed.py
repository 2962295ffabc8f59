"""What one push asked for and what became of it: each edit ends as done, skipped or failed, and is counted once."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

from closeranks_proto.content import decode_chunk_list
from closeranks_proto.entries import check_values
from closeranks_proto.errors import CodecError
from closeranks_proto.limits import PUSH_GOOD_S, PUSH_SLOWEST_BYTES_S
from closeranks_proto.messages import Problem, Push, PushEdit, PushResult
from closeranks_proto.paths import check_key, escape, path_of

from .tally import Unfit
from .work import Outcome

SHOWN_MAX = 5


@dataclass(slots=True)
class Count:
    """What became of the edits of one push. Each ends in exactly one of these."""

    open: dict[bytes, PushEdit]
    bodies: dict[bytes, bytes] = field(default_factory=dict)  # that came along, by the digest that they have
    done: set[bytes] = field(default_factory=set)
    skipped: set[bytes] = field(default_factory=set)
    failures: dict[bytes, tuple[Outcome, str]] = field(default_factory=dict)
    needed: int = 0  # bytes that steps without room in stage or trash would take
    largest: Unfit | None = None  # of them, the path that would take most in the trash
    trashed: int = 0
    moved: int = 0
    stale: bool = False
    again: bool = False  # something changed under our hands that another round may get right
    problem: Problem | None = None
    detail: str = ""
    good_until: float = math.inf  # monotonic

    def came(self, at: float, fetch_bytes: int) -> None:
        """When, and what it has to fetch: for so long it is good."""
        self.good_until = at + PUSH_GOOD_S + fetch_bytes / PUSH_SLOWEST_BYTES_S

    def goes_on(self) -> None:
        """It makes progress, and is good for a while from now; but what was over before that stays so."""
        now = time.monotonic()
        if now <= self.good_until:
            self.good_until = max(self.good_until, now + PUSH_GOOD_S)

    def is_over(self) -> bool:
        return time.monotonic() > self.good_until

    def end(self, key: bytes, where: set[bytes]) -> None:
        if self.open.pop(key, None) is not None:
            where.add(key)

    def fail(self, key: bytes, outcome: Outcome, text: str) -> None:
        if self.open.pop(key, None) is not None:
            self.failures[key] = (outcome, text)


def checked(push: Push, width: int) -> dict[bytes, PushEdit]:
    """The edits by key. Raises ProtocolError for what no coordinator sends."""
    edits: dict[bytes, PushEdit] = {}
    check_values((value for edit in push.edits for value in (edit.before, edit.after)), width)
    for edit in push.edits:
        check_key(edit.key)
        if edit.chunks is not None:
            decode_chunk_list(edit.chunks)
        if edit.key in edits:
            raise CodecError(f"{escape(path_of(edit.key))} stands in it twice")
        edits[edit.key] = edit
    return edits


def result_of(push: Push, count: Count, skipped: int = 0) -> PushResult:
    told = [f"{escape(path_of(key))}: {count.failures[key][1]}" for key in sorted(count.failures)[:SHOWN_MAX]]
    left = len(count.failures) - len(told)
    detail = "; ".join(part for part in (count.detail, *told, f"and {left} more" if left else "") if part)
    return PushResult(
        push.volume,
        push.push,
        len(count.done),
        len(count.skipped) + len(count.open) + skipped,
        len(count.failures),
        count.moved,
        count.trashed,
        detail,
        count.problem,
    )
