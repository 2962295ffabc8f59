"""`closeranks coordinator`, and what `check-config` and `doctor` say of coordinator.toml.

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
    from .probes import Probes

_FLAGS = {
    "listen_agents": ("ADDRESS", "where agents connect, like 0.0.0.0:7340"),
    "listen_api": ("ADDRESS", "where the API and the metrics are, like 127.0.0.1:7341"),
    "state_dir": ("DIR", "where history, incidents and fences are kept"),
    "log_format": ("text|json", "one line each, to standard error"),
}
EPILOG = """\
Precedence: flag, then environment, then FILE, then default. In the environment a key of [coordinator] or
[fleet] is CLOSERANKS_COORDINATOR_<KEY> or CLOSERANKS_FLEET_<KEY>: CLOSERANKS_COORDINATOR_LISTEN_API,
CLOSERANKS_COORDINATOR_STATE_DIR, CLOSERANKS_FLEET_NODES="node-01,node-02", ... Arrays are separated by
commas; a key of [guards] is CLOSERANKS_GUARDS_<KEY>. Volumes stand in FILE alone, secrets in files that
token_files names.

SIGHUP reads FILE again and keeps the old settings where it is wrong; SIGTERM drains.
Exit: 0 after SIGTERM, 1 fault, 2 usage or configuration, 3 can not listen, 4 state_dir is locked by another.
"""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the program."""
    parser = subparsers.add_parser(
        "coordinator", help="run the coordinator", description="Run the coordinator in the foreground.",
        epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument(
        "--config", metavar="FILE", help="coordinator.toml; else CLOSERANKS_COORDINATOR_CONFIG"
    )
    for key, (metavar, text) in _FLAGS.items():
        parser.add_argument("--" + key.replace("_", "-"), metavar=metavar, help=text)
    parser.set_defaults(daemon=run)


def run(args: argparse.Namespace) -> int:
    """Read the configuration, then run until told to stop. The exit code."""
    import logging

    from ..config import load_coordinator_config
    from ..logs import set_up_logging

    file = args.config or os.environ.get("CLOSERANKS_COORDINATOR_CONFIG")
    if not file:
        raise UserError(
            "no configuration: name coordinator.toml with --config FILE or CLOSERANKS_COORDINATOR_CONFIG"
        )
    flags = {
        f"coordinator.{key}": str(getattr(args, key)) for key in _FLAGS if getattr(args, key) is not None
    }
    config = load_coordinator_config(file, flags)
    set_up_logging(config.log_format)
    log = logging.getLogger("closeranks.coordinator")
    for warning in config.warnings:
        log.warning("%s", warning)
    try:
        from ..main import run as run_coordinator

        return run_coordinator(config)
    except Exception:
        log.critical("the coordinator stops because of a fault of its own", exc_info=True)
        return 1


def check(file: str) -> Checked:
    """What is in a valid coordinator.toml. Raises SettingsError."""
    from ..config import load_coordinator_config

    config = load_coordinator_config(file)
    fleet = config.fleet
    summary = [
        f"agents connect to {config.listen_agents}, operators to {config.listen_api}"
        + (f" with a token ({len(config.tokens)} accepted)" if config.tokens else " from this machine only"),
        f"state in {config.state_dir}",
        f"{len(fleet.nodes)} nodes, at most {fleet.max_quarantined} fenced by the judge at a time",
    ]
    summary += [
        f'volume "{volume.name}": {len(volume.nodes)} nodes, policy {volume.policy}, '
        f"on divergence {volume.on_divergence}, settle {volume.settle_s:g} s, scan every {volume.scan_interval_s:g} s"
        for volume in fleet.volumes
    ]
    return Checked(file, "coordinator", tuple(summary), config.warnings, config.notes)


def examine(file: str, probes: Probes) -> Sequence[Finding]:
    """What the doctor finds. Raises SettingsError."""
    from .doctor import examine_coordinator

    return examine_coordinator(file, probes)
