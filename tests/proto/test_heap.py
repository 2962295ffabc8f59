"""What a storm leaves free in the heap goes back to the system, and large blocks never stay in it."""

from __future__ import annotations

import subprocess
import sys

# Bodies and frames of a storm, with something small that stays between them; what the process holds afterwards.
STORM = """
import sys
from closeranks_proto import heap
settled, given = sys.argv[1] == "settled", sys.argv[2] == "given"
if settled:
    heap.settle()

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

before = resident()
kept = []
for _ in range(6):
    frame = bytearray(8 << 20)
    bodies = [bytes(4000 + at % 90) for at in range(5000)]
    kept += [bytes(600) for _ in range(200)]
    kept += bodies[::500]
    del frame, bodies
said = heap.give_back() if given else None
print(resident() - before, sum(map(len, kept)), heap.free_bytes(), said)
"""


def storm(settled: str, given: str) -> tuple[int, int, int, str]:
    done = subprocess.run(
        [sys.executable, "-c", STORM, settled, given], capture_output=True, text=True, check=True, timeout=60
    )
    grown, kept, free, said = done.stdout.split()
    return int(grown), int(kept), int(free), said


def test_what_is_free_is_given_back_and_what_is_used_stays() -> None:
    held, kept, free, _ = storm("settled", "not")
    grown, _, _, said = storm("settled", "given")
    assert min(free, held) > 10_000_000, "a storm leaves that much"
    assert said == "True"
    assert grown < kept + 4_000_000
