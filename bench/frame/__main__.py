"""Measure everything, or what is named, and exit 1 where a bound does not hold."""

from __future__ import annotations

import argparse
import compileall
import sys
from pathlib import Path

from .registry import REGISTRY
from .run import run


def main() -> int:
    listed = "\n".join(
        f"  {name:<14} {entry.text}{' (quick)' if entry.quick else ''}" for name, entry in REGISTRY.items()
    )
    parser = argparse.ArgumentParser(
        prog="frame", description=__doc__, epilog=f"measurements:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("names", metavar="NAME", nargs="*", help="which; all, if none is named")
    parser.add_argument(
        "--quick", action="store_true", help="smaller data, fewer rounds; those marked (quick)"
    )
    parser.add_argument(
        "--dir", type=Path, help="where the data is made (default: the temporary directory); 20 GB for all"
    )
    given = parser.parse_args()
    # As pip installs it: where Python is told to write no byte code, each start would measure the compiler.
    for package in ("agent", "coordinator", "proto"):
        compileall.compile_dir(Path(__file__).parents[2] / package, quiet=1)
    return run(REGISTRY, given.names, given.quick, given.dir)


if __name__ == "__main__":
    sys.exit(main())
