"""Numbers and moments in words, for people."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from ..core.shapes import HoldView
from ..core.words import join

NONE = "-"
_UNITS = ("kB", "MB", "GB", "TB", "PB", "EB")


def size(count: int | None) -> str:
    """Bytes with a decimal unit, as everywhere; `-` where not known."""
    if count is None:
        return NONE
    if count < 1000:
        return f"{count} B"
    value = float(count)
    for unit in _UNITS:
        value /= 1000
        if value < 999.95:
            return f"{value:.1f} {unit}"
    return f"{value:.0f} {_UNITS[-1]}"


def count(value: int | None) -> str:
    return NONE if value is None else str(value)


def plural(value: int, one: str, many: str | None = None) -> str:
    return f"{value} {one if value == 1 else many or one + 's'}"


def span(seconds: float) -> str:
    """A duration in its one or two largest units."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{seconds:.1f} s" if 0 < seconds < 10 and seconds != whole else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s" if whole < 600 else f"{whole // 60} min"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def lag(seconds: float | None, at_least: bool) -> str:
    """How far behind, in a table; `>` where it was behind before anybody looked."""
    return NONE if seconds is None else f"{'> ' if at_least and seconds else ''}{span(seconds)}"


def age(moment: str | None, now_ms: int) -> str:
    """How long ago an RFC 3339 moment was; `-` for none, the moment itself where it is not readable."""
    if moment is None:
        return NONE
    try:
        then = datetime.fromisoformat(moment)
        return span(now_ms / 1000 - then.timestamp())
    except (ValueError, OverflowError, OSError):
        return moment


def short_root(root: str | None) -> str:
    return NONE if root is None else root[:12]


def allowance(one: HoldView) -> str:
    """Until when a guard looks away, and from whom."""
    where = f" on {', '.join(one.volumes)}" if one.volumes else ""
    return (
        f"{one.id}  allowed: until {one.expires_at or '?'} {one.guard} does not hold {one.node}{where} again"
    )


def allowances(every: Sequence[HoldView]) -> str:
    """One of them in full; of more only whom they are for."""
    if len(every) == 1:
        return allowance(every[0])
    nodes = join(list(dict.fromkeys(one.node for one in every)), 5)
    guards = join(list(dict.fromkeys(one.guard for one in every)), 5)
    return f"allowed: {len(every)} times guards look away, from {nodes} ({guards}); `closeranks held` says until when"
