"""Making one step: what is staged appears at its path, what was there goes to the trash, in one exchange.

What the plan did not see is not touched: that is a Surprise. Directories and symlinks, which hold no bytes, are staged
here; files lie in the stage when their step comes.
"""

from __future__ import annotations

import os
import stat

from closeranks_proto.entries import Entry, Kind, aspects, encode_entry

from .. import beneath
from ..beneath import Spot
from ..disk.records import Record, StatSignature
from ..disk.volume import Volume
from . import attributes
from .lift import Lifts
from .plan import Saw, Step, Verb, entry_of, is_withheld
from .recheck import is_same
from .stage import stage_name_of
from .swap import Surprise, Taken, move_within, put_new, swap_in, take_out
from .work import Outcome, Result, Work
from .workroom import Workroom


class Maker:
    """Makes steps during one converge, or during pushes, on the volume's thread."""

    def __init__(self, volume: Volume, room: Workroom, lifts: Lifts) -> None:
        self._volume, self._room, self._lifts = volume, room, lifts
        self._width = volume.algorithm.width
        self._special_bits = volume.settings.special_bits
        self.made: dict[bytes, Record | None] = {}  # what is to be recorded
        self.unlike: dict[bytes, bytes] = {}  # key -> value made, where that could not be the target's

    def make(self, work: Work) -> Result:
        """Make one step. Raises Surprise, NotEmpty, NoExchange, OSError."""
        step = work.step
        if step.source is not None:
            return self._move(work, step.source)
        taken = None if work.discard is None else Taken(work.item, work.discard)
        with beneath.spot(self._room.root_fd, step.key) as where:
            if step.target is None:
                assert taken is not None
                take_out(self._room, where, taken)
                self.made[step.key] = None
                self._lifts.forget(step.key)
                return Result(step, Outcome.DONE, trashed=True)
            target = entry_of(step.target, self._width)
            if step.verb is Verb.SET_ATTRIBUTES:
                self._set_attributes(work, target, where)
            else:
                name = self._staged(step, target, where)
                if taken is None:
                    put_new(name, self._room, where)
                else:
                    swap_in(name, self._room, where, taken)
            now = beneath.status(where)
        if now is None:
            raise Surprise
        return self._made(step, target, now, trashed=taken is not None)

    def _move(self, work: Work, source: Saw) -> Result:
        """Give a file its new name. What a third party slipped under the old one goes back there."""
        step = work.step
        assert step.target is not None
        assert work.status is not None
        with (
            beneath.spot(self._room.root_fd, source.key) as origin,
            beneath.spot(self._room.root_fd, step.key) as where,
        ):
            move_within(origin, where, work.status)
            now = beneath.status(where)
        self.made[source.key] = None
        if now is None:
            raise Surprise
        return self._made(step, entry_of(step.target, self._width), now)

    def _staged(self, step: Step, target: Entry, where: Spot) -> bytes:
        """The name in the stage of what will appear; directories and symlinks are made here."""
        name = stage_name_of(step, self._width)
        parent = os.fstat(where.parent_fd)
        stage_fd = self._room.stage_fd
        if target.kind is Kind.SYMLINK:
            _drop_staged(name, stage_fd)
            os.symlink(target.target, name, dir_fd=stage_fd)
            attributes.set_symlink(name, stage_fd, target, parent)
        elif target.kind is Kind.DIRECTORY:
            _drop_staged(name, stage_fd)
            os.mkdir(name, 0o700, dir_fd=stage_fd)
            fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=stage_fd)
            try:
                attributes.set_new(fd, target, None, parent, self._special_bits)
                mode = os.fstat(fd).st_mode & 0o7777
                if os.geteuid() != 0 and mode & 0o700 != 0o700:
                    os.fchmod(fd, mode | 0o700)  # the next plan sets what is missing, when work in it is over
            finally:
                os.close(fd)
        return name

    def _set_attributes(self, work: Work, target: Entry, where: Spot) -> None:
        if target.kind is Kind.SYMLINK:
            assert work.status is not None
            attributes.set_symlink(where.name, where.parent_fd, target, work.status)
            return
        flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(where.name, flags, dir_fd=where.parent_fd)
        try:
            if not is_same(work.step.seen, os.fstat(fd)):
                raise Surprise
            attributes.set_existing(fd, target, self._special_bits)
        finally:
            os.close(fd)
        if target.kind is Kind.DIRECTORY:
            self._lifts.forget(work.step.key)

    def _made(self, step: Step, target: Entry, now: os.stat_result, trashed: bool = False) -> Result:
        """Record what lies there now, and say where it is not what it was to be."""
        record = self.made[step.key] = self._record(step.key, target, now)
        if record.value == step.target:
            return Result(step, Outcome.DONE, trashed=trashed)
        self.unlike[step.key] = record.value
        made = entry_of(record.value, self._width)
        if is_withheld(made, target, self._special_bits) or _is_left_open(made, target):
            return Result(step, Outcome.DONE, trashed=trashed)
        what = " and ".join(aspects(target, made))
        detail = (
            f"it was made, and has another {what} than it was given: this filesystem does not keep it as the others' "
            "do, or a program changed it at once"
        )
        return Result(step, Outcome.UNLIKE, "unsupported", detail, trashed)

    def _record(self, key: bytes, target: Entry, now: os.stat_result) -> Record:
        value = encode_entry(attributes.entry_now(target, now))
        chunks = None
        if target.kind is Kind.FILE and target.size > self._volume.chunk_bytes:
            chunks = self._volume.object(target.digest)
            assert chunks is not None, "the plan had the chunk list"
        # Not settled: the next scan reads a file once more, so nobody can hide a write behind ours.
        return Record(key, value, StatSignature.of(now), chunks, target.kind is Kind.DIRECTORY)


def _is_left_open(made: Entry, target: Entry) -> bool:
    """Whether this is a directory in which there is work to do yet: a later step gives it its mode."""
    if made.kind is not Kind.DIRECTORY or os.geteuid() == 0:
        return False
    return aspects(made, target) == ("mode",) and made.mode == (target.mode or 0) | 0o700


def _drop_staged(name: bytes, stage_fd: int) -> None:
    """Forget what an earlier run staged under this name."""
    try:
        status = os.stat(name, dir_fd=stage_fd, follow_symlinks=False)
    except FileNotFoundError:
        return
    if stat.S_ISDIR(status.st_mode):
        os.rmdir(name, dir_fd=stage_fd)
    else:
        os.unlink(name, dir_fd=stage_fd)
