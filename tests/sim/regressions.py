"""Seeds that once broke something, and what. A seed's world changes when the simulator does: what a seed found has a
test of its own beside the module that was wrong, and stays here for what it may find next.
"""

from __future__ import annotations

FOUND: dict[int, str] = {
    18: "the only writer was fenced when other settings asked for a new truth: none without it, no release without one",
    35: "a writer waited behind its fence for contents that only another fenced node had; nobody could release either",
    51: "whoever had the contents was on its way to the truth itself, so it was no source: all waited for each other",
    55: "a held node was accused on the word of fewer than a quorum, while most were away",
    57: "as 51, with two of three fenced after a reject",
    75: "a path was deleted twice: a node that followed the site's steps from the first time on was accused",
    103: "a rebuilt writer, torn files and rogues at once: only a new founding helps, and it does",
}
