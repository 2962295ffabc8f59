"""A scan counts once everything that it found is stored."""

from __future__ import annotations

from closeranks_coordinator.core.model import Scanned, Watched
from closeranks_coordinator.proofs import Proofs


def test_a_proof_is_told_when_what_it_found_is_stored() -> None:
    told: list[Scanned | Watched] = []
    proofs = Proofs("n1", told.append)
    proofs.told("photos", Scanned, 7, 100.0)
    proofs.release("photos", 6)
    assert told == []
    proofs.release("docs", 9)
    assert told == [], "of another volume"
    proofs.release("photos", 7)
    proofs.release("photos", 8)
    assert told == [Scanned("n1", "photos", 100.0)]


def test_scans_and_watchers_are_told_of_apart() -> None:
    told: list[Scanned | Watched] = []
    proofs = Proofs("n1", told.append)
    proofs.told("photos", Scanned, 9, 100.0)
    proofs.told("photos", Watched, 3, 101.0)
    proofs.release("photos", 5)
    assert told == [Watched("n1", "photos", 101.0)]


def test_of_an_agent_that_is_always_behind_the_first_proof_still_gets_through() -> None:
    """Of those between only the latest is kept."""
    told: list[Scanned | Watched] = []
    proofs = Proofs("n1", told.append)
    for step in range(5):
        proofs.told("photos", Scanned, step + 1, 100.0 + step)
    proofs.release("photos", 1)
    assert told == [Scanned("n1", "photos", 100.0)]
    proofs.release("photos", 5)
    assert told == [Scanned("n1", "photos", 100.0), Scanned("n1", "photos", 104.0)]
