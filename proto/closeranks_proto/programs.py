"""What a process runs: an interpreter is nobody's name, its script is.

`/usr/bin/php` writes on every server; `/srv/site/cron.php` is what a person can look for. Both daemons name programs
by the same rule, so that what an agent counts as one writer is told as one by the coordinator.

The command line is the node's own word: one line of at most some hundred bytes, with spaces between its words
and quotes around those that hold spaces. It is read as the interpreters read it, by their options that take a
value; an option that is not known here takes none. Whatever it says, the answer is one short printable text.

Rejected: the first word that is no option (`python3 -W ignore job.py` is not `ignore`); a look for words that
end in .php or .py (scripts need no such name, and data may have one).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from typing import NamedTuple

from .lines import printable, shortened

READ_MAX = 4096  # characters of a command line
WORDS_MAX = 64  # of it; a script stands among the first
NAME_WIDTH = 160  # characters of a script's path as it is shown: of a longer one the end
CODE_WIDTH = 60
_CAREFUL = frozenset(" ,;:\"'`()")


class _Takes(Enum):
    """What an option says of the words behind it."""

    VALUE = "value"
    SCRIPT = "script"
    MODULE = "module"
    CODE = "code"
    REST = "rest"  # its value is the rest of its own word, or nothing
    INPUT = "input"  # what runs comes from standard input


class Run(NamedTuple):
    """What an interpreter runs. `kind`: "" where that is not known, script, module, code."""

    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class _Options:
    """Those of one interpreter that say more than themselves. `apart`: a value is never in its option's own word."""

    name: str  # what its executable is called, as a pattern
    short: Mapping[str, _Takes]
    long: Mapping[str, _Takes] = field(default_factory=dict)
    apart: bool = False


def _letters(value: str = "", rest: str = "", **others: str) -> dict[str, _Takes]:
    found = dict.fromkeys(value, _Takes.VALUE) | dict.fromkeys(rest, _Takes.REST)
    for name, letters in others.items():
        found |= dict.fromkeys(letters, _Takes(name))
    return found


def _words_of(value: str = "", **others: str) -> dict[str, _Takes]:
    found = {f"--{one}": _Takes.VALUE for one in value.split()}
    for name, words in others.items():
        found |= {f"--{one}": _Takes(name) for one in words.split()}
    return found


_INTERPRETERS = (
    _Options(
        r"(?:python|pypy)[\d.]*", _letters("WX", module="m", code="c"), _words_of("check-hash-based-pycs")
    ),
    _Options(
        r"php(?:-cgi)?[\d.]*(?:-cgi)?",
        _letters("cdzSt", script="fF", code="rBRE"),
        _words_of(
            "define php-ini zend-extension server docroot", script="file process-file",
            code="run process-code process-begin process-end",
        ),
    ),
    _Options(r"perl[\d.]*", _letters("I", "imxMFCDVd", code="eE")),
    _Options(
        r"j?ruby[\d.]*",
        _letters("rICEX", "ixFKTW", code="e"),
        _words_of("encoding external-encoding internal-encoding enable disable backtrace-limit"),
    ),
    _Options(
        r"node(?:js)?[\d.]*",
        _letters("rC", code="ep"),
        _words_of(
            "require import loader experimental-loader conditions input-type title env-file inspect-port icu-data-dir "
            "openssl-config redirect-warnings max-http-header-size stack-trace-limit",
            code="eval print",
        ),
    ),
    _Options(
        r"(?:ba|da|a|z|k|mk)?sh[\d.]*", _letters("oO", code="c", input="s"), _words_of("rcfile init-file"),
        apart=True,
    ),
)  # fmt: skip
_NAMES = tuple((re.compile(rf"(?:^|/){one.name}(?: \(deleted\))?\Z"), one) for one in _INTERPRETERS)
_NOTHING = Run("", "")


def words(exe: str, command: str) -> str:
    """`/usr/bin/php (script /srv/site/cron.php)`; the program alone where it is no interpreter, or runs nothing known.

    Where the executable is not known, the command line stands for it.
    """
    about = inside(exe, command)
    return f"{exe or command or 'a process'}{f' ({about})' if about else ''}"


def inside(exe: str, command: str) -> str:
    """`script /srv/site/cron.php`, `module http.server`, `code "import os"`; "" where there is nothing to say."""
    kind, name = run_by(exe, command)
    if not kind:
        return ""
    text = printable(name).replace('"', '\\"')
    if kind == "code":
        return f'code "{shortened(text, CODE_WIDTH)}"'
    if len(text) > NAME_WIDTH:
        text = "…" + text[1 - NAME_WIDTH :]
    return f'{kind} "{text}"' if any(char in _CAREFUL for char in text) else f"{kind} {text}"


def key_of(exe: str, command: str) -> str | None:
    """What tells apart what this interpreter runs; None where `exe` is none. Of code that is its first word."""
    if _options_of(exe) is None:
        return None
    kind, name = run_by(exe, command)
    return f"{kind} {name.split(' ', 1)[0] if kind == 'code' else name}"


@lru_cache(maxsize=512)
def run_by(exe: str, command: str) -> Run:
    """What the interpreter `exe` was told to run by this command line. Nothing, where `exe` is no interpreter."""
    options = _options_of(exe)
    if options is None:
        return _NOTHING
    rest = _split(command)
    next(rest, None)  # what it calls itself
    find = _run_apart if options.apart else _run
    found = find(options, rest)
    return found if found.name else _NOTHING


@lru_cache(maxsize=512)
def _options_of(exe: str) -> _Options | None:
    return next((options for name, options in _NAMES if name.search(exe)), None)


def _run(options: _Options, rest: Iterator[str]) -> Run:
    for word in rest:
        if word == "--":
            return Run("script", next(rest, ""))
        if not word.startswith("-"):
            return Run("script", word)
        takes, value = _taken(options, word)
        if word == "-" or takes is _Takes.INPUT:
            return _NOTHING
        if takes in (None, _Takes.REST):
            continue
        if value is None:
            value = next(rest, "")
        if takes is not _Takes.VALUE:
            return Run(takes.value, value)
    return _NOTHING


def _taken(options: _Options, word: str) -> tuple[_Takes | None, str | None]:
    """What an option takes, and its value where that is in the same word. Short ones may stand in one word."""
    if word.startswith("--"):
        name, is_said, value = word.partition("=")
        return options.long.get(name), value if is_said else None
    for place, letter in enumerate(word[1:], 2):
        takes, rest = options.short.get(letter), word[place:]
        if takes is _Takes.CODE and all(options.short.get(one) is takes for one in rest):
            return takes, None  # node's -pe, perl's -ne
        if takes is not None:
            return takes, rest or None
    return None, None


def _run_apart(options: _Options, rest: Iterator[str]) -> Run:
    """As shells do: `-euo pipefail -c CODE`; what `-c` runs is the first word that is no option."""
    kind = "script"
    for word in rest:
        if word in ("-", "--"):
            return Run(kind, next(rest, ""))
        if word[:1] not in ("-", "+"):
            return Run(kind, word)
        is_long = word.startswith("--")
        taken = [options.long.get(word)] if is_long else [options.short.get(one) for one in word[1:]]
        if _Takes.INPUT in taken:
            return _NOTHING
        if _Takes.CODE in taken:
            kind = "code"
        for _ in range(taken.count(_Takes.VALUE)):
            next(rest, None)
    return _NOTHING


def _split(command: str) -> Iterator[str]:
    """The words of a command line as agents tell it: those that hold spaces, or nothing, are in quotes."""
    left = command[:READ_MAX]
    for _ in range(WORDS_MAX):
        left = left.lstrip(" ")
        if not left:
            return
        if left.startswith("'"):
            end = left.find("' ", 1)
            end = len(left.removesuffix("'")) if end < 0 else end
            yield left[1:end]
            left = left[end + 1 :]
        else:
            word, _, left = left.partition(" ")
            yield word
