"""Measure all, or those named, and exit 1 where a bound does not hold."""

from __future__ import annotations

import sys

from bounds.run import run
from replication import beside, latency, named, overhead, rest, runaway, sustained

MEASUREMENTS = {
    "latency": latency.measure,
    "beside": beside.measure,
    "named": named.measure,
    "runaway": runaway.measure,
    "sustained": sustained.measure,
    "rest": rest.measure,
    "overhead": overhead.measure,
}

if __name__ == "__main__":
    sys.exit(run(MEASUREMENTS, sys.argv[1:], prefix="replication-"))
