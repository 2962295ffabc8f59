"""One first scan in a process of its own: the seconds that it took by its own clock, as the only output."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from closeranks_agent.disk.volume import Volume
from closeranks_proto.digests import XXH3_128
from closeranks_proto.messages import VolumeSettings

SETTINGS = VolumeSettings("bench", 1 << 20, (), ("mode",), 60.0, False, None, 604800.0)


def main() -> int:
    tree, state = sys.argv[1:]
    volume = Volume("bench", os.fsencode(tree), Path(state), SETTINGS, XXH3_128)
    began = time.perf_counter()
    report = volume.scan()
    spent = time.perf_counter() - began
    volume.close()
    if not report.complete or report.unreadable_count:
        print(f"the scan is not complete: {report}", file=sys.stderr)
        return 1
    print(spent)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
