"""Paths are bytes, relative to the volume; keys are the same paths in the tree's order.

The tree orders entries component by component, so that a directory's subtree is one contiguous range
right behind the directory itself. Comparing raw paths does not do that (`a`, `a.b`, `a/b`); comparing
them with every `/` replaced by NUL does, because NUL sorts first and no Linux name contains it. That
replaced form is the *key*: the tree, the index and the wire use keys, people and the kernel use paths.
"""

from __future__ import annotations

import re

from .errors import PathError
from .limits import MAX_NAME_BYTES, MAX_PATH_BYTES

_UNESCAPE = re.compile(rb"\\(\\|n|t|r|x[0-9a-fA-F]{2})|\\", re.DOTALL)
_NAMED = {b"\\": b"\\", b"n": b"\n", b"t": b"\t", b"r": b"\r"}
_ESCAPES = {"\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def key_of(path: bytes) -> bytes:
    """The tree key of a relative path. Not checked: see `check_key`."""
    return path.replace(b"/", b"\0")


def path_of(key: bytes) -> bytes:
    """The relative path of a tree key."""
    return key.replace(b"\0", b"/")


def check_key(key: bytes) -> bytes:
    """Return `key` if it names an entry below a volume's root, else raise PathError.

    Refused: empty, longer than MAX_PATH_BYTES, a component that is empty, `.`, `..`, longer than
    MAX_NAME_BYTES or contains a slash. What passes can be walked component by component safely.
    """
    if not key or len(key) > MAX_PATH_BYTES:
        raise PathError(f"a path must have 1 to {MAX_PATH_BYTES} bytes, not {len(key)}")
    if b"/" in key:
        raise PathError("a key has NUL where its path has slashes; this one contains a slash")
    for name in key.split(b"\0"):
        if not name or name == b"." or name == b".." or len(name) > MAX_NAME_BYTES:
            raise PathError(
                f"path {escape(path_of(key))!r} has the component {escape(name)!r}, which is not allowed"
            )
    return key


def subtree_range(key: bytes) -> tuple[bytes, bytes]:
    """`[low, high)`: the keys of everything beneath directory `key`, the directory itself excluded."""
    return key + b"\0", key + b"\1"


def parent_key(key: bytes) -> bytes:
    """The key of the directory that holds `key`; `b""` for an entry at the volume's root."""
    return key.rpartition(b"\0")[0]


def escape(path: bytes) -> str:
    r"""`path` as one printable line, reversible: `\\ \n \t \r \xNN`; distinct paths stay distinct.

    Bytes that are not UTF-8, control characters and anything that could drive a terminal or hide text
    (escape sequences, bidirectional overrides, line separators) come out as `\xNN`, byte by byte.
    """
    text = path.decode("utf-8", "surrogateescape")
    if text.isprintable() and "\\" not in text:
        return text
    out: list[str] = []
    for char in text:
        if char in _ESCAPES:
            out.append(_ESCAPES[char])
        elif char.isprintable():
            out.append(char)
        else:
            out.extend(f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogateescape"))
    return "".join(out)


def unescape(text: str) -> bytes:
    r"""The bytes that `escape` came from; `\xNN` may also stand for what needs none.

    Raises PathError for anything else.
    """

    def replace(match: re.Match[bytes]) -> bytes:
        found: bytes | None = match.group(1)
        if found is None:
            raise PathError(f"{text!r}: a backslash must be followed by one of \\ n t r xNN")
        return _NAMED[found] if found in _NAMED else bytes([int(found[1:], 16)])

    try:
        raw = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise PathError(f"{text!r} contains half a character") from error
    return _UNESCAPE.sub(replace, raw)
