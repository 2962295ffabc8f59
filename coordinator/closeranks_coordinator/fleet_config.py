"""`[fleet]` and `[[volume]]` of coordinator.toml: what the judge goes by.

A file is accepted only if its fences leave a quorum: with n nodes that is n // 2 + 1, so at most (n - 1) // 2 may be
fenced before nobody can be judged any more. What a valid file means is said in `fleet_notes`.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, replace
from typing import Literal, cast

from closeranks_proto import kinds, limits
from closeranks_proto.digests import ALGORITHMS
from closeranks_proto.lines import printable
from closeranks_proto.settings import Invalid, Kind, Table

from .core.model import FleetConfig, OnDivergence, Policy, VolumeConfig
from .core.rules import GuardRules
from .core.truth import fence_bound
from .fleet_notes import ON_DIVERGENCE, nodes_words, some_names
from .fleet_notes import notes as fleet_notes
from .fleet_notes import warnings as fleet_warnings
from .guard_config import guards_below, read_guards
from .speed_config import notes as speed_notes
from .speed_config import read_speed

DAY_S = 86400.0
MAX_NODES = 1000
MAX_VOLUMES = 256
MAX_IGNORE = 1000
QUORUM_SETTLE_S = 30.0
OTHER_SETTLE_S = 2.0
SETTLE_MAX_S = 600.0
# A disk reads ten times as fast and more; 12 TB and 120 million files are within reach of a week.
SCRUB_INTERVAL_S = 7 * DAY_S
SCRUB_BYTES_S = 20_000_000
SCRUB_FILES_S = 200
AUDIT_INTERVAL_S = 60.0
TRACK = ("mode", "owner", "mtime", "xattrs")
FLEET_KEYS = (
    "digest", "nodes", "max_quarantined", "auto_release_max", "auto_release_window_s",
    "recurrence_max", "lb_max_lag_s", "lb_unreachable_grace_s", "history_keep_s",
)  # fmt: skip
VOLUME_KEYS = (
    "name", "policy", "writers", "nodes", "on_divergence", "settle_s", "settle_max_s", "scan_interval_s",
    "on_lag", "lag_grace_s", "chunk_bytes", "ignore", "track", "special_bits", "trash_max_bytes",
    "trash_keep_s", "scrub_interval_s", "scrub_bytes_s", "scrub_files_s", "audit_interval_s",
)  # fmt: skip
POLICIES = ("quorum", "writers", "any-writer", "baseline")
REPLICATED = ("writers", "any-writer")


@dataclass(frozen=True, slots=True)
class FleetReading:
    """`fleet` is None where the problems say why."""

    fleet: FleetConfig | None
    warnings: tuple[str, ...]
    notes: tuple[str, ...]


def read_fleet(root: Table) -> FleetReading:
    """Both tables. Problems are collected in `root.problems`."""
    table = root.table("fleet")
    digest = table.read("digest", kinds.choice(tuple(ALGORITHMS)), "xxh3-128")
    nodes = table.read(
        "nodes",
        kinds.distinct(kinds.many(kinds.name("node"), 1, MAX_NODES)),
        (),
        "every node of the fleet by its name",
    )
    max_quarantined = table.read("max_quarantined", kinds.integer(0, MAX_NODES, "nodes"), 1)
    auto_release_max = table.read("auto_release_max", kinds.integer(0, 1000, "releases"), 3)
    window_s = table.read("auto_release_window_s", kinds.number(0, 365 * DAY_S), 3600.0)
    recurrence_max = table.read("recurrence_max", kinds.integer(1, 1000, "returns"), 3)
    lb_max_lag_s = table.read("lb_max_lag_s", kinds.number(0, 365 * DAY_S), 300.0)
    lb_grace_s = table.read("lb_unreachable_grace_s", kinds.number(0, DAY_S), 30.0)
    history_keep_s = table.read("history_keep_s", kinds.number(60, 3650 * DAY_S), 7 * DAY_S)
    speed = read_speed(root)
    guards = read_guards(root.table("guards"), GuardRules())
    volumes = _read_volumes(root, nodes, guards)
    notes = _judge_max_quarantined(table, max_quarantined, volumes) if nodes else []
    table.close(dict.fromkeys(VOLUME_KEYS, "[[volume]]"))
    if root.problems.found:
        return FleetReading(None, (), ())
    fleet = FleetConfig(
        digest=digest,
        nodes=tuple(sorted(nodes)),
        max_quarantined=max_quarantined,
        auto_release_max=auto_release_max,
        auto_release_window_s=window_s,
        lb_max_lag_s=lb_max_lag_s,
        lb_unreachable_grace_s=lb_grace_s,
        volumes=tuple(sorted(volumes, key=lambda volume: volume.name)),
        history_keep_s=history_keep_s,
        speed=speed,
        recurrence_max=recurrence_max,
    )
    return FleetReading(
        fleet,
        tuple(fleet_warnings(fleet)),
        tuple(notes + fleet_notes(fleet) + speed_notes(speed)),
    )


def _read_volumes(root: Table, nodes: tuple[str, ...], guards: GuardRules) -> list[VolumeConfig]:
    tables = root.tables("volume")
    if not tables and "volume" not in root.values:
        root.problems.add(
            "[[volume]] is missing: a fleet shares at least one tree; "
            "write [[volume]] with its name and on_divergence"
        )
    if len(tables) > MAX_VOLUMES:
        root.problems.add(f"[[volume]] stands {len(tables)} times; at most {MAX_VOLUMES} volumes are allowed")
        return []
    volumes: list[VolumeConfig] = []
    for table in tables:
        ruled = sum("guards" in one.values for one in tables[: table.index or 0])
        volume = replace(_read_volume(table, nodes), guards=guards_below(table, guards, ruled))
        table.close({key: "[fleet]" for key in FLEET_KEYS if key not in VOLUME_KEYS})
        if volume.name and any(other.name == volume.name for other in volumes):
            table.reject("name", "another [[volume]] has this name; names are unique")
        volumes.append(volume)
    return volumes


def _read_volume(table: Table, fleet_nodes: tuple[str, ...]) -> VolumeConfig:
    name = table.read("name", kinds.name("volume"), "", "a volume is known by its name on every node")
    table.label = f'"{name}"' if name else ""
    policy = cast(Policy, table.read("policy", kinds.choice(POLICIES), "quorum"))
    nodes = _read_nodes(table, fleet_nodes)
    settle_s, settle_max_s = _read_settle(table, policy)
    return VolumeConfig(
        name=name,
        policy=policy,
        nodes=nodes,
        on_divergence=_read_on_divergence(table),
        settle_s=settle_s,
        settle_max_s=settle_max_s,
        scan_interval_s=table.read("scan_interval_s", scan_interval_kind(), 60.0),
        on_lag=_read_on_lag(table, policy),
        lag_grace_s=table.read("lag_grace_s", kinds.number(0, DAY_S), 10.0),
        chunk_bytes=_read_chunk_bytes(table),
        ignore=table.read("ignore", kinds.many(_pattern(), high=MAX_IGNORE), ()),
        track=_read_track(table),
        special_bits=table.read("special_bits", kinds.boolean(), False),
        trash_max_bytes=table.read(
            "trash_max_bytes", _optional(kinds.integer(limits.MIB, 2**60, "bytes")), None
        ),
        trash_keep_s=table.read("trash_keep_s", kinds.number(0, 3650 * DAY_S), 7 * DAY_S),
        writers=_read_writers(table, policy, nodes),
        scrub_interval_s=table.read("scrub_interval_s", kinds.scrub_interval(), SCRUB_INTERVAL_S),
        scrub_bytes_s=table.read("scrub_bytes_s", kinds.scrub_bytes(), SCRUB_BYTES_S) or None,
        scrub_files_s=table.read("scrub_files_s", kinds.scrub_files(), SCRUB_FILES_S) or None,
        audit_interval_s=table.read("audit_interval_s", _audit_interval(), AUDIT_INTERVAL_S),
    )


def _audit_interval() -> Kind[float]:
    """From the start of one audit to the start of the next."""
    return kinds.number(0, 366 * DAY_S, "s (0: none)")


def _read_writers(table: Table, policy: Policy, nodes: tuple[str, ...]) -> tuple[str, ...]:
    """The nodes whose changes make the truth."""
    listed = table.read("writers", kinds.distinct(kinds.many(kinds.name("node"), high=MAX_NODES)), ())
    if policy == "any-writer":
        if listed:
            table.reject(
                "writers",
                "with any-writer every node of the volume is a writer; leave writers out, "
                'or write policy = "writers" to let only these write',
            )
        return nodes
    if policy != "writers":
        if listed and table.values.get("policy", policy) == policy:  # one that is misspelt is said already
            table.reject(
                "writers",
                f"only policy writers knows writers, and this volume goes by {policy}; leave writers out, "
                'or write policy = "writers"',
            )
        return ()
    if not listed and not table.values.get("writers"):
        table.reject(
            "writers",
            "policy writers needs at least one node whose changes make the truth: every other node is brought to "
            f"what these hold; allowed: some of {some_names(nodes)}",
        )
    raw = table.values.get("writers")
    given = listed or tuple(
        one for one in (raw if isinstance(raw, list) else ()) if isinstance(one, str) and kinds.is_name(one)
    )
    unknown = list(dict.fromkeys(node for node in given if node not in nodes))
    if unknown and nodes:
        table.reject(
            "writers",
            f"not a node of this volume: {', '.join(unknown)}; allowed: some of {some_names(nodes)}",
        )
    return tuple(sorted(node for node in listed if node not in unknown))


def _read_on_lag(table: Table, policy: Policy) -> Literal["resync", "wait"]:
    found = cast(Literal["resync", "wait"], table.read("on_lag", kinds.choice(("resync", "wait")), "resync"))
    if found == "wait" and policy in REPLICATED:
        table.reject(
            "on_lag",
            f"with policy {policy} closeranks itself carries the writes, so nobody else would bring a late node "
            'up to date; allowed: "resync"',
        )
    return found


def scan_interval_kind() -> Kind[float]:
    """Ten scans a second is a test's wish; a week without a scan judges nobody."""
    return kinds.number(0.1, 7 * DAY_S)


def _read_on_divergence(table: Table) -> OnDivergence:
    explained = "; ".join(f"{word}: {meaning}" for word, meaning in ON_DIVERGENCE.items())
    required = "what to do with a node that breaks ranks is yours to say, so it has no default"
    return cast(
        OnDivergence,
        table.read("on_divergence", kinds.choice(tuple(ON_DIVERGENCE), None, explained), "alert", required),
    )


def _read_settle(table: Table, policy: Policy) -> tuple[float, float]:
    default_s = QUORUM_SETTLE_S if policy == "quorum" else OTHER_SETTLE_S
    settle_s = table.read("settle_s", kinds.number(0, DAY_S), default_s)
    settle_max_s = table.read("settle_max_s", kinds.number(0, 7 * DAY_S), max(SETTLE_MAX_S, settle_s))
    if settle_s > settle_max_s:
        table.reject(
            "settle_max_s",
            f"settle_s is {settle_s:g}: a rolling change may extend the wait to settle_max_s, "
            f"which must not be shorter; allowed: {settle_s:g} or more",
        )
    return settle_s, settle_max_s


def _read_nodes(table: Table, fleet_nodes: tuple[str, ...]) -> tuple[str, ...]:
    kind = kinds.distinct(kinds.many(kinds.name("node"), 1, MAX_NODES))
    nodes = table.read("nodes", kind, fleet_nodes)
    unknown = [node for node in nodes if node not in fleet_nodes]
    if unknown and fleet_nodes:
        listed = ", ".join(unknown)
        table.reject(
            "nodes",
            f"not in fleet.nodes: {listed}; add there or remove here (fleet.nodes are {some_names(fleet_nodes)})",
        )
    return tuple(sorted(node for node in nodes if node not in unknown))


def _read_chunk_bytes(table: Table) -> int:
    chunk_bytes = table.read(
        "chunk_bytes",
        kinds.integer(limits.MIN_CHUNK_BYTES, limits.MAX_CHUNK_BYTES, "bytes"),
        limits.CHUNK_BYTES,
    )
    if chunk_bytes % 4096:
        table.reject("chunk_bytes", "chunks are whole blocks; allowed: a multiple of 4096")
        return limits.CHUNK_BYTES
    return chunk_bytes


def _read_track(table: Table) -> tuple[str, ...]:
    wanted = table.read("track", kinds.distinct(kinds.many(kinds.choice(TRACK))), ("mode",))
    return tuple(aspect for aspect in TRACK if aspect in wanted)


def _pattern() -> Kind[str]:
    """One gitignore pattern that compiles. pathspec is imported only where patterns are read."""

    def accept(value: object) -> str:
        from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern

        text = kinds.text("", 4096).accept(value)
        if "\n" in text or "\0" in text:
            raise Invalid("a pattern is one line without NUL")
        try:
            expression, _ = GitIgnoreSpecPattern.pattern_to_regex(text)
            with warnings.catch_warnings(action="ignore"):  # of sets that a later Python may read otherwise
                re.compile(expression or "")
        except (ValueError, TypeError, re.error) as error:
            raise Invalid(f"not a gitignore pattern: {printable(str(error))}") from None
        if expression is None:
            raise Invalid(
                "it matches nothing"
                + ("; a pattern that begins with # is written \\#" if text.startswith("#") else "")
            )
        return text

    return Kind("a gitignore pattern, like *.tmp or cache/**", accept)


def _optional(of: Kind[int]) -> Kind[int | None]:
    return Kind(of.allowed + "; left out: 10% of the file system", of.accept, of.parse)


def _judge_max_quarantined(table: Table, wanted: int, volumes: list[VolumeConfig]) -> list[str]:
    """A bound beyond what any quorum volume can bear is an error, beyond a smaller one's a note.

    One is always accepted: where even one costs the quorum, nobody can be accused in the first place.
    """
    quorum = [volume for volume in volumes if volume.policy == "quorum" and volume.nodes]
    bounds = {volume.name: fence_bound(len(volume.nodes)) for volume in quorum}
    if wanted <= 1 or not bounds:
        return []
    largest = max(max(bounds.values()), 1)
    if wanted > largest:
        table.reject(
            "max_quarantined",
            f"a quorum would be lost: fenced nodes have no vote, and with {_largest_name(bounds, volumes)} "
            f"more than {largest} fenced would leave fewer than a quorum; allowed: 0 to {largest}",
        )
        return []
    return [
        f'volume "{name}": its quorum bears {nodes_words(bound, "fenced ")}, '
        f"fewer than max_quarantined = {wanted}; the judge stops at the lower of the two"
        for name, bound in bounds.items()
        if bound < wanted
    ]


def _largest_name(bounds: dict[str, int], volumes: list[VolumeConfig]) -> str:
    largest = max(bounds, key=lambda name: bounds[name])
    count = next(len(volume.nodes) for volume in volumes if volume.name == largest)
    return f'the {count} nodes of volume "{largest}"'
