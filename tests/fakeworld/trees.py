"""Trees with their directories, as disks have them."""

from __future__ import annotations

from collections.abc import Iterable

from closeranks_proto.entries import Kind, entry_kind

from .agents import DIRECTORY, Files
from .world import file_of, key_of


def tree(*paths: str) -> Files:
    """Files at these paths, each with a content of its own, and the directories that they lie in."""
    files: Files = {}
    for path in paths:
        parts = path.split("/")
        for count in range(1, len(parts)):
            files["\0".join(parts[:count]).encode()] = DIRECTORY
        files[key_of(path)] = file_of(path)
    return files


def is_tree(items: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether a disk can hold this: everything lies in directories."""
    values = dict(items)
    parents = {key.rpartition(b"\0")[0] for key in values} - {b""}
    return all(parent in values and entry_kind(values[parent]) is Kind.DIRECTORY for parent in parents)
