"""`[guards]` and `[volume.guards]` of coordinator.toml: when a change is held for a person to decide.

`[guards]` are the defaults of all volumes; below a `[[volume]]`, `[volume.guards]` overrides key by key. The
keys are the fields of `GuardRules`.
"""

from __future__ import annotations

from dataclasses import fields, replace

from closeranks_proto import kinds
from closeranks_proto.settings import Kind, Table

from .core.model import VolumeConfig
from .core.rules import GuardRules

DAY_S = 86400.0
_BYTES_MAX = 2**60
_KINDS: dict[str, Kind[bool] | Kind[int] | Kind[float]] = {
    "enabled": kinds.boolean(),
    "deleted_share": kinds.number(0.001, 1, "of the volume's entries; 1 holds only what empties it"),
    "changed_share": kinds.number(0.001, 1, "of the volume's entries; 1 never holds"),
    "share_min_paths": kinds.integer(1, 10**9, "paths"),
    "share_window_s": kinds.number(1, 7 * DAY_S),
    "type_changes": kinds.integer(0, 10**9, "paths"),
    "rate_window_s": kinds.number(1, DAY_S),
    "rate_factor": kinds.number(1, 10**6, "times"),
    "rate_min_bytes": kinds.integer(1, _BYTES_MAX, "bytes"),
    "rate_min_files": kinds.integer(1, 10**12, "files"),
    "warm_up_s": kinds.number(0, 365 * DAY_S),
    "disk_full_in_s": kinds.number(0, 7 * DAY_S),
    "disk_min_share": kinds.number(0, 1, "of a disk"),
    "observe_bytes_s": kinds.integer(1, _BYTES_MAX, "bytes/s"),
    "observe_files_s": kinds.integer(1, 10**9, "files/s"),
    "observe_s": kinds.number(0, 600),
    "allow_s": kinds.number(1, 30 * DAY_S),
    "pause_writer": kinds.boolean(),
    "freeze": kinds.boolean(),
}
GUARD_KEYS = tuple(field.name for field in fields(GuardRules))
assert set(GUARD_KEYS) == set(_KINDS), "every rule can be configured"


def read_guards(table: Table, defaults: GuardRules) -> GuardRules:
    """The rules of one table, over `defaults`."""
    found = {key: table.read(key, kind, getattr(defaults, key)) for key, kind in _KINDS.items()}
    table.close()
    return replace(defaults, **found)


def guards_below(volume: Table, defaults: GuardRules, number: int) -> GuardRules:
    """`[volume.guards]` of one volume, the `number`-th of those that have one: problems name the volume."""
    table = volume.table("guards")
    table.index, table.label = number, volume.label
    return read_guards(table, defaults)


def warnings(volume: VolumeConfig) -> list[str]:
    """What is dangerous in one volume's rules."""
    rules, label = volume.guards, f'volume "{volume.name}"'
    if not rules.enabled:
        if volume.replicated:
            meaning = (
                "what a runaway deletes, encrypts or writes on one writer reaches every node within a second"
            )
        else:
            meaning = "nobody is told when a node writes as never before or its disk is about to be full"
        return [
            f"{label}: guards.enabled = false: {meaning}; to let one legitimate change through, leave the "
            "guards on and type `closeranks allow`"
        ]
    found = []
    if volume.replicated and rules.observe_s < 1:
        found.append(
            f"{label}: guards.observe_s = {rules.observe_s:g}: the first seconds of a runaway are spread before "
            "a guard can trip"
        )
    if rules.rate_window_s < rules.observe_s:
        found.append(
            f"{label}: guards.rate_window_s = {rules.rate_window_s:g} is shorter than observe_s = "
            f"{rules.observe_s:g}: a burst is forgotten while it is observed"
        )
    return found


def notes(volume: VolumeConfig) -> list[str]:
    """What the rules of one volume come to, for `check-config`."""
    rules, label = volume.guards, f'volume "{volume.name}"'
    if not rules.enabled:
        return []
    found = []
    if volume.replicated:
        found.append(
            f"{label}: held for a person (`closeranks held`): {rules.deleted_share:.0%} of its entries deleted or "
            f"{rules.changed_share:.0%} changed within {rules.share_window_s:g} s, more than "
            f"{rules.rate_min_bytes // 2**20} MiB in {rules.rate_window_s:g} s that are unusual for a node and its "
            f"peers, a disk that will be full in {rules.disk_full_in_s:g} s"
        )
    reactions = [key for key in ("pause_writer", "freeze") if getattr(rules, key)]
    if reactions:
        found.append(
            f"{label}: guards.{' and guards.'.join(reactions)}: done only on nodes whose agent.toml permits it under "
            "[agent.reactions]"
        )
    return found
