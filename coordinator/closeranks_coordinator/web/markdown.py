"""Text of any origin inside markdown, so that it shows as it is and means nothing.

Names of files are whatever a rogue chose: they could be links, images, headings or HTML. Everything that a
report says in markdown goes through one of these two.
"""

from __future__ import annotations

import re

from closeranks_proto.lines import printable

_SPECIAL = re.compile(
    r"[`*<>\[\]|~]"  # anywhere
    r"|(?<![0-9A-Za-z])_|_(?![0-9A-Za-z])"  # an underscore inside a word marks nothing
    r"|\\(?=[!-/:-@\[-`{-~])"  # a backslash that would escape what follows
    r"|&(?=[#0-9A-Za-z]+;)"
    r"|(?<=www)\.|:(?=//)|@"  # what some readers make links of by themselves
    r"|^\s*(?:[#+=-]|\d+(?=[.)](?:\s|$)))"  # what would begin a heading, a list, a rule
    r"|!(?=\[)|\$",
    re.IGNORECASE,
)


def prose(text: str) -> str:
    """Text of any origin as one line of markdown that shows it as it is."""

    def escaped(match: re.Match[str]) -> str:
        found = match.group()
        if found[-1:].isdigit():
            return found + "\\"  # "1." becomes "1\."
        return found[:-1] + "\\" + found[-1]

    return _SPECIAL.sub(escaped, printable(text))


def code(text: str) -> str:
    """Text of any origin as a code span: nothing in it means anything."""
    shown = printable(text)
    runs = [len(run) for run in re.findall("`+", shown)]
    fence = "`" * next(length for length in range(1, len(shown) + 2) if length not in runs)
    pad = " " if shown[:1] in "` " or shown[-1:] in "` " else ""
    return f"{fence}{pad}{shown}{pad}{fence}"
