"""`closeranks agent`, and what `check-config` and `doctor` say of agent.toml.

Light to import: the daemon itself is loaded when it runs.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from closeranks_proto.errors import UserError
from closeranks_proto.findings import Checked, Finding

if TYPE_CHECKING:
    from .doctor import Probes

_FLAGS = {
    "node": ("NAME", "this machine's name in coordinator.toml"),
    "coordinator": ("URL", "like https://coordinator.example:7340"),
    "listen": ("ADDRESS", "for peers that fetch chunks, metrics and health, like 0.0.0.0:7342"),
    "advertise": ("ADDRESS", "what peers dial, where it is not what the coordinator sees"),
    "state_dir": ("DIR", "where index, journal and fence are kept"),
    "log_format": ("text|json", "one line each, to standard error"),
}
EPILOG = """\
Precedence: flag, then environment, then FILE, then default. In the environment a key of [agent] is
CLOSERANKS_AGENT_<KEY>: CLOSERANKS_AGENT_NODE, CLOSERANKS_AGENT_COORDINATOR, CLOSERANKS_AGENT_LISTEN,
CLOSERANKS_AGENT_ADVERTISE, CLOSERANKS_AGENT_STATE_DIR, CLOSERANKS_AGENT_LOG_FORMAT,
CLOSERANKS_AGENT_INSECURE; hooks are CLOSERANKS_AGENT_HOOKS_ON_QUARANTINE, ..._ON_RELEASE,
..._ON_HOLD, ..._ON_UNHOLD, ..._TIMEOUT_S, arrays separated by commas; reactions are
CLOSERANKS_AGENT_REACTIONS_ALLOW_PAUSE and ..._ALLOW_FREEZE. Volumes stand in FILE alone.

SIGHUP reads FILE again and keeps the old settings where it is wrong; SIGTERM drains.
Exit: 0 after SIGTERM, 1 fault, 2 usage or configuration, 3 can not listen, 4 state_dir is locked by another.
"""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the program."""
    parser = subparsers.add_parser(
        "agent", help="run the agent of one node", description="Run the agent of this node in the foreground.",
        epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("--config", metavar="FILE", help="agent.toml; else CLOSERANKS_AGENT_CONFIG")
    for key, (metavar, text) in _FLAGS.items():
        parser.add_argument("--" + key.replace("_", "-"), metavar=metavar, help=text)
    parser.set_defaults(daemon=run)


def run(args: argparse.Namespace) -> int:
    """Read the configuration, then run until told to stop. The exit code."""
    import logging

    from .config import load_agent_config
    from .logs import set_up_logging

    file = args.config or os.environ.get("CLOSERANKS_AGENT_CONFIG")
    if not file:
        raise UserError("no configuration: name agent.toml with --config FILE or CLOSERANKS_AGENT_CONFIG")
    flags = {f"agent.{key}": str(getattr(args, key)) for key in _FLAGS if getattr(args, key) is not None}
    config = load_agent_config(file, flags)
    set_up_logging(config.log_format)
    log = logging.getLogger("closeranks.agent")
    for warning in config.warnings:
        log.warning("%s", warning)
    try:
        from .main import run as run_agent

        return run_agent(config)
    except Exception:
        log.critical("the agent stops because of a fault of its own", exc_info=True)
        return 1


def check(file: str) -> Checked:
    """What is in a valid agent.toml. Raises SettingsError."""
    from .config import load_agent_config

    config = load_agent_config(file)
    dialled = f", advertised as {config.advertise}" if config.advertise is not None else ""
    summary = [
        f"node {config.node}, coordinator {config.coordinator}",
        f"peers connect to {config.listen}{dialled}",
        f"state in {config.state_dir}",
    ]
    for volume in config.volumes:
        private = f", private directory {volume.private_dir}" if volume.private_dir is not None else ""
        scan = f", scan every {volume.scan_interval_s:g} s" if volume.scan_interval_s is not None else ""
        summary.append(f'volume "{volume.name}": {volume.path}{private}{scan}')
    return Checked(file, "agent", tuple(summary), config.warnings, config.notes)


def examine(file: str, probes: Probes) -> Sequence[Finding]:
    """What the doctor finds. Raises SettingsError."""
    from .doctor import examine_agent

    return examine_agent(file, probes)
