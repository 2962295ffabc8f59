"""The program: finds the command, imports what it needs and no more, and turns errors into one line.

No traceback reaches an operator. What was asked wrongly exits 2 (names that nobody has, too), what was refused
1 (or what the command says), an interrupted command 130, a reader that went away 141 as a shell would say.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from closeranks_proto.errors import CloseranksError, UserError
from closeranks_proto.lines import fault_text, printable

INTERRUPTED, PIPE_CLOSED, FAULT = 130, 141, 1
# Command: (module, function that completes its parser, one line of help).
COMMANDS = {
    "check-config": ("checks", "add_check_config", "validate agent.toml or coordinator.toml"),
    "status": ("status", "add_status", "the fleet at a glance: who is out of rank, why, and what to do"),
    "nodes": ("nodes", "add_nodes", "one line a node, or all that is known of one"),
    "diff": ("diff", "add_diff", "the paths in which a node differs"),
    "conflicts": (
        "conflicts",
        "add_conflicts",
        "paths that two writers changed, and where both versions are",
    ),
    "incidents": ("incidents", "add_incidents", "what happened"),
    "incident": ("incidents", "add_incident", "the report of one incident"),
    "quarantine": ("actions", "add_quarantine", "fence a node by hand"),
    "release": ("actions", "add_release", "release a node whose root is verified"),
    "resync": ("actions", "add_resync", "converge a node to the truth, or print the plan"),
    "speed": ("speed", "add_speed", "how fast nodes may transfer; faster or slower now"),
    "scrub": ("scrub", "add_scrub", "how far contents are read again; now, faster, slower, paused"),
    "held": ("held", "add_held", "changes that a guard holds, and what to type"),
    "allow": ("held", "add_allow", "let what a guard holds through; for a while it does not hold it again"),
    "reject": ("held", "add_reject", "bring the writer of what a guard holds back to the truth"),
    "baseline": ("baselines", "add_baseline", "known-good states: create, list, show, pin, unpin, delete"),
    "trash": ("trash", "add_trash", "what converge set aside on a node: list, restore"),
    "doctor": ("checks", "add_doctor", "what is wrong with this machine's set-up, and the mend"),
    "completion": ("completion", "add_completion", "a script that completes commands in bash or zsh"),
}
# Brought by packages, see `packages`.
BROUGHT = {
    "coordinator": "run the coordinator",
    "agent": "run the agent of one node",
    "hash": "the root digest of a directory, without any fleet",
    "compare": "the paths in which two trees or manifests differ",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not _has_streams(words):
        return _complain("standard output is closed", 2)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(
                errors="backslashreplace"
            )  # a terminal that can not show a name must not stop us
    try:
        return _run(words)
    except UserError as error:
        try:
            sys.stdout.flush()
        except OSError:
            _drop_output()  # that it can not be written is the error
        return _complain(str(error), 2)
    except KeyboardInterrupt:
        asks = not words or words[0] in COMMANDS
        return _complain("interrupted; what was accepted goes on" if asks else "interrupted", INTERRUPTED)
    except BrokenPipeError:
        _drop_output()  # the reader (head, less) has seen enough
        return PIPE_CLOSED
    except Exception as error:  # noqa: BLE001 - an operator gets one line; the innermost places help to report it
        return _complain(f"a fault of this program, please report it: {fault_text(error)}", FAULT)


def _drop_output() -> None:
    """What is buffered still goes nowhere: Python would try again at exit, complain and end with a code of its own."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _has_streams(words: list[str]) -> bool:
    """What is said goes nowhere where standard error is closed; an answer must not, and daemons give none."""
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - until the process ends
    return sys.stdout is not None or (bool(words) and words[0] in ("agent", "coordinator"))


def _run(words: list[str]) -> int:
    parser = build_parser(words)
    args = parser.parse_args(_bare_wait(words))
    if hasattr(args, "daemon"):
        return int(args.daemon(args))
    from .screen import Screen

    try:
        with Screen() as screen:
            code = int(args.run(args, screen))
    except CloseranksError as error:
        if isinstance(error, UserError):
            raise
        # A name that nobody has was asked wrongly; only what could be done and was not is a refusal.
        wrong = getattr(error, "status", None) == 404
        return _complain(str(error), 2 if wrong else getattr(args, "refused", 1))
    finally:
        _flush()
    return code


def _flush() -> None:
    """Raises UserError where it can not be written, BrokenPipeError where nobody reads."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UserError(f"standard output: {error.strerror}") from error


def build_parser(words: Sequence[str], complete: bool = False) -> argparse.ArgumentParser:
    """The whole program's parser; only the command that `words` names is filled in, or all with `complete`."""
    parser = argparse.ArgumentParser(
        prog="closeranks",
        description="Names the replicated server that breaks ranks, fences it and brings it back by moving only "
        "the bytes that differ.",
        epilog="Every command has --help. Those that ask the coordinator take --url or CLOSERANKS_URL, and "
        "--token-file or CLOSERANKS_TOKEN_FILE. Begin with: closeranks status",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    chosen = next((word for word in words if not word.startswith("-")), None)
    for name, text in BROUGHT.items():
        if complete or name == chosen:
            from . import packages

            packages.registrar(name)(commands)
        else:
            commands.add_parser(name, help=text)
    for name, (module, function, text) in COMMANDS.items():
        command = commands.add_parser(name, help=text, allow_abbrev=False)
        if complete or name == chosen:
            getattr(importlib.import_module(f".{module}", __package__), function)(command)
    return parser


class _Version(argparse.Action):
    """Looks the version up only when asked: the metadata costs more than the rest of the start."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        print(f"closeranks {version('closeranks')}")
        parser.exit(0)


def _bare_wait(words: list[str]) -> list[str]:
    """`--wait` takes its seconds only as `--wait=SECONDS`, so a bare one must not swallow the next word."""
    end = words.index("--") if "--" in words else len(words)
    return ["--wait=" if word == "--wait" else word for word in words[:end]] + words[end:]


def _complain(text: str, code: int) -> int:
    for line in text.splitlines() or [""]:
        sys.stderr.write(f"closeranks: {printable(line)}\n")
    return code
