"""The packages that bring commands of their own: found by entry point, loaded when one is asked for.

An entry point of the group `closeranks.commands` names `register(subparsers)` in a module that also has
`check(file)` (what `check-config` says of a valid file) and `examine(file, probes)` (what `doctor`
finds). So the agent's code is only imported on a machine, and for a command, that needs it, and the
coordinator's package never names it.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Protocol, cast

from closeranks_proto.errors import UserError
from closeranks_proto.findings import Checked, Finding

if TYPE_CHECKING:
    from .probes import Probes

GROUP = "closeranks.commands"


class CommandModule(Protocol):
    """What a package's command module offers."""

    def register(self, subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None: ...
    def check(self, file: str) -> Checked: ...
    def examine(self, file: str, probes: Probes) -> Sequence[Finding]: ...


def load(name: str) -> CommandModule:
    """The module behind the command `name`. Raises UserError where its package is not installed."""
    for entry in entry_points(group=GROUP):
        if entry.name == name:
            return cast(CommandModule, importlib.import_module(entry.module))
    raise UserError(
        f"this installation has no {name}: install the whole distribution again (pip install closeranks)"
    )
