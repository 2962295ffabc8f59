"""What an examination of a machine's set-up found: the answer of `closeranks doctor`.

Both sides examine themselves and answer with the same record, so that one program prints them.
A finding without a mend is only allowed where nothing is wrong.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Level = Literal["ok", "warn", "fail"]


class Finding(msgspec.Struct, frozen=True):
    """`what` was found about `subject`; where it is not ok, `why` it matters and the `mend`."""

    level: Level
    subject: str
    what: str
    why: str = ""
    mend: str = ""


class Checked(msgspec.Struct, frozen=True):
    """What `check-config` says of a valid file."""

    file: str
    kind: Literal["agent", "coordinator"]
    summary: tuple[str, ...]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]


def ok(subject: str, what: str) -> Finding:
    return Finding("ok", subject, what)


def warn(subject: str, what: str, why: str, mend: str) -> Finding:
    return Finding("warn", subject, what, why, mend)


def fail(subject: str, what: str, why: str, mend: str) -> Finding:
    return Finding("fail", subject, what, why, mend)
