"""The numbers that guards and transfers go by, as coordinator.toml states them; defaults are for a site's first day.

Everything here can be changed while the coordinator runs. What each number means to an operator stands in
the coordinator's README.
"""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class GuardRules:
    """`[volume.guards]`, by default `[guards]`. Shares are of a volume's entries, units in the names.

    *Observed* commits wait for at most `observe_s`, or until the burst is over: what a runaway writes first
    is spread no more than the rest of it.
    """

    enabled: bool = True
    deleted_share: float = 0.2
    changed_share: float = 0.5
    share_min_paths: int = 100
    share_window_s: float = 600.0
    type_changes: int = 20
    rate_window_s: float = 60.0
    rate_factor: float = 10.0  # times the node's usual, and so many deviations above its peers
    rate_min_bytes: int = 2048 * MIB  # in a window; less is never unusual
    rate_min_files: int = 200_000
    warm_up_s: float = 86400.0  # how long a node's usual is learned before it is held against it
    disk_full_in_s: float = 600.0
    disk_min_share: float = 0.02  # of a disk that must have been filled before a forecast counts
    observe_bytes_s: int = 8 * MIB
    observe_files_s: int = 256
    observe_s: float = 5.0
    allow_s: float = 900.0
    pause_writer: bool = False
    freeze: bool = False


@dataclass(frozen=True, slots=True)
class SpeedWindow:
    """One line of the weekly schedule: on `days` (0 is Monday) from `start_s` to `end_s` of the day."""

    days: tuple[int, ...]
    start_s: int
    end_s: int
    node_bytes_s: int | None
    fleet_bytes_s: int | None


@dataclass(frozen=True, slots=True)
class SpeedRules:
    """`[speed]`: how fast chunks may travel; None: as fast as they can. Windows overrule the base in their order.

    Their clock is that of `zone`, by the machine's time zone database, or else `utc_offset_s` east of UTC.
    """

    node_bytes_s: int | None = None
    fleet_bytes_s: int | None = None
    utc_offset_s: int = 0
    windows: tuple[SpeedWindow, ...] = ()
    zone: str | None = None
