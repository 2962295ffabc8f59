"""The agent's part of `closeranks doctor`: can this machine hold, serve and repair its volumes?

The agent itself re-checks what it relies on; the doctor says beforehand what would stop it. What each volume stands on
is looked at by `grounds`, what the coordinator and the running agent say by `standing`.
"""

from __future__ import annotations

import os
from typing import Protocol

from closeranks_proto.findings import Finding, ok, warn
from closeranks_proto.kinds import Address
from closeranks_proto.lines import printable

from .config import IN_CLEAR, AgentConfig, load_agent_config
from .grounds import examine_volume
from .hands import freezing
from .standing import examine_agent_itself, examine_coordinator


class Probes(Protocol):
    """The general probes that the program hands in."""

    def open_files(self, needed: int, what_for: str) -> Finding: ...
    def filesystem(self, path: str) -> tuple[str, str]: ...
    def state_directory(self, path: str, what_for: str) -> list[Finding]: ...
    def port(self, key: str, address: Address) -> Finding: ...
    def dial(self, address: Address) -> str: ...
    def get(self, url: str) -> tuple[int, bytes, str]: ...


def examine_agent(file: str, probes: Probes) -> list[Finding]:
    """All findings. Raises SettingsError where the file can not be used."""
    config = load_agent_config(file)
    findings = [ok("configuration", f"{file} is valid")]
    findings += [_warning(text) for text in config.warnings]
    findings += probes.state_directory(
        config.state_dir, "the agent keeps index, journal and fence there and does not start without it"
    )
    findings += examine_coordinator(config, probes)
    listening = probes.port("listen", config.listen)
    findings.append(listening)
    findings += _advertised(config, probes)
    findings.append(probes.open_files(1024, "hashing, peers and the index"))
    findings += examine_hands(config)
    findings += examine_agent_itself(config, probes)
    for volume in config.volumes:
        findings += examine_volume(volume, probes)
    return findings


def _warning(text: str) -> Finding:
    if text == IN_CLEAR:
        return warn(
            "coordinator",
            "http:// beyond this machine, as insecure = true allows: what agent and coordinator say is not encrypted",
            "who can read along sees names of files and of programs, and who can stand in between can give this node "
            "orders, such as what its files shall be",
            "nothing, if only your own servers are on that network; else put a TLS proxy before the coordinator's "
            "listen_agents, write https:// here and take insecure out",
        )
    return warn("configuration", text, "it will surprise somebody", "change it, or accept it knowingly")


def examine_hands(config: AgentConfig) -> list[Finding]:
    """Can the hand behind a change be told, and what may be done about a runaway?"""
    permits = config.reactions
    findings = [_writers()]
    if not permits.allow_pause and not permits.allow_freeze:
        none = "none is allowed: a hold pauses and freezes nothing on this machine"
        return [*findings, ok("reactions", none)]
    if permits.allow_pause and os.geteuid() != 0:
        findings.append(
            warn(
                "reactions",
                "allow_pause = true, and the agent is not root",
                "it can stop only processes of its own user",
                "run the agent as root, or take the permission back",
            )
        )
    elif permits.allow_pause:
        findings.append(ok("reactions", "writing processes can be paused while a guard holds this node"))
    for volume in config.volumes if permits.allow_freeze else ():
        reason = freezing.why_not(volume.path)
        findings.append(
            ok("reactions", f"volume {volume.name} can be frozen: it is a mount of its own")
            if not reason
            else warn(
                "reactions",
                f"volume {volume.name} can not be frozen: {printable(reason)}",
                "allow_freeze = true, but a hold leaves this volume writable",
                "give the volume a mount of its own, or accept it knowingly",
            )
        )
    return findings


def _writers() -> Finding:
    try:
        os.readlink("/proc/1/exe")
    except OSError as error:
        return warn(
            "writers",
            f"the programs of other users' processes can not be seen ({error.strerror})",
            "changes and incidents name such a writer by its short name alone, or not at all",
            "this needs CAP_SYS_PTRACE, which this container or unit takes even from root: give it that capability, "
            "and mount /proc without hidepid"
            if os.geteuid() == 0
            else "run the agent as root or with CAP_SYS_PTRACE, and mount /proc without hidepid",
        )
    return ok("writers", "the processes that write can be named")


def _advertised(config: AgentConfig, probes: Probes) -> list[Finding]:
    if config.advertise is None:
        return []
    reason = probes.dial(config.advertise)
    if not reason:
        return [ok("advertise", f"{config.advertise} accepts connections, as seen from here")]
    return [
        warn(
            "advertise",
            f"{config.advertise}: {reason}, as seen from here",
            "peers fetch chunks there; if they can not reach it, this node is no source",
            "fine while the agent is stopped; else mend the address or the way to it",
        )
    ]
