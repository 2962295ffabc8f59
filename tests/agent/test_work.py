"""What the world refuses is told in words that an operator can act on."""

from __future__ import annotations

import errno
import os

import pytest

from closeranks_agent.converge.plan import Step, Verb
from closeranks_agent.converge.work import Outcome, failed


@pytest.mark.parametrize(("uid", "hint"), [(65534, "the agent does not run as root"), (0, "`lsattr` tells")])
def test_what_is_not_permitted_is_told_with_what_most_often_stands_behind_it(
    uid: int, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    step = Step(Verb.SET_ATTRIBUTES, b"name", b"own", b"target", None)
    result = failed(step, PermissionError(errno.EPERM, "Operation not permitted"))
    assert (result.outcome, result.why) == (Outcome.BLOCKED, "unwritable")
    assert result.detail.startswith("it could not be changed: Operation not permitted; ")
    assert hint in result.detail


def test_another_refusal_is_told_as_it_is() -> None:
    result = failed(
        Step(Verb.SET_ATTRIBUTES, b"name", b"own", b"target", None), OSError(errno.ETXTBSY, "busy")
    )
    assert result.detail == "it could not be changed: Text file busy"


@pytest.mark.parametrize("number", [errno.EROFS, errno.EIO, errno.ESTALE])
def test_what_stops_every_step_is_raised(number: int) -> None:
    with pytest.raises(OSError):
        failed(Step(Verb.REMOVE, b"k", b"own", None, None), OSError(number, "it fails"))


@pytest.mark.parametrize(
    ("number", "outcome", "why"),
    [
        (errno.ENOSPC, Outcome.NO_ROOM, ""),
        (errno.EDQUOT, Outcome.NO_ROOM, ""),
        (errno.EXDEV, Outcome.BLOCKED, "other_filesystem"),
        (errno.EBUSY, Outcome.BLOCKED, "other_filesystem"),
        (errno.ENOENT, Outcome.STALE, ""),
        (errno.ELOOP, Outcome.STALE, ""),
        (errno.EACCES, Outcome.BLOCKED, "unwritable"),
    ],
)
def test_what_the_world_refuses_is_the_result_of_its_step(number: int, outcome: Outcome, why: str) -> None:
    result = failed(Step(Verb.REMOVE, b"k", b"own", None, None), OSError(number, os.strerror(number)))
    assert (result.outcome, result.why) == (outcome, why)
