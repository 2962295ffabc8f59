"""The packages that bring commands of their own: found by entry point, loaded when one is asked for.

An entry point of the group `closeranks.commands` names `register(subparsers)`; the daemons' modules also have
`check(file)` (what `check-config` says of a valid file) and `examine(file, probes)` (what `doctor`
finds). So the agent's code is only imported on a machine, and for a command, that needs it, and the
coordinator's package never names it.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
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
    return cast(CommandModule, importlib.import_module(_entry(name)[0]))


def registrar(name: str) -> Registrar:
    """What adds the command `name` to the program. Raises UserError where its package is not installed."""
    module, function = _entry(name)
    return cast(Registrar, getattr(importlib.import_module(module), function))


def _entry(name: str) -> tuple[str, str]:
    """(module, function) of a command."""
    for value in _installed(name):
        module, _, function = value.partition(":")
        return module, function
    raise UserError(
        f"this installation has no {name}: install the whole distribution again (pip install closeranks)"
    )


def _installed(name: str) -> Sequence[str]:
    """What our own distribution names for it; importlib's metadata cost a short command a third of its time."""
    for place in sys.path:
        for file in Path(place or ".").glob("closeranks-*.dist-info/entry_points.txt"):
            found = _named(file.read_text(encoding="utf-8"), name)
            if found is not None:
                return [found]
    from importlib.metadata import entry_points  # an installation of another kind: in an archive, say

    return [entry.value for entry in entry_points(group=GROUP, name=name)]


def _named(text: str, name: str) -> str | None:
    """The value of `name` in our group of an `entry_points.txt`."""
    group = ""
    for line in text.splitlines():
        if line.startswith("["):
            group = line.strip().strip("[]")
        key, _, value = line.partition("=")
        if group == GROUP and key.strip() == name:
            return value.strip()
    return None
