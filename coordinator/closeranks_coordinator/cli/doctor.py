"""The coordinator's part of `closeranks doctor`: its file, its state, its ports, and whether it can judge."""

from __future__ import annotations

from pathlib import Path

from closeranks_proto.findings import Finding, fail, ok, warn

from ..config import CoordinatorConfig, load_coordinator_config
from ..core.model import VolumeConfig
from ..core.truth import fence_bound, quorum_of
from ..storage.examination import examine_store
from .probes import Probes

_STATE = "the coordinator keeps history, incidents and fences there and does not start without it"


def examine_coordinator(file: str, probes: Probes) -> list[Finding]:
    """All findings. Raises SettingsError where the file can not be used."""
    config = load_coordinator_config(file)
    findings = [ok("configuration", f"{file} is valid")]
    findings += [
        warn("configuration", text, "it will surprise somebody", "change it, or accept it knowingly")
        for text in config.warnings
    ]
    findings += probes.state_directory(config.state_dir, _STATE)
    findings.append(_store(config))
    if probes.healthy(config.listen_api):
        findings.append(ok("listen_api", f"a coordinator runs at {config.listen_api} and is healthy"))
    else:
        findings.append(probes.port("listen_agents", config.listen_agents))
        findings.append(probes.port("listen_api", config.listen_api))
    findings.append(_exposure(config))
    findings.append(
        probes.open_files(256 + 4 * len(config.fleet.nodes), f"{len(config.fleet.nodes)} agents and the API")
    )
    for volume in config.fleet.volumes:
        findings.append(_quorum(volume, config.fleet.max_quarantined))
        findings.append(_settle(volume))
    return findings


def _store(config: CoordinatorConfig) -> Finding:
    found = examine_store(Path(config.state_dir), config.fleet.digest)
    match found.verdict:
        case "sound":
            return ok("store", found.text)
        case "broken":
            return fail("store", found.text, "the coordinator does not start with it (exit 1)", "as it says")
        case "unknown":
            why = "whether the coordinator can start with it is not known"
            return warn("store", found.text, why, "ask again as the user who runs the coordinator")


def _exposure(config: CoordinatorConfig) -> Finding:
    if config.listen_agents.loopback:
        return ok("listen_agents", "agents of this machine only")
    return warn(
        "listen_agents",
        f"{config.listen_agents} is open to the network without TLS",
        "whoever reaches it and knows a node's name can speak for that node",
        "let only the nodes reach it: a private network, a firewall, or a TLS proxy that asks for certificates",
    )


def _quorum(volume: VolumeConfig, max_quarantined: int) -> Finding:
    count = len(volume.nodes)
    subject = f"volume {volume.name}"
    if volume.policy == "baseline":
        return ok(subject, f"policy baseline: {count} nodes are compared with the pinned baseline")
    if volume.policy == "any-writer":
        return ok(
            subject, f"policy any-writer: what any of the {count} nodes changes is carried to the others"
        )
    if volume.policy == "writers":
        named = ", ".join(volume.writers[:8]) + (" and more" if len(volume.writers) > 8 else "")
        holds = "holds" if len(volume.writers) == 1 else "hold"
        return ok(
            subject,
            f"policy writers: what {named} {holds} is carried to all {count} nodes; the others are compared with it",
        )
    bound = fence_bound(count)
    arithmetic = (
        f"{count} nodes, a quorum is {quorum_of(count)}: nobody is judged with more than {bound} away"
    )
    if bound < 1:
        return warn(
            subject,
            arithmetic,
            "every difference stays undetermined and nobody can be named",
            "give the volume at least three nodes, or use policy baseline",
        )
    if bound < max_quarantined:
        return warn(
            subject,
            f"{arithmetic}, and max_quarantined is {max_quarantined}",
            "the judge stops at the lower of the two",
            f"set max_quarantined to {bound} if that surprises",
        )
    return ok(subject, f"{arithmetic}; the judge fences at most {max_quarantined}")


def _settle(volume: VolumeConfig) -> Finding:
    subject = f"volume {volume.name}"
    if volume.policy != "quorum":
        return ok(subject, f"settle_s is {volume.settle_s:g}")
    majority = quorum_of(len(volume.nodes))
    if volume.settle_s < 5:
        return warn(
            subject,
            f"settle_s is {volume.settle_s:g}: short",
            f"if your own replication reaches {majority} nodes later, the first to have a change looks like a rogue",
            "measure it (write a file, watch closeranks status) and set settle_s above the longest time that you saw",
        )
    return ok(
        subject,
        f"settle_s is {volume.settle_s:g}: within it your own replication must bring a change to {majority} nodes",
    )
