"""The packages that bring commands of their own: found by entry point, loaded when one is asked for.

An entry point of the group `closeranks.commands` names `register(subparsers)`; the daemons' modules also have
`check(file)` (what `check-config` says of a valid file) and `examine(file, probes)` (what `doctor`
finds). So the agent's code is only imported on a machine, and for a command, that needs it, and the
coordinator's package never names it.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Protocol, cast

from closeranks_proto.errors import UserError
from closeranks_proto.findings import Checked, Finding

if TYPE_CHECKING:
    from .probes import Probes

GROUP = "closeranks.commands"
Registrar = Callable[["argparse._SubParsersAction[argparse.ArgumentParser]"], None]


class CommandModule(Protocol):
    """What a package's command module offers."""

    def register(self, subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None: ...
    def check(self, file: str) -> Checked: ...
    def examine(self, file: str, probes: Probes) -> Sequence[Finding]: ...


def load(name: str) -> CommandModule:
    """The module behind the daemon `name`. Raises UserError where its package is not installed."""
    return cast(CommandModule, importlib.import_module(_entry(name).module))


def registrar(name: str) -> Registrar:
    """What adds the command `name` to the program. Raises UserError where its package is not installed."""
    return cast(Registrar, _entry(name).load())


def _entry(name: str) -> EntryPoint:
    for entry in entry_points(group=GROUP):
        if entry.name == name:
            return entry
    raise UserError(
        f"this installation has no {name}: install the whole distribution again (pip install closeranks)"
    )
