"""What one converge has done and could not do: counts, reasons, progress and the words for an operator.

Invariant of termination: a key is planned at most ATTEMPTS_MAX times after it changed under our hands, and
done at most ATTEMPTS_MAX times; then it is *set aside* with its reason and no plan sees it again in this run.
A key that waits for another one to have its content is not planned before that has it, and is set aside at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from closeranks_proto.messages import Converge, ConvergeProgress, ConvergeResult, Problem
from closeranks_proto.paths import escape, path_of

from .plan import Step
from .work import Outcome, Result

ATTEMPTS_MAX = 3
PROGRESS_INTERVAL_S = 0.25
SHOWN_MAX = 5


class Tally:
    """The counts of one converge. `now` is monotonic."""

    def __init__(
        self, action: str, tell: Callable[[ConvergeProgress], None], now: Callable[[], float]
    ) -> None:
        self._action, self._tell, self._now = action, tell, now
        self._told_at = float("-inf")
        self.phase = "objects"
        self.steps_done = self.steps_total = 0
        self.bytes_moved = self.bytes_remaining = 0
        self.files_trashed = 0
        self.stale = False
        self.aside: dict[bytes, tuple[Outcome, str, str]] = {}  # key -> (outcome, why, detail)
        self._waiting: dict[bytes, Result] = {}
        self._attempts: dict[bytes, int] = {}
        self._done: dict[bytes, int] = {}

    def enter(self, phase: str) -> None:
        if phase != self.phase:
            self.phase = phase
            self.report(force=True)

    def received(self, payload: int) -> None:
        """Chunk payload from a peer, of whatever use it will be."""
        self.bytes_moved += payload
        self.report()

    def came(self, useful: int) -> None:
        self.bytes_remaining = max(0, self.bytes_remaining - useful)

    def report(self, force: bool = False) -> None:
        now = self._now()
        if not force and now - self._told_at < PROGRESS_INTERVAL_S:
            return
        self._told_at = now
        self._tell(
            ConvergeProgress(
                self._action,
                self.phase,
                self.steps_done,
                max(self.steps_total, self.steps_done),
                self.bytes_moved,
                self.bytes_remaining,
            )
        )

    def note(self, results: Sequence[Result]) -> None:
        for result in results:
            self._note(result)
        self.report()

    def _note(self, result: Result) -> None:
        key = result.step.key
        self.files_trashed += result.trashed
        match result.outcome:
            case Outcome.DONE:
                self.steps_done += 1
                times = self._done[key] = self._done.get(key, 0) + 1
                if times > ATTEMPTS_MAX:
                    self.aside[key] = (
                        Outcome.CHANGED,
                        "busy",
                        "it was changed again each time it was repaired",
                    )
            case Outcome.CHANGED | Outcome.STALE | Outcome.WAITS | Outcome.OVER | Outcome.UNLIKE:
                self.stale |= result.outcome is Outcome.STALE
                tried = self._attempts[key] = self._attempts.get(key, 0) + 1
                if tried >= ATTEMPTS_MAX:
                    detail = result.detail or "the tree around it kept changing"
                    self.aside[key] = (result.outcome, result.why or "busy", detail)
            case Outcome.HEIRLESS:
                self._waiting[key] = result
            case Outcome.BLOCKED | Outcome.NO_ROOM | Outcome.NO_SOURCE | Outcome.TRASH_FULL:
                self.aside[key] = (result.outcome, result.why, result.detail)

    def waiting(self, has_heir: Callable[[Step], bool]) -> set[bytes]:
        """The keys whose content is not where it is to be, and the directories above them: there is nothing to plan."""
        self._waiting = {key: one for key, one in self._waiting.items() if not has_heir(one.step)}
        above = {key[:at] for key in self._waiting for at in range(len(key)) if key[at] == 0}
        return above | self._waiting.keys()

    def give_up(self) -> None:
        """Set aside what still waits: nothing that it waits for comes in this run."""
        for key, one in self._waiting.items():
            self.aside[key] = (one.outcome, one.why, one.detail)
        self._waiting = {}

    def keys(self, *outcomes: Outcome) -> list[bytes]:
        """The keys set aside for these outcomes, ascending."""
        return sorted(key for key, (outcome, _, _) in self.aside.items() if outcome in outcomes)

    def result(
        self,
        order: Converge,
        state: Literal["done", "partial", "failed"],
        root: bytes | None,
        detail: str,
        problem: Problem | None,
        withheld: int = 0,
    ) -> ConvergeResult:
        """The end of a run that was no dry run."""
        return ConvergeResult(
            order.action,
            order.volume,
            state,
            root,
            self.bytes_moved,
            self.steps_done,
            self.files_trashed,
            withheld,
            detail,
            problem,
            (),
            0,
            0,
        )

    def detail(self, story: str) -> str:
        """What could not be done, in words; "" when everything was."""
        if not self.aside:
            return ""
        told = [
            f"{escape(path_of(key))}: {words(*self.aside[key])}" for key in sorted(self.aside)[:SHOWN_MAX]
        ]
        count = len(self.aside)
        more = f"; and {count - SHOWN_MAX} more" if count > SHOWN_MAX else ""
        text = f"{count} path{'s' if count > 1 else ''} could not be brought to the target. {'; '.join(told)}{more}."
        if self.keys(Outcome.NO_SOURCE) and story:
            text += f" Sources: {story}."
        return text[:4000]


def words(outcome: Outcome, why: str, detail: str) -> str:
    """Why a step could not be made, for an operator."""
    match outcome:
        case Outcome.NO_ROOM:
            return "there is not enough free space"
        case Outcome.TRASH_FULL:
            return "the trash has no room for what would be replaced or removed"
        case Outcome.NO_SOURCE:
            return "no healthy peer gave its bytes: whoever has them is away, or it changes faster than it is fetched"
        case _ if why == "busy":
            return (
                f"{detail} ({why}): a program keeps changing it; `closeranks nodes` with the name of this node says "
                "which, as far as the kernel told; stop that program"
            )
        case _:
            return f"{detail} ({why})" if why else detail


def no_space(needed: int, free: int, usage: dict[str, int], trash: str) -> Problem:
    """The problem of a disk that has no room for what must be fetched, with the way out."""
    text = f"The volume's filesystem has {_size(free)} to use, {_size(needed)} are needed to go on."
    held = sorted(((size, incident) for incident, size in usage.items() if size), reverse=True)
    if held:
        shown = ", ".join(f"{_size(size)} of {incident or 'no incident'}" for size, incident in held[:3])
        text += (
            f" The trash ({trash}) on it holds {shown}: restore what is still wanted to another filesystem with "
            "`closeranks trash restore`, then lower trash_keep_s; items of closed incidents older than that go."
        )
    free_it = "Or free other room" if held else "Free room"
    text += f" {free_it} on this filesystem. The agent goes on by itself when there is room."
    return Problem("no_space", text, needed, free)


@dataclass(frozen=True, slots=True)
class Unfit:
    """A path for whose present entry the trash has no room: `charge` bytes, and whether it was to be removed."""

    key: bytes
    charge: int
    removed: bool


def unfit(result: Result) -> Unfit:
    """Of a step that ended as TRASH_FULL."""
    return Unfit(result.step.key, int(result.detail), result.step.target is None)


def trash_full(needed: int, largest: Unfit, free: int, most: int, trash: str, ordinary: bool) -> Problem:
    """The problem of a trash that has reached its bound (`most`), or is too small for one path (`largest`).

    `ordinary`: the truth itself has left what finds no room, so nobody needs to look for a runaway.
    """
    done = "removed" if largest.removed else "replaced"
    what = f"{escape(path_of(largest.key))} ({_size(largest.charge)})"
    cause = (
        f"A writer of this volume has {done} {what}, and this node follows it."
        if ordinary
        else f"{what} is to be {done} here."
    )
    if largest.charge > most:
        by_hand = "; or, if nobody wants it any more, remove it on this node by hand"
        text = (
            f"{cause} The trash ({trash}) may hold {_size(most)} in all. Nothing is replaced or removed without a copy "
            "in it, so this path stays as it is, and emptying the trash would not help: set trash_max_bytes of this "
            f"volume in coordinator.toml to {largest.charge} or more, and reload the coordinator"
            f"{by_hand if largest.removed or not ordinary else ''}. The agent goes on by itself then."
        )
        return Problem("trash_full", text, largest.charge, free)
    text = (
        f"{cause} The trash ({trash}) has room for {_size(free)}, {_size(needed)} are needed in all. What lies in it "
        "does not give way: a repair or a person has set it aside, or it is younger than an incident of this node that "
        "is open. Raise trash_max_bytes, lower trash_keep_s, or restore what is still wanted elsewhere; items of "
        "closed incidents older than trash_keep_s go by themselves."
    )
    return Problem("trash_full", text, needed, free)


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
