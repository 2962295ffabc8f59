"""One incident as plain text, for a terminal at a bad hour: what happened, what to type, then the evidence.

One line a sentence, fact or moment, however long: whoever shows it folds it to the width at hand, under the text
behind the label. So a program finds each thing on one line. Nothing is escaped but what could drive a terminal. Of
the paths only the first are shown: a thousand of them would push what to do off the screen.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from closeranks_proto.lines import printable

from ..core import words
from .telling import Fact, Told

PATHS_SHOWN = 10
_LABEL_MAX = 24
_NEW_THOUGHT = re.compile(r"(?<=[.:]) (?=If )")


def as_text(told: Told) -> str:
    """The report's content, each line printable."""
    incident = told.incident
    out = [told.title, f"incident {incident.id}, {told.state}", "", *told.happened, ""]
    out += _section("WHAT TO DO", _following(told))
    out += _section("AT A GLANCE", _facts(told.facts))
    if told.rows:
        out += _section(f"PATHS ({incident.path_count:,})", _paths(told))
    evidence = [*_facts(told.evidence), f"  {told.proof}", *(f"  {entry}" for entry in told.entries)]
    out += _section("EVIDENCE", evidence)
    out += _section("TIMELINE", [f"  {at.date} {at.time[:8]}  {at.event}: {at.text}" for at in told.moments])
    out += _section("MOVED AND SET ASIDE", [f"  {told.moved}", f"  {told.trashed}"])
    return "\n".join(printable(line) for line in (*out, f"Made {told.generated} by closeranks."))


def _section(title: str, lines: list[str]) -> list[str]:
    return [title, *lines, ""]


def _following(told: Told) -> list[str]:
    advice = "".join(f"`{part}`" if odd % 2 else part for odd, part in enumerate(told.advice))
    found = [f"  {thought}" for thought in _NEW_THOUGHT.split(advice) if thought]
    if told.commands and found:
        found.append("")
    return [*found, *(f"  {command}   ({what})" for command, what in told.commands)]


def _facts(facts: Iterable[Fact]) -> list[str]:
    shown = list(facts)
    width = max((len(fact.label) for fact in shown if len(fact.label) <= _LABEL_MAX), default=0)
    return [f"  {fact.label:<{width}}  {fact.value}" for fact in shown]


def _paths(told: Told) -> list[str]:
    found = []
    for row in told.rows[:PATHS_SHOWN]:
        about = row.what + (f"; chunks {row.chunks}" if row.chunks else "")
        about += f"; came {words.times(row.count)}" if row.count > 1 else ""
        found.append(f"  {row.mark} {row.path}   ({about})")
    left = max(0, len(told.rows) - PATHS_SHOWN) + told.rows_left
    if left:
        listed = (
            ""
            if len(told.rows) <= PATHS_SHOWN
            else f"   (closeranks incident {told.incident.id} --format md: more)"
        )
        found.append(f"  and {left:,} more{listed}")
    return found
