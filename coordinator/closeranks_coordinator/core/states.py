"""The states of a node, and every step between them: one table.

A *phase* is what the coordinator has decided about a node. What people see is the phase, unless the node
can not be reached: `unreachable` covers it, and the phase (with its fence) comes back with the node.
"""

from __future__ import annotations

from typing import Literal

Phase = Literal["joining", "in_rank", "lagging", "suspect", "quarantined", "resyncing", "verifying", "held"]
State = Literal[
    "joining", "in_rank", "lagging", "suspect", "quarantined", "resyncing", "verifying", "held", "unreachable"
]

# (from, to): why it may happen.
TRANSITIONS: dict[tuple[str, str], str] = {
    ("joining", "in_rank"): "its first root is the truth's",
    ("joining", "lagging"): "it has joined, and is behind on another volume",
    ("joining", "suspect"): "a difference of its own was confirmed on another volume",
    ("joining", "resyncing"): "it has to be brought to the truth first",
    ("joining", "quarantined"): "an operator fenced it, or it brought a fence along",
    ("in_rank", "joining"): "it was given another volume, or its settings changed",
    ("in_rank", "lagging"): "the truth moved on without it",
    ("in_rank", "suspect"): "a difference of its own was confirmed",
    ("in_rank", "quarantined"): "an operator fenced it, or it brought a fence along",
    ("in_rank", "resyncing"): "an operator asked for it",
    ("lagging", "in_rank"): "it caught up by itself",
    ("lagging", "joining"): "its settings changed",
    ("lagging", "suspect"): "a difference of its own was confirmed",
    ("lagging", "quarantined"): "an operator fenced it, or it brought a fence along",
    ("lagging", "resyncing"): "it has been behind for longer than the grace",
    ("suspect", "in_rank"): "the difference is gone",
    ("suspect", "lagging"): "its own difference is gone, it is only behind",
    ("suspect", "joining"): "its settings changed",
    ("suspect", "quarantined"): "it is fenced",
    ("quarantined", "resyncing"): "it is brought back to the truth",
    ("quarantined", "in_rank"): "it was released",
    ("quarantined", "joining"): "it was released, and has yet to join another volume",
    ("resyncing", "verifying"): "everything that differed was applied",
    ("resyncing", "quarantined"): "the resync was given up; the fence stays",
    ("resyncing", "lagging"): "the resync was given up; it is still behind",
    ("resyncing", "joining"): "the resync was given up; it has not been in rank yet",
    ("resyncing", "suspect"): "a difference of its own was confirmed",
    ("resyncing", "in_rank"): "it reached the truth by itself",
    ("verifying", "in_rank"): "proven and released",
    ("verifying", "resyncing"): "what was repaired differs again, or the truth moved on",
    ("verifying", "quarantined"): "proven; a person releases it",
    ("verifying", "lagging"): "the truth moved on meanwhile",
    ("verifying", "joining"): "its settings changed, or it has yet to join another volume",
    ("verifying", "suspect"): "a difference of its own was confirmed",
    ("in_rank", "held"): "a guard holds its changes",
    ("lagging", "held"): "a guard holds its changes",
    ("suspect", "held"): "its own difference is gone, and a guard holds its changes",
    ("held", "in_rank"): "its changes were allowed, or are gone",
    ("held", "lagging"): "its changes were allowed, and it is behind",
    ("held", "joining"): "its settings changed",
    ("held", "suspect"): "a difference of its own was confirmed",
    ("held", "quarantined"): "its changes were rejected, or an operator fenced it",
}

STORY_MAX = 20


class IllegalTransition(AssertionError):
    """Our own fault: a step that the table does not have. Carries how the node came there."""


def step(node: str, story: list[str], current: str, target: str) -> list[str]:
    """The node's story with this step added. Raises IllegalTransition where the table forbids it."""
    if (current, target) not in TRANSITIONS:
        raise IllegalTransition(f"{node}: {current} to {target} is not a step; its story: {' '.join(story)}")
    return [*story[-(STORY_MAX - 1) :], target]


def describe() -> str:
    """The table as Markdown, for people."""
    rows = [f"| `{start}` | `{end}` | {why} |" for (start, end), why in TRANSITIONS.items()]
    return "\n".join(["| from | to | when |", "|---|---|---|", *rows])
