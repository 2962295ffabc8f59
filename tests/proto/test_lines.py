"""Log lines and foreign text: one line each, terminals undriven."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

import closeranks_agent.logs
import closeranks_coordinator.logs
from closeranks_proto.lines import fault_text, log_line, printable, shortened, timestamp

AT_MS = 1_763_827_200_123


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("plain grün 日本", "plain grün 日本"),
        ("a\nb\tc\rd", "a\\nb\\tc\\rd"),
        ("\x1b[2J\x07\x7f", "\\x1b[2J\\x07\\x7f"),
        ("\x9b", "\\xc2\\x9b"),
        ("\u202e\u2028", "\\xe2\\x80\\xae\\xe2\\x80\\xa8"),
        ("\udcff", "\\xff"),
        ("\ud800", "\\xed\\xa0\\x80"),
        ("already \\x1b", "already \\x1b"),
    ],
)
def test_printable(given: str, expected: str) -> None:
    assert printable(given) == expected
    assert printable(given).isprintable()


def test_shortened_and_timestamp() -> None:
    assert (shortened("abc", 3), shortened("abcd", 3)) == ("abc", "ab…")
    assert timestamp(AT_MS) == "2025-11-22T16:00:00.123Z"


def test_text_and_json_lines() -> None:
    line = log_line("text", AT_MS, "warning", "agent", "a\nb", "fault\n")
    assert line == "2025-11-22T16:00:00.123Z warning agent: a\\nb [fault\\n]"
    record = json.loads(log_line("json", AT_MS, "info", "agent", 'say "hi"\x1b', None))
    assert record == {"at": timestamp(AT_MS), "level": "info", "source": "agent", "message": 'say "hi"\\x1b'}


def test_a_fault_is_one_line_with_its_innermost_places() -> None:
    try:
        json.loads("{\n")
    except ValueError as error:
        text = fault_text(error)
    assert text.startswith("JSONDecodeError: ")
    assert "raw_decode" in text
    assert "test_lines.py:" in text
    assert "\n" not in text


def test_a_fault_tells_what_is_inside_a_group_and_behind_it() -> None:
    try:
        try:
            {}["key"]
        except KeyError as error:
            raise ValueError("wrong") from error
    except ValueError as error:
        inner = error
    text = fault_text(ExceptionGroup("tasks", [ExceptionGroup("more", [inner, OSError()]), OSError()]))
    assert text.startswith("ValueError: wrong at test_lines.py:")
    assert "; caused by KeyError: 'key' at test_lines.py:" in text
    assert text.endswith("; and 2 more")


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    before = root.handlers[:], root.level, logging.raiseExceptions
    yield root
    root.handlers[:], logging.raiseExceptions = before[0], before[2]
    root.setLevel(before[1])
    logging.captureWarnings(False)


@pytest.mark.parametrize("logs", [closeranks_agent.logs, closeranks_coordinator.logs])
@pytest.mark.parametrize("log_format", ["text", "json"])
def test_each_record_is_one_line_on_standard_error(
    root_logger: logging.Logger, monkeypatch: pytest.MonkeyPatch, logs: object, log_format: str
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    logs.set_up_logging(log_format)  # type: ignore[attr-defined]
    log = logging.getLogger("closeranks.agent")
    log.info("a name: %s", "x\ny\x1b[2J")
    try:
        raise OSError("broken\ndisk")
    except OSError:
        log.exception("it failed")
    log.debug("not shown")
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert all(line.isprintable() for line in lines)
    assert "a name: x" in lines[0]
    assert "broken" in lines[1]
    if log_format == "json":
        assert [json.loads(line)["level"] for line in lines] == ["info", "error"]
        assert json.loads(lines[1])["source"] == "agent"
