"""What must hold after every step, each with its name and its sentence.

The table is what a failure prints and what the README shows; `hold` is the only way to break one. Assertions of the
product itself, and exceptions that nobody expects, fail a seed as `no_fault_of_our_own`.
"""

from __future__ import annotations

INVARIANTS: dict[str, str] = {
    "no_false_accusation": "no node is accused of an entry that the policy's truth had since the node held its elder",
    "quorum_accuses": "nothing is accused while fewer than a quorum hold what the truth has there",
    "looked_again": "nobody is named before every other voter has looked since the difference was first seen",
    "settled": "nobody is named before a difference has lasted settle_s, or since one more node holds the same",
    "named_present": "nobody is named while it is away, or while its tree is gone",
    "audit_is_right": "an audit accuses only who has proven other bytes of that path, twice",
    "quorum_decides": "the truth of a path changes only to what a quorum of unfenced, unheld nodes holds",
    "baseline_decides": "where a baseline rules, the truth is the root that was named, and only a pin changes it",
    "writers_decide": "what comes into a replicated truth an unfenced, unheld writer has, or had before it decayed",
    "no_lost_update": "a content leaves a replicated truth for another by the word of a writer that had held it",
    "founded_by_all": "a replicated truth is founded when all its writers were heard, or waited for",
    "founded_sound": "no replicated truth is founded on what a scrub found decayed, where a node has what was there",
    "rejected_stays_out": "what a person has rejected never becomes the truth",
    "unheard_stays": "a node that is only late loses nothing that it has not told of yet",
    "undetermined_rightly": "a path is undetermined only while fewer than a quorum of the voters hold one entry",
    "cancelled": "work that is given up is cancelled on the node that does it",
    "undetermined_stays": "no converge changes what nobody can judge",
    "fence_isolates": "nothing of a fenced or held node is given to another: it is no source of anything",
    "rogue_isolated": "what a rogue wrote where nobody may write is never brought to another node",
    "trash_keeps": "nothing is replaced or removed by us that does not lie in that node's trash",
    "last_copy": "nothing that we do removes the last copy of a content from the fleet",
    "few_fenced": "the coordinator fences max_quarantined, and nobody while many are suspect; a quorum is always left",
    "lifted_stays": "a fence that was lifted is not taken over from a node that has not heard of it",
    "repeats_wait": "who was released auto_release_max times lately waits for a person",
    "fenced_for_a_reason": "whoever is fenced by the coordinator itself has an open incident that accuses it",
    "policy_obeyed": "alert fences nobody, wait and a fence by hand bring nobody on, quarantine waits for a person",
    "person_releases": "who was fenced by hand, by a rule or for an audit is released by a person alone",
    "told_again": "a node that dials is told of the fence and the holds that stand",
    "token_grows": "a fence token never goes back, on the coordinator or on a node, over any restart; nor a fence",
    "released_clean": "nobody is released by itself with what the truth never had, before settle_s and another look",
    "released_equal": "whom a person releases is there and equals the truth, or is a writer that nobody can give it to",
    "acknowledged_survives": "a commit that was acknowledged is stored after any crash, with every object beneath it",
    "journal_replays": "replaying a journal gives the state that it was written from, on both sides",
    "number_once": "a number that has left an agent never stands for another root, whatever happens to its disk",
    "installed_stays": "what an agent has recorded as it found or made it is on its disk after a power cut",
    "deleted_stays": "what has left a replicated truth, and every node, does not come back unless somebody writes it",
    "accepted_stays": "what a writer brought is or was in the truth, or kept beside it, and what it removed is not",
    "target_reached": "a node that says that a target is reached holds it, entry by entry, by a computation of its own",
    "lag_is_true": "the lag that is shown is no older than the oldest step of the truth that the node lacks",
    "conflicts_end": "a conflict is open no longer than its second version lies in the truth",
    "holdable": "the truth of a replicated volume is a tree that a disk can hold",
    "share_held": "no writer removes more of what others brought than the guard's share, unless a person was asked",
    "held_rightly": "nobody is held for changing more paths than it has changed and not removed since",
    "steps_followed": "a step that says what it changed is followed, and never held against the whole truth",
    "membership_first": "peers are told of a fence before the node itself is",
    "bounded": "every queue, list and memory stays within its bound",
    "named_in_time": "a corruption is named within its bound once the faults have ended",
    "comes_back": "once the faults have ended the fleet is in rank, with equal trees, within its bound",
    "no_fault_of_our_own": "no assertion of the product fails and nothing is raised that nobody expects",
}


class Violation(AssertionError):
    """An invariant is broken."""

    def __init__(self, name: str, detail: str) -> None:
        super().__init__(f"{name}: {detail}")
        self.name = name
        self.detail = detail


def hold(name: str, condition: object, detail: str) -> None:
    """The invariant of that name, here and now."""
    if not condition:
        assert name in INVARIANTS, f"{name} is in no table"
        raise Violation(name, detail)


def table() -> str:
    """For people."""
    rows = [f"| `{name}` | {sentence} |" for name, sentence in INVARIANTS.items()]
    return "\n".join(["| invariant | says |", "|---|---|", *rows])
