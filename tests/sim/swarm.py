"""What one seed is about: the fleet, its policy, and which faults may happen.

Each seed enables a random subset of the faults (swarm testing, Groce et al., ISSTA 2012): a fault that happens all
the time hides what only happens without it. A fault that is off never happens; one that is on happens often.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from closeranks_coordinator.core.model import FleetConfig, VolumeConfig
from closeranks_coordinator.core.rules import GuardRules

from .regressions import FOUND, FOUND_LATER, FOUND_WITH

POLICIES = ("quorum", "writers", "any-writer", "baseline")
# Each fault by its name: what it does to whom.
FIRST: Mapping[str, str] = {
    "cut": "a session breaks in the middle, and what was under way is lost",
    "partition": "messages stop in one direction or both, between an agent and the coordinator or two agents",
    "slow_link": "a node's messages take up to two seconds",
    "jitter": "messages take between one and a hundred milliseconds",
    "crash": "an agent is killed at any of its effects, and started again",
    "power": "the same, and what was written without a sync is lost or torn",
    "coordinator_crash": "the coordinator is killed at any of its effects; transactions that were not synced are lost",
    "slow_store": "the coordinator's store takes up to a second for a transaction",
    "store_full": "the coordinator's store is full for a while",
    "freeze": "a process is stopped for up to thirty seconds and goes on",
    "clock": "the coordinator's wall clock jumps by up to an hour, in either direction",
    "rot": "contents change on a disk without anybody having written",
    "eio": "files can not be read for a while",
    "enospc": "no room for contents, or for the agent's state",
    "slow_disk": "scans and converges of a node take up to three seconds",
    "unmount": "a volume's root is gone for a while",
    "filling": "a disk is filled from outside, and a guard holds its node",
    "rogue": "something on one node writes, removes or rewrites what it should not",
    "many_rogues": "the same on several nodes at once",
    "mass": "somebody removes or rewrites most of a volume",
    "operator": "people quarantine, release, resync, allow, reject and pin at random moments",
    "policy": "the configuration is read again with other settings",
    "identity": "an agent loses its state and comes back with another identity",
    "second_agent": "a second machine claims a node's name",
    "late_start": "some nodes are started late, with nothing or with files of their own",
    "collect": "the coordinator's garbage is collected at random moments",
    "stale_site": "the site's own copying reaches some nodes much later",
}
# Those that came later have dice of their own, so that the worlds of older seeds stay what they were.
LATER: Mapping[str, str] = {
    "put_back": "a machine is put back to an image: its volume, its agent's state, or both; or its index is lost",
    "coordinator_lost": "the coordinator loses its state and begins with nothing",
    "liar": "some nodes prove other bytes than they hold, once or for a while, also while most others are away",
    "decay": "contents change on a disk, a writer's too, as no stat tells: a scrub finds them",
    "straggler": "a node takes the site's steps seconds apart, and the coordinator is started again meanwhile",
    "short_journal": "agents keep few steps: what is not acknowledged at once gives way to an announcement",
    "relapse": "something puts back what the truth had there before on a node that has left it behind",
    "flood": "somebody adds many files, and some seconds later removes most of what was there before",
    "absence": "a writer is away while others remove files and the settings of the volume change, and writes meanwhile",
}
YOUNGER = (
    "straggler",
    "short_journal",
    "relapse",
    "flood",
    "absence",
)  # than the seeds that once found something among those of `LATER`
FIXED = range(1000, 1010)  # seeds that the tests play each time
FAULTS: Mapping[str, str] = {**FIRST, **LATER}
LATER_SHARE = 0.12
FOREST_SHARE = 0.1
FOREST_MAX_NODES = 7
SIZES = (3, 3, 3, 4, 5, 5, 7, 9, 16)
SAFETY_S = (40.0, 60.0, 90.0)


@dataclass(frozen=True, slots=True)
class Plan:
    """One seed's world. `faults` are those that may happen."""

    seed: int
    policy: str
    nodes: tuple[str, ...]
    writers: tuple[str, ...]
    faults: frozenset[str]
    watching: frozenset[str]
    late: frozenset[str]
    slow: frozenset[str]
    gathered: bool  # consequences are gathered, as in a fleet of a thousand nodes
    forest: bool  # hundreds of files, so that a tree is more than a page
    pace_s: float  # between two deeds, on average
    safety_s: float
    config: FleetConfig

    @property
    def volume(self) -> VolumeConfig:
        return self.config.volumes[0]

    def command(self) -> str:
        """One line that plays this seed again."""
        chosen = f"--policy {self.policy} --nodes {len(self.nodes)}"
        if self.faults != plan(self.seed, self.policy, len(self.nodes)).faults:
            chosen += f" --faults {','.join(sorted(self.faults))}"
        return f"make sim SEEDS={self.seed}-{self.seed} SIM_ARGS='{chosen}'"


def plan(
    seed: int, policy: str | None = None, nodes: int | None = None, only: frozenset[str] | None = None
) -> Plan:
    """`only`: these faults instead of a random subset."""
    rng = random.Random(f"{seed}/plan")
    chosen = rng.choice(POLICIES)
    size = rng.choice(SIZES)
    policy, count = policy or chosen, nodes or size
    names = tuple(f"node-{number:02d}" for number in range(1, count + 1))
    share = rng.choice((0.15, 0.3, 0.5, 0.8))
    faults = frozenset(sorted(name for name in FIRST if rng.random() < share)) | _later(seed)
    faults = faults if only is None else only
    writers = _writers(rng, policy, names)
    return Plan(
        seed, policy, names, writers, faults,
        frozenset(name for name in names if rng.random() < 0.6),
        frozenset(name for name in names[1:] if "late_start" in faults and rng.random() < 0.3),
        frozenset(name for name in names if "slow_link" in faults and rng.random() < 0.3),
        rng.random() < 0.15, count <= FOREST_MAX_NODES and _dice(seed, "forest") < FOREST_SHARE,
        rng.choice((0.2, 0.5, 1.0, 2.0)), rng.choice(SAFETY_S),
        _audited(seed, _config(rng, policy, names, writers, faults), faults),
    )  # fmt: skip


def _later(seed: int) -> frozenset[str]:
    return frozenset(name for name in LATER if _dice(seed, name) < LATER_SHARE)


def _dice(seed: int, name: str) -> float:
    """Dice of their own. Seeds that once found something stay as they were."""
    is_found = seed in FOUND or any(seed == one for one, _, _ in FOUND_WITH)
    if name in YOUNGER:
        is_found = is_found or any(seed == one for one, _, _ in FOUND_LATER)
    if name in YOUNGER[1:]:
        is_found = is_found or seed in FIXED
    return 1.0 if is_found else random.Random(f"{seed}/{name}").random()


def _audited(seed: int, config: FleetConfig, faults: frozenset[str]) -> FleetConfig:
    """Half of the fleets are audited, by dice of their own. Those that once found something stay as they were."""
    interval_s = random.Random(f"{seed}/audits").choice((0.0, 0.0, 1.0, 5.0))
    if "liar" in faults:
        interval_s = 1.0
    elif seed in FOUND or not interval_s:
        return config
    volumes = tuple(replace(one, audit_interval_s=interval_s) for one in config.volumes)
    return replace(config, volumes=volumes)


def _writers(rng: random.Random, policy: str, names: tuple[str, ...]) -> tuple[str, ...]:
    if policy == "any-writer":
        return names
    return names[: rng.randrange(1, max(2, len(names) // 2))] if policy == "writers" else ()


def _config(
    rng: random.Random, policy: str, names: tuple[str, ...], writers: tuple[str, ...], faults: frozenset[str]
) -> FleetConfig:
    guards = GuardRules(
        enabled=bool(faults & {"mass", "filling", "flood"}) or rng.random() < 0.3,
        share_min_paths=rng.choice((4, 8)), observe_files_s=rng.choice((4, 256)), observe_s=2.0, allow_s=20.0,
    )  # fmt: skip
    volume: dict[str, Any] = {
        "name": "photos", "policy": policy, "nodes": names,
        "on_divergence": rng.choice(("resync", "resync", "quarantine", "alert")),
        "settle_s": rng.choice((0.5, 1.0, 2.0)), "settle_max_s": rng.choice((10.0, 600.0)), "scan_interval_s": 1.0,
        "on_lag": "resync" if rng.random() < 0.85 else "wait", "lag_grace_s": rng.choice((1.0, 3.0)),
        "chunk_bytes": 1 << 20, "ignore": (), "track": ("mode",), "special_bits": False, "trash_max_bytes": None,
        "trash_keep_s": 86400.0, "writers": writers, "guards": guards,
    }  # fmt: skip
    return FleetConfig(
        digest="xxh3-128", nodes=names, max_quarantined=rng.choice((1, 1, 2)), auto_release_max=rng.choice((2, 3, 50)),
        auto_release_window_s=600.0, lb_max_lag_s=300.0, lb_unreachable_grace_s=30.0, volumes=(VolumeConfig(**volume),),
        history_keep_s=rng.choice((60.0, 7 * 86400.0)), recurrence_max=rng.choice((3, 50)),
    )  # fmt: skip


def reconfigured(rng: random.Random, config: FleetConfig) -> FleetConfig:
    """What an operator might change while it runs."""
    volume = config.volumes[0]
    match rng.choice(("divergence", "settle", "limit", "lag", "ignore", "guards")):
        case "divergence":
            volume = replace(volume, on_divergence=rng.choice(("resync", "quarantine", "alert")))
        case "settle":
            volume = replace(volume, settle_s=rng.choice((0.5, 1.0, 2.0)))
        case "limit":
            config = replace(config, max_quarantined=rng.choice((1, 2)))
        case "lag":
            volume = replace(volume, on_lag=rng.choice(("resync", "wait")))
        case "ignore":
            volume = replace(volume, ignore=() if volume.ignore else ("*.tmp",))
        case "guards":
            volume = replace(volume, guards=replace(volume.guards, enabled=not volume.guards.enabled))
    return replace(config, volumes=(volume,))
