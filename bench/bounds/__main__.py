"""Measure all bounds, or those named, and exit 1 where one does not hold."""

from __future__ import annotations

import sys

from bounds import memory, named, transfer, wire
from bounds.run import run

MEASUREMENTS = {
    "transfer": transfer.measure,
    "named": named.measure,
    "wire": wire.measure,
    "memory": memory.measure,
}

if __name__ == "__main__":
    sys.exit(run(MEASUREMENTS, sys.argv[1:]))
