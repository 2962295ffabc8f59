"""Planted bugs: each one small, plausible, and to be caught. Run by `make sim-mutations`.

A mutation is a piece of source that is replaced in a copy of the packages; the copy is played by the swarm or by whole
programs until a seed fails. Those that nobody catches are told, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("agent/closeranks_agent", "coordinator/closeranks_coordinator", "proto/closeranks_proto")
CORE = "coordinator/closeranks_coordinator/core"
SWAP = "agent/closeranks_agent/converge/swap.py"
LIMIT_S = 240.0


@dataclass(frozen=True, slots=True)
class Mutation:
    """`args` narrow down what is played; `shells` plays whole programs instead of the swarm."""

    name: str
    file: str
    old: str
    new: str
    args: str = ""
    shells: bool = False


MUTATIONS = (
    Mutation(
        "judge: a step to a later truth counts only where it is the very next", f"{CORE}/judge.py",
        "further = late is not None and order > (", "further = late is not None and order == 1 + (", "--policy quorum",
    ),
    Mutation(
        "judge: how far a node has followed is not kept",
        f"{CORE}/verdicts.py",
        'stored.held = after.held\n            world.touch("node", node.name)',
        "stored.held = after.held",
        "--policy quorum",
    ),
    Mutation(
        "history: only one step is remembered", f"{CORE}/history.py",
        "for at in range(len(known) - 1, 0, -2):",
        "for at in range(len(known) - 1, 0, -2)[:1]:", "--policy quorum",
    ),
    Mutation(
        "lateness: a step that was reached is still lacking", f"{CORE}/lateness.py",
        "(history.latest_order(key, raw[key][0]) or 0) < order",
        "(history.latest_order(key, raw[key][0]) or 0) <= order",
        "--policy writers",
    ),
    Mutation(
        "truth: half of the nodes are a quorum", f"{CORE}/truth.py", "return nodes // 2 + 1",
        "return (nodes + 1) // 2",
        "--policy quorum --nodes 4",
    ),
    Mutation(
        "truth: a tie is decided by whoever is first", f"{CORE}/truth.py",
        "        if size >= need:\n            changes[key]",
        "        if size >= need - 1:\n            changes[key]", "--policy quorum",
    ),
    Mutation(
        "votes: a held node founds", f"{CORE}/world.py", "if node.fenced or self.is_muted(node, volume) or not",
        "if node.fenced or not", "--policy quorum --faults filling,operator,late_start",
    ),
    Mutation(
        "votes: a fenced node votes", f"{CORE}/world.py", "if node.fenced or self.is_muted(node, volume) or not",
        "if self.is_muted(node, volume) or not", "--policy quorum",
    ),
    Mutation(
        "recovery: a held node gives chunks",
        f"{CORE}/recovery.py",
        "        and not world.is_held(one, volume)\n",
        "",
        "--policy writers",
    ),
    Mutation(
        "table: a node that is late is never suspected",
        f"{CORE}/states.py",
        '    ("lagging", "suspect"): "a difference of its own was confirmed",\n',
        "",
    ),
    Mutation(
        "fencing: one more than max_quarantined", f"{CORE}/fencing.py",
        "if fenced_count(world) >= world.config.max_quarantined:",
        "if fenced_count(world) > world.config.max_quarantined:",
        "--policy quorum",
    ),
    Mutation(
        "recovery: a fenced node gives chunks", f"{CORE}/recovery.py", "        and not one.fenced\n", "",
    ),
    Mutation(
        "recovery: the truth that a verified node equalled is not asked for again", f"{CORE}/recovery.py",
        "        work.quiet_since = None  # what was repaired differs again", "        pass", "--policy quorum",
    ),
    Mutation(
        "presence: the node is told before its peers", f"{CORE}/fleet.py",
        "return (*front, *membership, *others, *back)",
        "return (*front, *others, *membership, *back)",
    ),
    Mutation(
        "pushing: a fenced node gives contents", f"{CORE}/pushing.py",
        "and not peer.fenced", "", "--policy any-writer",
    ),
    Mutation(
        "ingest: an announced tree is believed before it has come",
        f"{CORE}/ingest.py",
        "        if self._closure.done:\n            announced",
        "        if not ready or self._closure.done:\n            announced",
    ),
    Mutation(
        "converge: what is replaced goes to no trash", SWAP,
        "            beneath.move_new(stage_name, room.stage_fd, taken.item, room.items_fd)\n    except BaseException:",
        "            os.unlink(stage_name, dir_fd=room.stage_fd)\n    except BaseException:", shells=True,
    ),
    Mutation(
        "converge: what is removed goes to no trash", SWAP,
        "    beneath.move_new(where.name, where.parent_fd, taken.item, room.items_fd)\n    status",
        "    os.unlink(where.name, dir_fd=where.parent_fd)\n    return\n    status", shells=True,
    ),
    Mutation(
        "converge: the new version is renamed over whatever is there", SWAP,
        "    if not beneath.exchange(stage_name, room.stage_fd, where.name, where.parent_fd):\n"
        "        _replace_without_exchange(stage_name, room, where, taken)\n        return\n",
        "    if taken.discard.kind is not Kind.DIRECTORY:\n        _rename_over(stage_name, room, where)\n"
        "        return\n    beneath.exchange(stage_name, room.stage_fd, where.name, where.parent_fd)\n", shells=True,
    ),
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(prog="sim.mutations", description=__doc__)
    parser.add_argument("--seeds", default="1-150", help="at most these for each, until one fails")
    parser.add_argument("--only", default="", help="those with this text in their name")
    args = parser.parse_args()
    missed = []
    print("| planted | caught by | seed | after |\n|---|---|---|---|")
    for mutation in [one for one in MUTATIONS if args.only in one.name]:
        began = time.monotonic()
        caught = play(mutation, args.seeds)
        took = time.monotonic() - began
        if caught is None:
            missed.append(mutation.name)
        name, seed = caught or ("**nobody**", "")
        print(f"| {mutation.name} | `{name}` | {seed} | {took:.0f} s |", flush=True)
    print(
        f"\n{len(missed)} of {len(MUTATIONS)} were missed: {'; '.join(missed)}"
        if missed
        else "\nall were caught"
    )
    return 1 if missed else 0


def play(mutation: Mutation, seeds: str) -> tuple[str, str] | None:
    """(invariant, seed) of the first failure; None: none."""
    with tempfile.TemporaryDirectory() as copied:
        places = []
        for package in PACKAGES:
            place = Path(copied) / Path(package).parent
            shutil.copytree(
                ROOT / package, place / Path(package).name, ignore=shutil.ignore_patterns("__pycache__")
            )
            places.append(str(place))
        target = Path(copied) / mutation.file
        source = target.read_text()
        assert source.count(mutation.old) == 1, (
            f"{mutation.name}: its place in {mutation.file} is another now"
        )
        target.write_text(source.replace(mutation.old, mutation.new))
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join([*places, str(ROOT / "tests")])}
        module = "sim.shells" if mutation.shells else "sim"
        command = [sys.executable, "-m", module, "--seeds", seeds, "--first", *mutation.args.split()]
        try:
            ran = subprocess.run(
                command, capture_output=True, text=True, env=environ, timeout=LIMIT_S, check=False
            )
        except subprocess.TimeoutExpired:
            return None
    line = next((one for one in ran.stdout.splitlines() if one.startswith("seed ")), None)
    if ran.returncode == 0 or line is None:
        return None
    words = line.split()
    return words[3].rstrip(":"), words[1]


if __name__ == "__main__":
    sys.exit(main())
