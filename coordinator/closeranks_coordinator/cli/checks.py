"""`closeranks check-config` and `closeranks doctor`: is it set up right, and what mends it."""

from __future__ import annotations

import argparse
import os
import tomllib

import msgspec

from closeranks_proto.errors import UserError
from closeranks_proto.findings import Finding, fail, warn
from closeranks_proto.lines import printable
from closeranks_proto.settings import MAX_FILE_BYTES, SettingsError

from . import packages
from .probes import Probes
from .screen import BAD, CARE, FAINT, GOOD, Screen
from .session import FOUND, NOT_ASKED, OK
from .words import plural

USUAL_PLACES = {"agent": "/etc/closeranks/agent.toml", "coordinator": "/etc/closeranks/coordinator.toml"}
_STYLES = {"ok": GOOD, "warn": CARE, "fail": BAD}


class Invalid(msgspec.Struct):
    """What `check-config --json` says of a file that can not be used."""

    file: str
    errors: tuple[str, ...]


class Examination(msgspec.Struct):
    """What `doctor --json` says."""

    files: tuple[str, ...]
    findings: tuple[Finding, ...]


def add_check_config(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Validate agent.toml or coordinator.toml, whichever FILE is: a message names file, line, key, value and what "
        "is allowed, and all of them at once. Exit: 0 valid, 2 not."
    )
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=check_config)


def add_doctor(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "What is wrong with this machine's set-up, why it matters and what mends it. Exit: 0 nothing fails, "
        "1 something does, 2 wrong usage."
    )
    parser.add_argument(
        "--config", metavar="FILE", action="append", default=[],
        help="agent.toml or coordinator.toml; may be given twice (default: CLOSERANKS_AGENT_CONFIG, "
        "CLOSERANKS_COORDINATOR_CONFIG, else those in /etc/closeranks)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.set_defaults(run=doctor)


def check_config(args: argparse.Namespace, screen: Screen) -> int:
    try:
        checked = packages.load(kind_of(args.file)).check(args.file)
    except SettingsError as error:
        if args.json:
            screen.raw_json(msgspec.json.encode(Invalid(args.file, error.problems)))
        else:
            for problem in error.problems:
                screen.say(problem)
            screen.say(
                f"{printable(args.file)}: not valid: {plural(len(error.problems), 'error')}; nothing was changed"
            )
        return NOT_ASKED
    if args.json:
        screen.raw_json(msgspec.json.encode(checked))
        return OK
    screen.line(f"{args.file}: a valid {checked.kind}.toml", GOOD)
    for line in checked.summary:
        screen.line(f"  {line}")
    for line in checked.warnings:
        screen.line(f"warning: {line}", CARE)
    for line in checked.notes:
        screen.line(f"note: {line}", FAINT)
    return OK


def kind_of(file: str) -> str:
    """ "agent" or "coordinator", by the tables that the file has. Raises SettingsError."""
    shown = printable(file)
    try:
        with open(file, "rb") as stream:
            values = tomllib.loads(stream.read(MAX_FILE_BYTES).decode("utf-8", "replace"))
    except OSError as error:
        raise SettingsError([f"{shown}: can not be read: {error.strerror or type(error).__name__}"]) from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise SettingsError([f"{shown}: not valid TOML: {printable(str(error))}"]) from None
    is_agent = "agent" in values
    is_coordinator = "coordinator" in values or "fleet" in values
    if is_agent and is_coordinator:
        raise SettingsError(
            [
                f"{shown}: has tables of both sides; a file is either an agent's ([agent]) "
                "or the coordinator's ([coordinator], [fleet])"
            ]
        )
    if not is_agent and not is_coordinator:
        raise SettingsError(
            [f"{shown}: has neither [agent] nor [coordinator]: it configures nothing of closeranks"]
        )
    return "agent" if is_agent else "coordinator"


def doctor(args: argparse.Namespace, screen: Screen) -> int:
    files = [str(file) for file in args.config] or _usual_files()
    probes = Probes()
    findings = probes.machine()
    for file in files:
        findings += _examine(file, probes)
    if not files:
        findings.append(
            warn(
                "configuration",
                "none found in /etc/closeranks",
                "without it only this machine in general can be examined",
                "name it: closeranks doctor --config FILE",
            )
        )
    if args.json:
        screen.raw_json(msgspec.json.encode(Examination(tuple(files), tuple(findings))))
    else:
        _print_findings(screen, findings)
    return FOUND if any(finding.level == "fail" for finding in findings) else OK


def _usual_files() -> list[str]:
    found = []
    for kind, usual in USUAL_PLACES.items():
        named = os.environ.get(f"CLOSERANKS_{kind.upper()}_CONFIG")
        if named:
            found.append(named)
        elif os.path.exists(usual):
            found.append(usual)
    return found


def _examine(file: str, probes: Probes) -> list[Finding]:
    try:
        return list(packages.load(kind_of(file)).examine(file, probes))
    except SettingsError as error:
        why = "the daemon refuses to start with it (exit 2)"
        return [
            fail("configuration", problem, why, "mend the line that it names") for problem in error.problems
        ]
    except UserError as error:
        return [fail("configuration", str(error), "it could not be examined", "install again")]


def _print_findings(screen: Screen, findings: list[Finding]) -> None:
    for finding in findings:
        mark = screen.styled(f"{finding.level:<4}", _STYLES[finding.level])
        screen.out.write(f"{mark}  {printable(finding.subject)}: {printable(finding.what)}\n")
        if finding.why:
            screen.line(f"        why   {finding.why}")
        if finding.mend:
            screen.line(f"        mend  {finding.mend}")
    failed = sum(finding.level == "fail" for finding in findings)
    warned = sum(finding.level == "warn" for finding in findings)
    if failed:
        screen.line(f"{plural(failed, 'thing')} to mend, {plural(warned, 'warning')}.", BAD)
    elif warned:
        screen.line(f"Nothing is broken; {plural(warned, 'warning')}.", CARE)
    else:
        screen.line("Nothing is wrong.", GOOD)
