"""Whether a path still is what the plan saw; and if it is not, what it is instead.

What somebody changed meanwhile is read anew and kept in `found`, to be recorded and planned again; nothing of it is
written over. What lies in the way and is never compared (ignored entries, devices, other filesystems) is never removed
either: the step is blocked and says by what.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import replace

from closeranks_proto.entries import Kind, encode_entry, entry_kind
from closeranks_proto.paths import escape, parent_key, path_of

from .. import beneath
from ..beneath import Spot
from ..disk.ignore import IgnoreRules
from ..disk.records import BusyFile, Record, StatSignature
from ..disk.volume import Volume
from .items import discard_of
from .lift import Lifts
from .plan import Saw, Step, Verb, entry_of
from .stage import stage_name_of
from .work import Outcome, Result, Work, failed
from .workroom import Workroom

LEFT_SHOWN = 3  # names of what keeps a directory
_CHANGED = "it was changed while converge worked"
_NOT_YET = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})


class Recheck:
    """Looks at paths again, on the volume's thread. Raises what stops every step."""

    def __init__(self, volume: Volume, room: Workroom, lifts: Lifts) -> None:
        self._volume, self._room, self._lifts = volume, room, lifts
        self._ignore = IgnoreRules(volume.settings.ignore)
        self.found: dict[bytes, Record | None] = {}  # what somebody else made of paths

    def check(self, step: Step) -> Work | Result:
        """The step's work if the path is what the plan saw, else how the step ended."""
        if step.seen is None and step.source is None:
            return Work(step, None)  # that nothing is there is seen when it appears: it never replaces
        return self._now(step)

    def surprise(self, step: Step) -> Result:
        """The step met something else than it was to replace, which is recorded at once where it was not compared."""
        if step.seen is None:
            found = self._now(replace(step, source=None))
            if step.source is None and isinstance(found, Result):
                return found
        return Result(step, Outcome.CHANGED, "busy", _CHANGED)

    def _now(self, step: Step) -> Work | Result:
        try:
            return self._once(step)
        except PermissionError as error:
            try:
                if self._lifts.lift(parent_key(step.key)):
                    return self._once(step)
            except OSError as again:
                error = again if isinstance(again, PermissionError) else error
            return failed(step, error)
        except OSError as error:
            if step.seen is None and step.source is None and error.errno in _NOT_YET:
                return Work(step, None)  # an earlier step of the batch makes its directory
            return failed(step, error)

    def _once(self, step: Step) -> Work | Result:
        if step.source is not None:
            return self._check_source(step, step.source)
        with beneath.spot(self._room.root_fd, step.key) as where:
            status = beneath.status(where)
            if is_same(step.seen, status) and not self._is_other_directory(step):
                return self._work(step, status)
            if status is not None and step.seen is None and _is_twin(where):
                twin = "another name that this filesystem takes for the same (upper and lower case) is there"
                return Result(step, Outcome.BLOCKED, "case_twin", twin)
        return self._reread(step, status)

    def _is_other_directory(self, step: Step) -> bool:
        """Whether somebody else has given a directory other attributes: its stat signature does not tell."""
        if step.verb is not Verb.SET_ATTRIBUTES or entry_kind(step.own or b"") is not Kind.DIRECTORY:
            return False
        record = self._read(step.key)
        return record is None or record.value != step.own

    def _read(self, key: bytes) -> Record | None:
        """What is there. A directory that is lifted for our work is told with the mode that it will be given back."""
        record = self._volume.read_entry(self._room.root_fd, key)
        if record is None or entry_kind(record.value) is not Kind.DIRECTORY:
            return record
        entry = entry_of(record.value, self._volume.algorithm.width)
        if entry.mode is None:
            return record
        return replace(
            record, value=encode_entry(replace(entry, mode=self._lifts.mode_before(key, entry.mode)))
        )

    def _check_source(self, step: Step, source: Saw) -> Work | Result:
        with beneath.spot(self._room.root_fd, source.key) as where:
            status = beneath.status(where)
        if is_same(source.seen, status):
            return Work(step, status)
        self._reread(Step(Verb.REMOVE, source.key, source.own, None, source.seen), status)
        return Result(step, Outcome.CHANGED, "busy", _CHANGED)

    def _work(self, step: Step, status: os.stat_result | None) -> Work:
        work = Work(step, status)
        if status is not None and step.verb is not Verb.SET_ATTRIBUTES:
            assert step.own is not None
            why = "removed" if step.target is None else "replaced"
            work.discard = discard_of(
                step.key, status, why, step.own, stage_name_of(step, self._volume.algorithm.width)
            )
        return work

    def _reread(self, step: Step, status: os.stat_result | None) -> Result:
        """The path was changed since it was recorded: record what it is now. What is ignored never is."""
        if status is not None and self._ignore.matches(step.key, stat.S_ISDIR(status.st_mode)):
            return self._in_the_way(step, status)
        try:
            record = self._read(step.key)
        except BusyFile:
            return Result(step, Outcome.CHANGED, "busy", "it changes while it is read")
        except OSError as error:
            return failed(step, error)
        was_directory = step.own is not None and entry_kind(step.own) is Kind.DIRECTORY
        is_directory = record is not None and entry_kind(record.value) is Kind.DIRECTORY
        if record is None and status is not None:
            return self._in_the_way(step, status)
        if is_directory and not was_directory:
            return Result(step, Outcome.STALE)  # nobody has looked into it yet
        self.found[step.key] = record
        done = (record.value if record is not None else None) == step.target
        return Result(step, Outcome.DONE if done else Outcome.CHANGED, "busy", _CHANGED)

    def _in_the_way(self, step: Step, status: os.stat_result) -> Result:
        """Something is there that is never compared, so the tree can not have it, and it is never removed."""
        if self._ignore.matches(step.key, stat.S_ISDIR(status.st_mode)):
            return Result(step, Outcome.BLOCKED, "ignored_content", "an ignored entry is in the way")
        if status.st_dev != os.fstat(self._room.root_fd).st_dev:
            return Result(step, Outcome.BLOCKED, "other_filesystem", "another filesystem is mounted there")
        return Result(step, Outcome.BLOCKED, "special", "a device, socket or fifo is in the way")

    def remains(self, step: Step) -> Result:
        """Why a directory is not empty: steps that did not run, newcomers, or what is never removed."""
        try:
            fd = beneath.open_directory(self._room.root_fd, path_of(step.key))
            try:
                names = [os.fsencode(name) for name in os.listdir(fd)]
                ignored = [
                    name for name in names if self._is_never_removed(step.key + b"\0" + name, name, fd)
                ]
            finally:
                os.close(fd)
        except OSError as error:
            return failed(step, error)
        if len(ignored) == len(names):
            shown = ", ".join(escape(name) for name in sorted(names)[:LEFT_SHOWN])
            detail = (
                f"the directory holds {len(names)} ignored or special entries ({shown}), so it stays: remove them on "
                "this node, or have the directory again on a writer"
            )
            return Result(step, Outcome.BLOCKED, "ignored_content", detail)
        if any(self._volume.record(step.key + b"\0" + name) is not None for name in names):
            return Result(
                step, Outcome.WAITS, "ignored_content", "entries in the directory could not be removed"
            )
        return Result(step, Outcome.STALE)

    def _is_never_removed(self, key: bytes, name: bytes, fd: int) -> bool:
        status = os.stat(name, dir_fd=fd, follow_symlinks=False)
        kind = stat.S_IFMT(status.st_mode)
        if kind not in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
            return True
        return self._ignore.matches(key, kind == stat.S_IFDIR) or status.st_dev != os.fstat(fd).st_dev


def is_same(seen: StatSignature | None, status: os.stat_result | None) -> bool:
    """Whether a path is still what was recorded of it."""
    if seen is None or status is None:
        return seen is None and status is None
    return StatSignature.of(status) == seen


def _is_twin(where: Spot) -> bool:
    """Whether the name is found although the directory does not list it: it differs only in case."""
    fd = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=where.parent_fd)
    try:
        return os.fsdecode(where.name) not in os.listdir(fd)
    finally:
        os.close(fd)
