"""Numbers, lists and entries in plain words, for summaries, advice and evidence that volunteers read.

Every text here is one printable line. Names and paths that a stranger chose are escaped and shortened;
markdown and HTML are left as they are, because only the report knows its own format.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from closeranks_proto.digests import DigestAlgorithm
from closeranks_proto.entries import Entry, Kind, decode_entry
from closeranks_proto.lines import printable, shortened, timestamp
from closeranks_proto.paths import escape, path_of

PATH_WIDTH = 200  # characters of one path inside a sentence; the lists beside it have it in full
TEXT_WIDTH = 2000  # characters of one sentence or line of evidence
_UNITS = ("kB", "MB", "GB", "TB", "PB", "EB")
_CAREFUL = frozenset(" ,;:\"'`()")


def human_bytes(count: int) -> str:
    """Bytes with a decimal unit: `999 B`, `4.1 GB`, `41 GB`."""
    if count < 1000:
        return f"{count} B"
    value = float(count)
    for unit in _UNITS:
        value /= 1000
        if value < 9.95:
            return f"{value:.1f} {unit}"
        if value < 999.5:
            return f"{value:.0f} {unit}"
    return f"{value:.0f} {_UNITS[-1]}"


def moment(unix_ms: int) -> str:
    """`2026-11-27 15:12:58 UTC`: in texts that are kept, where a duration would stand still."""
    return timestamp(unix_ms).replace("T", " ").partition(".")[0] + " UTC"


def human_duration(seconds: float) -> str:
    """A duration in its one or two largest units: `2.1 s`, `45 s`, `12 min`, `3 h 05 min`, `2 d 4 h`."""
    seconds = max(0.0, seconds)
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24} h"


def plural(count: int, one: str, many: str | None = None) -> str:
    """`1 path`, `1,000 paths`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def times(count: int) -> str:
    """`once`, `twice`, `3 times`."""
    return {1: "once", 2: "twice"}.get(count, f"{count:,} times")


def join(names: Sequence[str], most: int = 3, total: int | None = None) -> str:
    """`a, b and c`; beyond `most` names `a, b, c and 4 more`. `total` counts names that are not given, too."""
    count = max(len(names), total or 0)
    shown = list(names[:most])
    if not shown:
        return f"{count:,} more" if count else "none"
    if count > len(shown):
        return f"{', '.join(shown)} and {count - len(shown):,} more"
    return shown[0] if count == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def path_words(key: bytes) -> str:
    """The path of a key inside a sentence: escaped, shortened, quoted where its end would be unclear."""
    text = shortened(escape(path_of(key)), PATH_WIDTH)
    return f'"{text}"' if any(char in _CAREFUL for char in text) else text


def path_list(keys: Iterable[bytes], total: int, most: int = 3) -> str:
    """The first paths by name and how many more of `total` there are."""
    names: list[str] = []
    for key in keys:
        if len(names) == most:
            break
        names.append(path_words(key))
    return join(names, most, total)


def line(text: str) -> str:
    """Text of whatever origin as one bounded line."""
    return shortened(printable(text), TEXT_WIDTH)


def digest_proof(algorithm: DigestAlgorithm) -> str:
    """What equal digests prove."""
    if algorithm.tamper_evident:
        return "tamper-evident: equal digests prove equal bytes"
    return "finds accidents; no evidence against tampering"


def value_words(value: bytes | None, algorithm: DigestAlgorithm) -> str:
    """A canonical entry in words; `nothing there` for none. Raises CodecError if it is not canonical."""
    return (
        "nothing there"
        if value is None
        else entry_words(decode_entry(value, algorithm.width), algorithm.name)
    )


def entry_words(entry: Entry, digest_name: str) -> str:
    """All that an entry states: `file, 3,145,728 bytes, xxh3-128 00ff…, mode 0644`."""
    match entry.kind:
        case Kind.FILE:
            parts = ["file", plural(entry.size, "byte"), f"{digest_name} {entry.digest.hex()}"]
        case Kind.DIRECTORY:
            parts = ["directory"]
        case Kind.SYMLINK:
            parts = [f"symlink to {shortened(escape(entry.target), PATH_WIDTH)}"]
    if entry.mode is not None:
        parts.append(f"mode {entry.mode:04o}")
    if entry.owner is not None:
        parts.append(f"owner {entry.owner[0]}:{entry.owner[1]}")
    if entry.mtime_ns is not None:
        parts.append(f"mtime {entry.mtime_ns} ns")
    if entry.xattrs is not None:
        names = [shortened(escape(name), PATH_WIDTH) for name, _ in entry.xattrs]
        parts.append(f"xattrs {join(names)}")
    return ", ".join(parts)
