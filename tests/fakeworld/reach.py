"""How many items the core's containers hold, by where they hang: what grows with time shows by its name."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping

PLAIN = (int, str, bytes, float, bool, type(None))


def items_held(root: object) -> Counter[str]:
    """Items of every container that is reached from `root` through our own objects, by the attributes' path."""
    found: Counter[str] = Counter()
    seen: set[int] = set()
    todo: list[tuple[object, str]] = [(root, type(root).__name__)]
    while todo:
        one, path = todo.pop()
        if isinstance(one, PLAIN) or id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, Mapping):
            found[path] += len(one)
            todo += [(value, f"{path}[]") for value in one.values()]
        elif isinstance(one, (list, tuple, set, frozenset, deque)):
            found[path] += len(one)
            todo += [(value, f"{path}[]") for value in one]
        elif type(one).__module__.startswith("closeranks"):
            todo += [(getattr(one, name), f"{path}.{name}") for name in _names(one) if hasattr(one, name)]
    return found


def _names(one: object) -> set[str]:
    """Its attributes, however its class keeps them."""
    names = set(getattr(one, "__dict__", ())) | set(getattr(type(one), "__struct_fields__", ()))
    for kind in type(one).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        names.update((slots,) if isinstance(slots, str) else slots)
    return {name for name in names if not name.startswith("__")}
