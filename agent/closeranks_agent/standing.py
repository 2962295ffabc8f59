"""The doctor's questions to those who already run: this node's coordinator, and this node's own agent.

Whether a name is in the fleet, and whether the port behind an address is the right one, only the coordinator knows.
Whether a volume's root is still the directory that its index was made from, the agent knows while it runs (nobody
else can open its index then), and the index while it does not. So both are asked, and nothing is guessed.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import Protocol, TypeVar
from urllib.parse import urlsplit

import msgspec

from closeranks_proto.findings import Finding, fail, ok, warn
from closeranks_proto.kinds import AGENTS_PORT, Address
from closeranks_proto.lines import printable

from .config import AgentConfig, AgentVolumeConfig
from .disk.database import Damaged
from .disk.index import Index
from .disk.records import StateUnavailable, VolumeGone
from .disk.root import VolumeRoot, index_path
from .link import WRONG_PORT
from .state import state_file, why_damaged
from .watch.sampling import SHOWN
from .web import PROBLEMS_PATH, Said

T = TypeVar("T", bound=msgspec.Struct)
UNKNOWN_HOST = "the host name is not known"  # how a probe begins to say so
_ALONE = "without it nothing is compared, and nobody notices if this node breaks ranks"
_NO_VOTE = "this node has no vote in the volume, nothing of it is compared and nothing is written there"
_STAYS = "the node can not be brought to the truth: it stays behind, or fenced if it was"
# Why a problem matters, by its code.
_MATTERS = {"not_mounted": _NO_VOTE, "no_space": _STAYS, "trash_full": _STAYS}


class Asking(Protocol):
    """The probes that ask others; the program hands them in."""

    def dial(self, address: Address) -> str: ...
    def get(self, url: str) -> tuple[int, bytes, str]: ...


class _Known(msgspec.Struct):
    """The coordinator's answer about a node that it has."""

    node: str
    volumes: tuple[str, ...]


class _Refusal(msgspec.Struct):
    code: str


class _Refused(msgspec.Struct):
    error: _Refusal


# --- the coordinator ------------------------------------------------------------------------------


def examine_coordinator(config: AgentConfig, probes: Asking) -> list[Finding]:
    """Does the address lead to the coordinator, and is this node one of its fleet?"""
    url = config.coordinator
    parts = urlsplit(url)
    reason = probes.dial(Address(parts.hostname or "", parts.port or AGENTS_PORT))
    if reason:
        return [_not_reached(url, parts.hostname or "", reason)]
    status, body, trouble = probes.get(f"{url.rstrip('/')}/v1/agents/{config.node}")
    if status == 200:
        known = _decoded(body, _Known)
        if known is not None and known.node == config.node:
            return [ok("coordinator", f"{url} answers, and knows {config.node}"), *_assigned(config, known)]
    refused = _decoded(body, _Refused)
    if status == WRONG_PORT:
        return [
            fail(
                "coordinator",
                f"{url} is the coordinator's listen_api, for operators; agents are not served there",
                _ALONE,
                f"write the port of its listen_agents (by default {AGENTS_PORT}) as coordinator in agent.toml",
            )
        ]
    if status == 404 and refused is not None and refused.error.code == "unknown_node":
        return [
            ok("coordinator", f"{url} answers"),
            fail(
                "node",
                f'the coordinator has no node "{config.node}"',
                "it refuses this agent: nothing is compared, and nobody notices if this node breaks ranks",
                "mend node in agent.toml; or add the name to [fleet] nodes in coordinator.toml and reload it (SIGHUP)",
            ),
        ]
    what = trouble or f"it answers with HTTP status {status}"
    return [
        fail(
            "coordinator",
            f"{url} accepts connections, but is no coordinator of this version: {what}",
            _ALONE,
            "is coordinator in agent.toml its listen_agents, with http:// or https:// as it is there? Is it as new "
            "as this agent?",
        )
    ]


def _not_reached(url: str, host: str, reason: str) -> Finding:
    if reason == os.strerror(errno.ECONNREFUSED):
        return warn(
            "coordinator",
            f"{url}: {reason}: not running yet?",
            _ALONE,
            "fine before it is started; else: is this its listen_agents? Look for a firewall between the two",
        )
    if reason.startswith(UNKNOWN_HOST):
        return fail(
            "coordinator",
            f"{url}: {reason}",
            _ALONE,
            f"mend the name in agent.toml, or make it known (DNS, /etc/hosts): getent hosts {printable(host)} must "
            "print an address; an address instead of a name works, too",
        )
    return fail(
        "coordinator",
        f"{url}: {reason}",
        _ALONE,
        "is it running, and is this its listen_agents? Look for a firewall between the two",
    )


def _assigned(config: AgentConfig, known: _Known) -> Iterator[Finding]:
    """Volumes of one side that the other does not have."""
    own = {volume.name for volume in config.volumes}
    for name in sorted(own - set(known.volumes)):
        yield warn(
            f"volume {name}",
            f"the coordinator has no volume {name} for {config.node}",
            "the agent leaves this directory alone: it is neither compared nor repaired",
            "mend its name in agent.toml, or add it (and this node to its nodes) in coordinator.toml and reload it",
        )
    for name in sorted(set(known.volumes) - own):
        yield warn(
            f"volume {name}",
            f"the coordinator expects volume {name} of {config.node}, and agent.toml has none",
            "this node stays out of rank in it",
            "add a [[volume]] with its name and path to agent.toml and reload the agent (SIGHUP); or name the "
            "volume's nodes in coordinator.toml without this one",
        )


# --- this node's own agent ------------------------------------------------------------------------


def examine_agent_itself(config: AgentConfig, probes: Asking) -> list[Finding]:
    """What the running agent says of its session and volumes; where none runs, what their indexes say."""
    said = _said_by_agent(config, probes)
    if said is None:
        found = [one for volume in config.volumes for one in _examine_index(config, volume)]
        return [*_examine_state(config), *found]
    if said.node != config.node:
        return [
            warn(
                "listen",
                f"the agent that listens at {config.listen} is that of {said.node}, not of {config.node}",
                "two agents can not share a port: this one can not start (exit 3)",
                "give each a port of its own as listen, or stop the other one",
            )
        ]
    absent = {one.name for one in config.volumes if not os.path.isdir(one.path)}  # which is said elsewhere
    found = [
        fail(f"volume {name}", message, _MATTERS.get(code, "the agent says so"), _as_it_says(code))
        for name, code, message in said.problems
        if name not in absent
    ]  # fmt: skip
    found += [ok(f"volume {name}", SHOWN) for name in said.storms]
    if not said.connected and said.trouble:
        found.append(
            fail("session", said.trouble, _ALONE, "mend what it says; the agent tries again by itself")
        )
    elif said.connected:
        found.append(ok("session", "the running agent is connected to its coordinator"))
    return found


def _said_by_agent(config: AgentConfig, probes: Asking) -> Said | None:
    """None where no agent answers."""
    address = config.listen
    if address.port == 0:
        return None
    host = address.host if address.concrete else ("::1" if ":" in address.host else "127.0.0.1")
    status, body, _ = probes.get(f"http://{Address(host, address.port)}{PROBLEMS_PATH}")
    return _decoded(body, Said) if status == 200 else None


def _examine_state(config: AgentConfig) -> Iterator[Finding]:
    """Of an agent that ran here once and does not answer: whether what it must not forget lets it start."""
    if not state_file(config.state_dir).exists():
        return
    damage = why_damaged(config.state_dir)
    if damage:
        yield fail("state_dir", damage, f"the agent does not start (exit 1): {_ALONE}", "as it says")
    elif config.listen.port:
        yield warn(
            "agent",
            f"no agent answers at {config.listen}, and one has run here with this state_dir",
            _ALONE,
            "fine while it is stopped on purpose; else start it: closeranks agent --config AGENT.TOML, or systemctl "
            "start; its log says why it ended",
        )


def _examine_index(config: AgentConfig, volume: AgentVolumeConfig) -> Iterator[Finding]:
    """Whether the root is the directory that the index was made from; nothing where it has no index."""
    file = index_path(config.state_dir, volume.name)
    subject = f"volume {volume.name}"
    if not file.exists() or not os.path.isdir(volume.path):
        return  # that it is not there is said elsewhere
    try:
        index = Index(file, upgrades={})
    except Damaged:
        return  # the agent makes it anew
    except StateUnavailable as error:
        yield warn(
            subject,
            f"whether its directory is still the one it was can not be seen: {error.problem.message}",
            "a directory that was replaced or emptied is not compared",
            f"if the agent runs, it knows: closeranks nodes {config.node}",
        )
        return
    private = None if volume.private_dir is None else os.fsencode(volume.private_dir)
    try:
        os.close(VolumeRoot(volume.name, os.fsencode(volume.path), file, private).open(index))
        yield ok(subject, "its directory is the one that it was when the agent last read it")
    except VolumeGone as error:
        yield fail(subject, error.problem.message, _NO_VOTE, _as_it_says(error.problem.code))
    finally:
        index.database.close()


def _as_it_says(code: str) -> str:
    if code == "not_mounted":
        return "as it says: mount what belongs there, or let the agent begin anew with what is there now"
    return "as it says; the agent tries again by itself"


def _decoded(body: bytes, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None  # whoever answered is none of ours
