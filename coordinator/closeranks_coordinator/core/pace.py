"""When consequences follow an event: at once in a fleet of ordinary size, gathered for a moment in a large one.

What an event may bring about is looked for on every node, so it costs the fleet's size; and the events of a
fleet, beats above all, come in proportion to it. A thousand nodes at rest beat two hundred times a second. So
in a large fleet events change the world at once, and what follows is run once for all of them, at most a
tenth of the time; half of it while a thousand nodes take different steps, and others have their turns in between.

What may not wait: an operator's request, which is answered by what is judged, not by what was; and what stands on a
judgement that is still to come, such as a node's next root, or its answer to an order that made the last one. And
what waits is not durable: a root is stored in one write with what was made of it, here as in a small fleet.
"""

from __future__ import annotations

from closeranks_proto import messages as wire

from .model import (
    AllowAsked,
    BaselineCreateAsked,
    Connected,
    Disconnected,
    DuplicateRefused,
    Event,
    FromAgent,
    PinAsked,
    QuarantineAsked,
    RejectAsked,
    ReleaseAsked,
    ResyncAsked,
    RootStored,
    Scanned,
    Tick,
    Watched,
)

PROMPT_NODES = 64  # up to so many, every event is followed at once
# What follows takes some 5 us a node where nothing happens: ten times that is the time left for the rest.
PAUSE_S_A_NODE = 50e-6


class Pace:
    """Decides for one fleet. Times are monotonic."""

    def __init__(self) -> None:
        self._not_before = 0.0
        self._follows = False  # the step under way
        self._unjudged: set[str] = set()  # nodes with a root that nothing has followed yet

    def must_follow_first(self, event: Event) -> bool:
        """Whether what came before this event has to be judged before it is taken."""
        match event:
            case RootStored() | Connected() | Disconnected():
                return event.node in self._unjudged
            case FromAgent(
                message=wire.VolumeStatus() | wire.Activity() | wire.ConvergeProgress() | wire.AuditAnswer()
            ):
                return False
            case FromAgent():
                return event.node in self._unjudged
            case (
                QuarantineAsked()
                | ReleaseAsked()
                | ResyncAsked()
                | BaselineCreateAsked()
                | PinAsked()
                | AllowAsked()
                | RejectAsked()
            ):
                return bool(self._unjudged)
            case _:
                return False

    def due(self, event: Event, now: float, nodes: int) -> float:
        """When what follows from an event that was taken now is due: `now`, or a moment later."""
        if isinstance(event, RootStored):
            self._unjudged.add(event.node)
        waits = isinstance(
            event,
            (Connected, Disconnected, DuplicateRefused, RootStored, Scanned, Watched, FromAgent, Tick),
        )
        return max(now, self._not_before) if waits and nodes > PROMPT_NODES else now

    @property
    def unjudged(self) -> frozenset[str]:
        return frozenset(self._unjudged)

    def followed(self, now: float, nodes: int) -> None:
        """What follows is being looked for, from now on."""
        self._rest(now, nodes)
        self._unjudged.clear()
        self._follows = True

    def ended(self, now: float, nodes: int) -> None:
        """A step has ended now: what it followed with may have taken longer than the pause."""
        if self._follows:
            self._rest(now, nodes)
        self._follows = False

    def _rest(self, now: float, nodes: int) -> None:
        self._not_before = now + nodes * PAUSE_S_A_NODE
