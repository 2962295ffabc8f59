"""What has changed from one reading of a configuration to the next, in words for the log.

Who sends SIGHUP wants to know whether the change that he made was taken over, and that no other one was. So both
readings are held against each other field by field, whatever they are. What its type keeps out of its own repr
(secrets) is named without its value.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from .lines import printable, shortened

LINES_MAX = 50
_VALUE_WIDTH = 200
_ABOUT_THE_READING = ("file", "warnings", "notes", "flags", "environ")


def changes(before: object, after: object) -> list[str]:
    """One printable line for each key whose value differs: as many as a file can hold."""
    return list(_differences(before, after, ""))


def told(file: object, changed: list[str]) -> list[str]:
    """Lines for the log: that the file was read again, what `changes` found, and beyond LINES_MAX how much more."""
    count = _count(len(changed), "")
    first = f"configuration read again from {file}: {count if changed else 'nothing in it has changed'}"
    left = len(changed) - LINES_MAX
    more = [f"and {_count(left, 'more ')}"] if left > 0 else []
    return [first, *(f"changed: {line}" for line in changed[:LINES_MAX]), *more]


def _count(number: int, more: str) -> str:
    return f"{number} {more}{'change' if number == 1 else 'changes'}"


def _differences(before: object, after: object, name: str) -> Iterator[str]:
    if before == after:
        return
    if dataclasses.is_dataclass(before) and type(before) is type(after):
        for one in dataclasses.fields(before):
            if one.name not in _ABOUT_THE_READING:
                below = f"{name}.{one.name}" if name else one.name
                old, new = getattr(before, one.name), getattr(after, one.name)
                if one.repr:
                    yield from _differences(old, new, below)
                elif old != new:
                    yield f"{below}: another one"
    elif isinstance(before, tuple) and isinstance(after, tuple):
        yield from _lists(before, after, name)
    else:
        yield f"{name}: {_shown(before)} -> {_shown(after)}"


def _lists(before: tuple[object, ...], after: tuple[object, ...], name: str) -> Iterator[str]:
    """Of tables with a name each (volumes) what was added, removed and changed; of words what came and went."""
    old, new = ({_label(one): one for one in side} for side in (before, after))
    gone = [label for label in old if label not in new]
    come = [label for label in new if label not in old]
    if gone:
        yield f"{name}: removed {_joined(gone)}"
    if come:
        yield f"{name}: added {_joined(come)}"
    for label in (one for one in old if one in new):
        yield from _differences(old[label], new[label], f"{name} {label}")
    if not gone and not come and list(old) != list(new):
        yield f"{name}: in another order"


def _label(one: object) -> str:
    if dataclasses.is_dataclass(one):
        return printable(str(getattr(one, "name", None) or getattr(one, "file", None) or one))
    return printable(str(one))


def _joined(labels: list[str]) -> str:
    return shortened(", ".join(labels), _VALUE_WIDTH)


def _shown(value: object) -> str:
    """As the file would have it, shortened."""
    if value is None:
        return "not set"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return shortened(printable(text), _VALUE_WIDTH)
