"""What a writer has changed itself and waits to be merged: taken on with each step of it, not listed anew.

A burst that is observed comes in hundreds of commits, and each step costs what that commit changed: listed and counted
as a whole each time, 100,000 files that were renamed cost 40 s of processor time in all.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from .judge import Analysis, Touched
from .truth import Values


@dataclass(slots=True)
class Changes:
    """`own`: key to (its entry, the truth's), as `analysis` has it. `moved`: keys of which something may be otherwise
    since guards counted last; None: any.
    """

    analysis: Analysis
    own: dict[bytes, Values] = field(init=False)
    moved: dict[bytes, None] | None = None

    def __post_init__(self) -> None:
        differing = self.analysis.differing
        self.own = {key: differing[key] for key in self.analysis.own_keys()}

    def follow(self, after: Analysis, touched: Iterable[bytes]) -> None:
        """The next analysis: these keys may be otherwise in it."""
        own, moved = self.own, self.moved
        for key in touched:
            if after.is_own(key):
                own[key] = after.differing[key]
            else:
                own.pop(key, None)
            if moved is not None:
                moved[key] = None
        if moved is not None and len(moved) > len(own):
            self.moved = None  # no more is kept of them than there are changes
        self.analysis = after

    def counted(self) -> None:
        """Guards have counted all of it as it is now."""
        self.moved = {}


def followed(
    changes: Changes | None, before: Analysis | None, after: Analysis, touched: Touched
) -> Changes | None:
    """The same after one step of the node or the truth; None: it has to be listed."""
    if changes is None or touched is None or changes.analysis is not before:
        return None
    if after is not before:
        changes.follow(after, touched)
    return changes
