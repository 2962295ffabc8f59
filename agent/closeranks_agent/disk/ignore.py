r"""Which paths a volume leaves alone: gitignore's rules, on bytes.

The last pattern that matches a path decides; a leading `!` lets it in again; nothing beneath an ignored
directory is ever looked at, so only the path itself is matched here, never its parents.

Patterns are translated by the pathspec library, which knows gitignore's corner cases but works on text.
Text is not what Linux names are made of: so each byte that is not a printable ASCII character stands for
one character of its own, in patterns and paths alike, chosen so that it is neither white space nor a line
end nor a letter with two cases. Rejected: pathspec's own matching, which lets a parent's match decide and
therefore loses `*` followed by `!directory`.
"""

from __future__ import annotations

import codecs
import re
import warnings
from collections.abc import Sequence

from closeranks_proto.errors import UserError

_SUBSTITUTE = 0x2800  # braille: 256 characters without case, none of them white space
_TABLE = "".join(chr(byte) if 0x20 <= byte < 0x7F else chr(_SUBSTITUTE + byte) for byte in range(256))
# How pathspec's expressions end where a path beneath may follow; here only the path itself is matched.
_DIRECTORY_OR_END = "(?:(?P<ps_d>/)|$)"


class IgnoreRules:
    """The compiled `ignore` of a volume. Raises UserError for a pattern that gitignore would not accept."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._runs: list[tuple[bool, re.Pattern[str]]] = []
        runs: list[tuple[bool, list[str]]] = []
        for pattern in patterns:
            translated = _translate(pattern)
            if translated is None:
                continue
            ignores, expression = translated
            if not runs or runs[-1][0] is not ignores:
                runs.append((ignores, []))
            runs[-1][1].append(expression)
        with warnings.catch_warnings(action="ignore"):  # as when each was tried
            for ignores, expressions in reversed(runs):
                self._runs.append((ignores, re.compile("|".join(f"(?:{one})" for one in expressions))))

    def __bool__(self) -> bool:
        return bool(self._runs)

    def matches(self, key: bytes, is_directory: bool) -> bool:
        """Whether the path of `key`, whose parents are not ignored, is ignored."""
        if not self._runs:
            return False
        text = codecs.charmap_decode(key.replace(b"\0", b"/"), "strict", _TABLE)[0]
        if is_directory:
            text += "/"
        for ignores, expression in self._runs:
            if expression.search(text):
                return ignores
        return False


def _translate(pattern: str) -> tuple[bool, str] | None:
    """(ignores, expression) of one pattern; None for a comment or an empty line."""
    # As long to load as all the rest of a scan, and mostly nothing is ignored.
    from pathspec.patterns.gitignore import GitIgnorePatternError
    from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern

    text = codecs.charmap_decode(pattern.encode("utf-8", "surrogateescape"), "strict", _TABLE)[0]
    if not text.endswith("\\ "):
        text = text.rstrip(" ")
    # Directories are told apart here: pathspec takes `a/**/` for `a/`.
    for_directories = text.endswith("/")
    text = text.removesuffix("/")
    if for_directories and text in ("", "!"):
        return None
    try:
        expression, ignores = GitIgnoreSpecPattern.pattern_to_regex(text)
        with warnings.catch_warnings(action="ignore"):  # of sets that a later Python may read otherwise
            re.compile(expression or "")
    except (GitIgnorePatternError, re.error) as error:
        raise UserError(f"ignore: {pattern!r} is not a gitignore pattern: {error}") from error
    if expression is None or ignores is None:
        return None
    end = r"/\Z" if for_directories else r"/?\Z"
    if expression.endswith(_DIRECTORY_OR_END):
        return ignores, expression.removesuffix(_DIRECTORY_OR_END) + end
    # `a/**` ends with the slash, `**` is a single dot: anything may follow, but something must.
    return ignores, expression.removesuffix(".") + ".*[^/]" + end
