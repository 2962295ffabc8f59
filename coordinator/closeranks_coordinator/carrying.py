"""Contents of small files on their way from a writer's commit to the pushes that name them.

The core decides what is pushed and knows of no contents; what is at hand here when a push leaves goes ahead of it in a
frame of its own. That frame is the same for all nodes that stand alike, so it is made once. A body is kept until every
other node of its volume was sent it, or for CARRY_KEEP_S, and none is taken where there is no room; whoever comes
later, or asks for more than a push's worth, fetches it from peers. A node that is limited in speed counts it against
its limit.
"""

from __future__ import annotations

from closeranks_proto import messages as wire
from closeranks_proto.carried import Allowance, Carried
from closeranks_proto.digests import DigestAlgorithm
from closeranks_proto.entries import DIGEST_AT, Kind, entry_kind, entry_size
from closeranks_proto.errors import ProtocolError
from closeranks_proto.limits import (
    CARRY_COORDINATOR_BYTES,
    CARRY_FILE_MAX_BYTES,
    CARRY_KEEP_S,
    CARRY_MAX_BYTES,
    CARRY_PASSED_BYTES_S,
)
from closeranks_proto.wire import encode_message


class Carrying:
    """Of the whole fleet, on the event loop."""

    def __init__(self, algorithm: DigestAlgorithm) -> None:
        self._algorithm = algorithm
        self._kept = Carried(CARRY_COORDINATOR_BYTES, CARRY_KEEP_S)
        self._allowance = Allowance(CARRY_PASSED_BYTES_S, 4 * CARRY_MAX_BYTES)
        # The frame made last, of which edits, and what it carries: nodes that stand alike are sent the same edits.
        self._made: tuple[tuple[wire.PushEdit, ...], list[bytes], bytes, int] | None = None

    def keep(self, carried: wire.Carried, uses: int, now: float) -> None:
        """Take what came with a commit, for so many nodes. Raises ProtocolError for what no agent sends."""
        if sum(map(len, carried.bodies)) > CARRY_MAX_BYTES or any(
            len(body) > CARRY_FILE_MAX_BYTES for body in carried.bodies
        ):
            raise ProtocolError("more contents than may travel with a commit")
        for body in carried.bodies:
            self._kept.keep(self._algorithm.of(body), body, now, uses)

    def frame_for(self, push: wire.Push, now: float) -> bytes | None:
        """What to send ahead of this push; None where nothing is at hand or as much may not travel now."""
        self.expire(now)
        if not len(self._kept):
            return None
        if self._made is None or self._made[0] is not push.edits:
            digests = self._found(push.edits)
            bodies = tuple(filter(None, map(self._kept.find, digests)))
            frame = encode_message(wire.Carried(push.volume, bodies)) if bodies else b""
            self._made = (push.edits, digests, frame, sum(map(len, bodies)))
        _, digests, frame, size = self._made
        if not frame or not self._allowance.take(size, now):
            return None
        for digest in digests:
            self._kept.used(digest)
        return frame

    def expire(self, now: float) -> None:
        """Give up what is too old. Called now and then, so that a fleet at rest keeps nothing."""
        self._kept.expire(now)
        if not len(self._kept):
            self._made = None

    def _found(self, edits: tuple[wire.PushEdit, ...]) -> list[bytes]:
        """The digests of what is at hand, unless the push as a whole is too much to travel like this."""
        width = self._algorithm.width
        there = {_digest(edit.before, width) for edit in edits}  # a rename moves nothing
        found: dict[bytes, None] = {}
        size = 0
        for edit in edits:
            digest = _digest(edit.after, width)
            if not digest or digest in there:
                continue
            assert edit.after is not None
            size += entry_size(edit.after)
            if size > CARRY_MAX_BYTES:
                return []
            if self._kept.find(digest) is not None:
                found[digest] = None
        return list(found)


def _digest(value: bytes | None, width: int) -> bytes:
    """The content digest of a file's value; b"" for everything else."""
    if value is None or entry_kind(value) is not Kind.FILE or not entry_size(value):
        return b""
    return value[DIGEST_AT : DIGEST_AT + width]
