"""The parsers of `closeranks hash` and `closeranks compare`. Light to import: the work is loaded when it runs."""

from __future__ import annotations

import argparse
import gc
import importlib
import os
import sys
from collections.abc import Callable

from closeranks_proto.errors import CloseranksError, UserError
from closeranks_proto.lines import printable
from closeranks_proto.paths import escape

GARBAGE_OBJECTS = (
    50_000  # more than there are without: some megabytes, and a tenth of the time is not spent looking
)
DONE, INCOMPLETE, IMPOSSIBLE, INTERRUPTED = 0, 1, 2, 130


def register_hash(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `hash` to the program."""
    parser = subparsers.add_parser(
        "hash", help="the root digest of a directory, without any fleet", allow_abbrev=False,
        description="Print the root digest of each PATH: the one that an agent has for the same tree and settings. "
        "Of a file: its content digest. What can not be read is named on standard error. Exit: 0 all was read, "
        "1 something could not be, 2 nothing could be said of a PATH.",
    )  # fmt: skip
    parser.add_argument("paths", metavar="PATH", nargs="+")
    parser.add_argument(
        "--manifest",
        metavar="FILE",
        help="write every entry to FILE, for `closeranks compare`; - is standard output",
    )
    parser.add_argument("--json", action="store_true", help="print one object a line")
    _settings(parser)
    parser.set_defaults(daemon=_runs("hashing"))


def register_compare(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `compare` to the program."""
    parser = subparsers.add_parser(
        "compare", help="the paths in which two trees or manifests differ", allow_abbrev=False,
        description="The paths in which B differs from A, one a line: '*' differs, '+' only in B, '-' missing in B, "
        "'!' could not be read, '=' same (only with --all). Lines that begin with '#' are no paths. A and B are "
        "directories or manifests that `closeranks hash --manifest` wrote; beside a manifest a directory is "
        "read by the manifest's settings, and other ones are refused. Exit: 0 none, 1 some, 2 could not compare.",
    )  # fmt: skip
    parser.add_argument("a", metavar="A")
    parser.add_argument("b", metavar="B")
    parser.add_argument("--all", action="store_true", help="list the same paths too")
    parser.add_argument("--json", action="store_true", help="print one entry a line as JSON")
    _settings(parser)
    parser.set_defaults(daemon=_runs("comparing"))


def _settings(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "settings", "Equal settings give equal roots; the defaults are those of a volume."
    )
    group.add_argument("--digest", metavar="NAME", help="xxh3-128 (default) or blake3")
    group.add_argument("--chunk-bytes", metavar="N", type=int, help="default: 1048576")
    group.add_argument("--track", metavar="WORDS", help="any of mode,owner,mtime,xattrs (default: mode)")
    group.add_argument(
        "--ignore",
        metavar="PATTERN",
        action="append",
        help="as in .gitignore; may be given often",
    )


def _runs(module: str) -> Callable[[argparse.Namespace], int]:
    """`run` of a module of this package, what goes wrong in the world as one line."""

    def run(args: argparse.Namespace) -> int:
        gc.disable()  # what is loaded now is no garbage, and looking for some takes a twentieth of the start
        work = importlib.import_module(f".{module}", __package__)
        gc.freeze()
        gc.set_threshold(GARBAGE_OBJECTS)
        gc.enable()
        try:
            code = int(work.run(args))
            _written(sys.stdout.flush)
        except (UserError, BrokenPipeError):
            raise
        except KeyboardInterrupt:
            say("interrupted")
            return INTERRUPTED
        except OSError as error:
            say(reason(error))
            return IMPOSSIBLE
        except CloseranksError as error:
            say(str(error))
            return IMPOSSIBLE
        gc.freeze()  # Python looks through everything once more when it ends
        return code

    return run


def emit(line: str) -> None:
    """To standard output. Raises UserError where that can not be written to, BrokenPipeError where nobody reads."""
    _written(lambda: sys.stdout.write(line + "\n"))


def _written(write: Callable[[], object]) -> None:
    try:
        write()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UserError(f"standard output: {error.strerror}") from error


def reason(error: OSError) -> str:
    """In words: which file, and why."""
    why = error.strerror or str(error)
    return why if error.filename is None else f"{escape(os.fsencode(error.filename))}: {why}"


def say(text: str) -> None:
    """To standard error."""
    sys.stderr.write(f"closeranks: {printable(text)}\n")
