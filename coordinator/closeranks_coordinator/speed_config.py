"""`[speed]` of coordinator.toml: how fast chunks may travel, and when.

Left out, a limit is none. In a `[[speed.window]]` a limit that is left out is the base's, and "none" lifts it
for that time. Windows are read in the file's order: the first that holds at a moment is in force then.
"""

from __future__ import annotations

import re
from zoneinfo import ZoneInfo

from closeranks_proto import kinds
from closeranks_proto.settings import Invalid, Kind, Table

from .core.rules import SpeedRules, SpeedWindow
from .core.speed import DAY_S, DAYS, LEAST_BYTES_S, MOST_BYTES_S, rate_words, told

WINDOWS_MAX = 64
OFFSET_MAX_S = 14 * 3600  # no clock on Earth is farther from UTC
SPEED_KEYS = ("node_bytes_s", "fleet_bytes_s", "utc_offset", "zone", "window")
_CLOCK = re.compile(r"([01][0-9]|2[0-4]):([0-5][0-9])")
_SHORT = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*([kMG])")
_TIMES = {"k": 10**3, "M": 10**6, "G": 10**9}
_OFFSET = re.compile(r"([+-])([01][0-9]):([0-5][0-9])")


def read_speed(root: Table) -> SpeedRules:
    """The table, or the rules without any limit where there is none."""
    table = root.table("speed")
    node = table.read("node_bytes_s", _limit(), None)
    fleet = table.read("fleet_bytes_s", _limit(), None)
    offset_s = table.read("utc_offset", _offset(), 0)
    zone = table.read("zone", _zone(), None)
    if zone is not None and table.has("utc_offset"):
        table.reject("zone", "either `zone` or `utc_offset` says what the windows' clock is, not both")
    windows = tuple(_read_window(one, node, fleet) for one in table.tables("window"))
    if len(windows) > WINDOWS_MAX:
        table.reject("window", f"{len(windows)} windows; at most {WINDOWS_MAX} are allowed")
    table.close()
    return SpeedRules(node, fleet, offset_s, windows, zone)


def _read_window(table: Table, node: int | None, fleet: int | None) -> SpeedWindow:
    days = table.read(
        "days", kinds.distinct(kinds.many(kinds.choice(DAYS), 1, 7)), DAYS,
        "on which days it begins",
    )  # fmt: skip
    start_s = table.read("from", _clock(86399), 0, "when it begins, on each of its days")
    end_s = table.read("to", _clock(DAY_S), DAY_S, "when it ends; a time before `from` is on the next day")
    if start_s == end_s:
        table.reject("to", 'it begins and ends at once; a whole day is from = "00:00", to = "24:00"')
    if not table.has("node_bytes_s") and not table.has("fleet_bytes_s"):
        table.reject("days", 'the window limits nothing: give node_bytes_s or fleet_bytes_s, or "none"')
    node = table.read("node_bytes_s", _limit(), node)
    fleet = table.read("fleet_bytes_s", _limit(), fleet)
    table.close()
    return SpeedWindow(tuple(sorted(DAYS.index(day) for day in days)), start_s, end_s, node, fleet)


def notes(rules: SpeedRules) -> list[str]:
    """What the schedule comes to, for `check-config`."""
    if rules == SpeedRules():
        return []
    base = f"a node {rate_words(rules.node_bytes_s)}, the fleet {rate_words(rules.fleet_bytes_s)}"
    found = [f"[speed]: {base}" + (" outside of the windows" if rules.windows else "")]
    found += [
        f"[speed]: {told(one)} ({_clock_words(rules)}): a node {rate_words(one.node_bytes_s)}, "
        f"the fleet {rate_words(one.fleet_bytes_s)}"
        for one in rules.windows
    ]
    return found


def _clock_words(rules: SpeedRules) -> str:
    if rules.zone is not None:
        return rules.zone
    offset_s = rules.utc_offset_s
    sign, minutes = "-" if offset_s < 0 else "+", abs(offset_s) // 60
    return f"UTC{sign}{minutes // 60:02d}:{minutes % 60:02d}" if offset_s else "UTC"


def _limit() -> Kind[int | None]:
    number = kinds.integer(LEAST_BYTES_S, MOST_BYTES_S, "bytes/s")

    def accept(value: object) -> int | None:
        if value == "none":
            return None
        found = _SHORT.fullmatch(value) if isinstance(value, str) else None
        return number.accept(value if found is None else round(float(found[1]) * _TIMES[found[2]]))

    return Kind(f'{number.allowed}, a text like "50M" (k, M, G are powers of 1000), or "none"', accept)


def _clock(most_s: int) -> Kind[int]:
    """A time of the day, in seconds."""

    def accept(value: object) -> int:
        found = _CLOCK.fullmatch(value) if isinstance(value, str) else None
        second = -1 if found is None else int(found[1]) * 3600 + int(found[2]) * 60
        if not 0 <= second <= most_s:
            raise Invalid("not a time of the day")
        return second

    return Kind('a time like "22:00"' + (', up to "24:00"' if most_s == DAY_S else ""), accept)


def _offset() -> Kind[int]:
    """Seconds east of UTC."""

    def accept(value: object) -> int:
        found = _OFFSET.fullmatch(value) if isinstance(value, str) else None
        offset_s = 0 if found is None else int(found[2]) * 3600 + int(found[3]) * 60
        if found is None or offset_s > OFFSET_MAX_S:
            raise Invalid("not an offset from UTC")
        return -offset_s if found[1] == "-" else offset_s

    return Kind('an offset like "+01:00"; it does not follow summer time, `zone` does', accept)


def _zone() -> Kind[str | None]:
    """A name out of the machine's time zone database."""

    def accept(value: object) -> str:
        try:
            return ZoneInfo(value if isinstance(value, str) else "").key
        except (OSError, ValueError, KeyError) as error:  # a directory; a path; none of that name
            raise Invalid("not a time zone that this machine knows") from error

    return Kind('a name like "Europe/Berlin" (`ls /usr/share/zoneinfo`; the package tzdata has them)', accept)
