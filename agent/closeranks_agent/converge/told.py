"""The world's failures that end a run, told as a problem of the volume and in words."""

from __future__ import annotations

from closeranks_proto.errors import MissingObject, ProtocolError
from closeranks_proto.messages import Problem
from closeranks_proto.paths import escape

from ..disk.records import StateUnavailable, VolumeGone, problem_of
from ..disk.volume import Volume
from .ledger import LedgerDamaged

WORLD = (VolumeGone, StateUnavailable, LedgerDamaged, OSError, MissingObject, ProtocolError)


def told(error: BaseException, volume: Volume) -> tuple[Problem | None, str]:
    """A failure of the world as a problem (None where it is not this volume's) and in words."""
    match error:
        case VolumeGone(problem=problem) | StateUnavailable(problem=problem):
            return problem, str(error)
        case LedgerDamaged():
            return Problem("private_dir", str(error)), str(error)
        case MissingObject():
            return (
                None,
                f"the coordinator does not have the target any more ({error}): a newer order will name it",
            )
        case TimeoutError() | ConnectionError():
            return None, f"the coordinator could not be asked: {error or type(error).__name__}"
        case ProtocolError():
            return None, f"the target is not well formed: {error}"
        case OSError():
            problem = problem_of(
                error, f"volume {volume.name} at {escape(volume.path)} could not be converged"
            )
            return problem, problem.message
        case _:
            raise AssertionError("not a failure of the world") from error
