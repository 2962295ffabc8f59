"""Configuration is read once, from TOML into typed values; everything wrong is reported at once.

A `Table` hands out one key after another. What is missing, of the wrong type or out of range becomes a
problem that names file, line, key, value and what is allowed, and a placeholder is handed out so that
reading goes on; `close` makes problems of the keys that nobody asked for. The caller builds its frozen
objects and asks `Problems.raise_if_any` before it lets them out.

Precedence: command line flag, then `CLOSERANKS_<TABLE>_<KEY>` in the environment, then the file, then
the default. Rejected: decoding with msgspec, which stops at the first problem and knows no line.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from .errors import UserError
from .lines import printable, shortened

T = TypeVar("T")
MAX_FILE_BYTES = 1024 * 1024  # a fleet of 4,096 nodes and 256 volumes stays far below
MAX_PROBLEMS = 50  # shown of one file
_HEADER = re.compile(r"^\s*\[(\[)?\s*([A-Za-z0-9_.\"'\- ]+?)\s*\]")


class Invalid(Exception):
    """A value that its kind does not accept; the text says what is wrong with it."""


class SettingsError(UserError):
    """A file that can not be used. `problems` has one line each; `str()` joins them."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """What a key may hold: `accept` turns a TOML value into ours or raises Invalid.

    `allowed` says in words what is allowed; `parse` makes a TOML value of a flag's or variable's text.
    """

    allowed: str
    accept: Callable[[object], T]
    parse: Callable[[str], object] = str


@dataclass(slots=True)
class Problems:
    """Collects what is wrong with one file. `file` is its name as the operator gave it."""

    file: str
    text: str = ""
    found: list[str] = field(default_factory=list)

    def add(self, message: str, line: int | None = None) -> None:
        place = printable(self.file) if line is None else f"{printable(self.file)}:{line}"
        self.found.append(f"{place}: {message}")

    def raise_if_any(self) -> None:
        """Raises SettingsError with everything that was found, in order."""
        if len(self.found) > MAX_PROBLEMS:
            more = len(self.found) - MAX_PROBLEMS
            raise SettingsError([*self.found[:MAX_PROBLEMS], f"{printable(self.file)}: and {more} more"])
        if self.found:
            raise SettingsError(self.found)


@dataclass(slots=True)
class Table:
    """One table of the file while it is read.

    `name` is its TOML name (`agent.hooks`), `index` its place among equal ones (`[[volume]]`), `environ`
    and `flags` what may stand above the file; both are empty for tables that only the file has.
    """

    problems: Problems
    name: str
    values: dict[str, object]
    index: int | None = None
    label: str = ""
    environ: Mapping[str, str] = field(default_factory=dict)
    flags: Mapping[str, str] = field(default_factory=dict)
    known: list[str] = field(default_factory=list)

    def refuse_other(self, mine: str, others: Sequence[str], theirs: str) -> None:
        """Raises SettingsError where the whole file is the other program's: one line instead of one for each key."""
        found = [name for name in others if name in self.values]
        if mine not in self.values and found:
            name, tables = printable(self.problems.file), ", ".join(f"[{one}]" for one in found)
            raise SettingsError(
                [
                    f"{name}: this is {_article(theirs)} {theirs}.toml ({tables}), and the {mine} wants its "
                    f"{mine}.toml: "
                    f"closeranks {mine} --config {mine}.toml; or start the {theirs} with it: closeranks {theirs} "
                    f"--config {name}"
                ]
            )

    def read(self, key: str, kind: Kind[T], default: T, required: str | None = None) -> T:
        """The value of `key`; `default` where it is absent. `required`: a problem then, with these words."""
        self.known.append(key)
        try:
            given = self._given(key, kind)
        except Invalid as error:
            self._refuse(key, error, kind.allowed)
            return default
        if given is None:
            if required is not None:
                message = f"{self._where(key)} is missing: {required}; allowed: {kind.allowed}"
                self.problems.add(message, self._line(None))
            return default
        try:
            return kind.accept(given[0])
        except Invalid as error:
            self._refuse(key, error, kind.allowed)
            return default

    def has(self, key: str) -> bool:
        """Whether flag, environment or file gives `key`."""
        return key in self.flags or self.variable(key) in self.environ or key in self.values

    def reject(self, key: str, reason: str) -> None:
        """A value that is well formed but does not fit the rest: `reason` says why and what would."""
        self.problems.add(f"{self._where(key)}{self._shown(key)}: {reason}", self._line(key))

    def table(self, key: str) -> Table:
        """The table below this one named `key`, empty where it is absent."""
        self.known.append(key)
        name = f"{self.name}.{key}" if self.name else key
        value = self.values.get(key, {})
        if not isinstance(value, dict):
            self.problems.add(f"{self._where(key)} must be a table, written as [{name}]", self._line(key))
            value = {}
        return Table(self.problems, name, value, environ=self.environ, flags=_below(self.flags, key))

    def tables(self, key: str) -> list[Table]:
        """The tables of the array `[[key]]`, in the file's order."""
        self.known.append(key)
        name = f"{self.name}.{key}" if self.name else key
        value = self.values.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            self.problems.add(
                f"{name} must be an array of tables, each written as [[{name}]] with two brackets",
                self._line(key),
            )
            return []
        return [Table(self.problems, name, item, index) for index, item in enumerate(value)]

    def close(self, everywhere: Mapping[str, str] | None = None) -> None:
        """Make problems of the keys that nobody asked for. `everywhere` says where other keys belong."""
        for key in self.values:
            if key in self.known:
                continue
            near = difflib.get_close_matches(key, self.known, 1, 0.6)
            if near:
                hint = f"did you mean {near[0]!r}?"
            elif everywhere and key in everywhere:
                hint = f"it belongs to {everywhere[key]}"
            else:
                hint = f"known are {', '.join(sorted(self.known))}"
            self.problems.add(f"{self._where(key)}{self._shown(key)}: unknown key; {hint}", self._line(key))

    def variable(self, key: str) -> str:
        """The environment variable that stands above this key."""
        return f"CLOSERANKS_{self.name}_{key}".upper().replace(".", "_")

    def _given(self, key: str, kind: Kind[T]) -> tuple[object] | None:
        if key in self.flags:
            return (kind.parse(self.flags[key]),)
        if self.variable(key) in self.environ:
            return (kind.parse(self.environ[self.variable(key)]),)
        return (self.values[key],) if key in self.values else None

    def _refuse(self, key: str, error: Invalid, allowed: str) -> None:
        self.problems.add(
            f"{self._where(key)}{self._shown(key)}: {error}; allowed: {allowed}", self._line(key)
        )

    def _where(self, key: str) -> str:
        if key in self.flags:
            return f"flag --{key.replace('_', '-')}"
        if self.variable(key) in self.environ:
            return f"environment {self.variable(key)}"
        if self.index is not None:
            return f"[[{self.name}]] {self.label or f'number {self.index + 1}'}: {printable(key)}"
        return f"[{self.name}] {printable(key)}" if self.name else printable(key)

    def _shown(self, key: str) -> str:
        if key in self.flags:
            return f" {shown(self.flags[key])}"
        variable = self.variable(key)
        value: object = self.environ[variable] if variable in self.environ else self.values.get(key)
        return "" if value is None else f" = {shown(value)}"

    def _line(self, key: str | None) -> int | None:
        if key is not None and (key in self.flags or self.variable(key) in self.environ):
            return None
        return line_of(self.problems.text, self.name, self.index or 0, key)


def parse_document(data: bytes, file: str, environ: Mapping[str, str], flags: Mapping[str, str]) -> Table:
    """The whole file as a table whose subtables stand below `environ` and `flags`.

    `flags` are named `table.key`. Raises SettingsError where the bytes are not TOML.
    """
    name = printable(file)
    if len(data) > MAX_FILE_BYTES:
        raise SettingsError([f"{name}: {len(data)} bytes; a configuration has at most {MAX_FILE_BYTES}"])
    try:
        text = data.decode("utf-8")
        values = tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise SettingsError([f"{name}: byte {error.start} is not UTF-8; TOML files are UTF-8 text"]) from None
    except (ValueError, RecursionError) as error:  # ValueError also for a number of thousands of digits
        raise SettingsError([f"{name}: not valid TOML: {printable(str(error))}"]) from None
    return Table(Problems(file, text), "", values, environ=environ, flags=flags)


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def unknown_variables(environ: Mapping[str, str], prefix: str, known: Sequence[str]) -> tuple[str, ...]:
    """Warnings about variables that begin like ours and are none of them: a misspelt one would be ignored."""
    found = []
    for name in sorted(environ):
        if name.startswith(prefix) and name not in known:
            near = difflib.get_close_matches(name, known, 1, 0.8)
            hint = f"; did you mean {near[0]}?" if near else ""
            found.append(f"environment {printable(name)} is none of ours and is ignored{hint}")
    return tuple(found)


def shown(value: object) -> str:
    """A value as TOML would write it, on one line, shortened."""
    if isinstance(value, bool | int | float | str | list | dict):
        try:
            text = json.dumps(value, ensure_ascii=False, default=str)
        except ValueError:  # hexadecimal digits know no limit, decimal ones do
            text = "a number too long to be shown"
    else:
        text = str(value)
    return shortened(printable(text), 100)


def line_of(text: str, table: str, index: int, key: str | None) -> int | None:
    """The line (from 1) of `key` in the `index`-th table of that name (its header for None), None if unsure.

    tomllib tells no lines, so this looks at the text. It serves the eye only: inline tables and dotted
    keys are not found, and a multi-line string that looks like TOML can mislead it.
    """
    current, seen = "", -1
    assignment = None if key is None else re.compile(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=")
    for number, line in enumerate(text.splitlines(), 1):
        header = _HEADER.match(line)
        if header is not None:
            current = header[2]
            seen += current == table
            if key is None and current == table and seen == index:
                return number
        elif assignment is not None and current == table and max(seen, 0) == index and assignment.match(line):
            return number
    return None


def _below(flags: Mapping[str, str], key: str) -> dict[str, str]:
    """The flags that are meant for the table `key`: `agent.listen` is `listen` there."""
    return {name.partition(".")[2]: value for name, value in flags.items() if name.partition(".")[0] == key}
