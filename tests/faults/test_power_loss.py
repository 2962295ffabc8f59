"""Power loss: unsynced data is gone, what was promised is there, no file is a part of itself, the fleet goes on."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from faults.power import PowerDisk
from faults.rounds import FULL, QUIET, Rounds, check_databases, impatient, sweep, volume
from faults.shim import Shim
from faults.survival import journal_of, recorded
from fleet import Fleet, MakeFleet

AGENT_CUTS, COORDINATOR_CUTS = 2, 3
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root"),
    pytest.mark.timeout(6 * 3600 if FULL else 170),
]


@pytest.mark.repeats(AGENT_CUTS)
@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_of_an_agent(
    make_fleet: MakeFleet, load_shim: Callable[..., Shim], tmp_path: Path, kind: str, share: int
) -> None:
    """State and volume lie on the disk. A number that the coordinator knows is never given to another step."""
    fleet = make_fleet(nodes=3, fleet=QUIET, volumes=[volume()])
    victim = fleet[1]
    with PowerDisk(kind, victim.base, tmp_path / "images") as disk:
        fleet.lay_trees()
        shim = load_shim(victim.daemon, [victim.state_dir, victim.path()])
        fleet.start()
        fleet.wait_in_rank()

        def died() -> None:
            disk.cut()
            check_databases(victim.state_dir)
            fleet.coordinator.pause()
            known = recorded(fleet.state_dir)[victim.name]
            fleet.coordinator.resume()
            _, last = journal_of(victim.state_dir)
            assert last >= known, f"the agent went back to step {last}; the coordinator has {known}"

        name = f"agent's power ({kind})"
        done = sweep(Rounds(fleet, victim), shim, victim.start, AGENT_CUTS, name, died, share)
        assert done.points > 100
        fleet.stop()


@pytest.mark.repeats(COORDINATOR_CUTS)
def test_of_the_coordinator(
    make_fleet: MakeFleet, load_shim: Callable[..., Shim], tmp_path: Path, share: int
) -> None:
    """A step that an agent has forgotten, because it was acknowledged, is in the coordinator's store."""
    fleet = make_fleet(nodes=3, fleet=QUIET, volumes=[volume()])
    impatient(fleet)
    with PowerDisk("ext4", fleet.state_dir, tmp_path / "images") as disk:
        fleet.lay_trees()
        shim = load_shim(fleet.coordinator, [fleet.state_dir])
        fleet.start()
        fleet.wait_in_rank()

        def died() -> None:
            disk.cut()
            check_databases(fleet.state_dir)
            known = recorded(fleet.state_dir)
            for name, acknowledged in _acknowledged(fleet).items():
                assert known.get(name, 0) >= acknowledged, (
                    f"{name}: {acknowledged} acknowledged, {known} kept"
                )

        rounds, name = Rounds(fleet, fleet[1]), "coordinator's power (ext4)"
        done = sweep(rounds, shim, fleet.start_coordinator, COORDINATOR_CUTS, name, died, share)
        assert done.points > 30
        fleet.stop()


def _acknowledged(fleet: Fleet) -> dict[str, int]:
    """By node, what it holds to be safe with the coordinator; its agent stands still while it is read."""
    found = {}
    for node in fleet.nodes.values():
        node.daemon.pause()
        found[node.name] = journal_of(node.state_dir)[0]
        node.daemon.resume()
    return found
