"""Reading TOML: whatever stands in the file, the answer is a configuration or named mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from closeranks_agent.config import VARIABLES as AGENT_VARIABLES
from closeranks_agent.config import load_agent_config
from closeranks_coordinator.config import VARIABLES as COORDINATOR_VARIABLES
from closeranks_coordinator.config import load_coordinator_config
from closeranks_proto import kinds
from closeranks_proto.settings import Invalid, Problems, SettingsError, Table, line_of, parse_document

TEXT = """\
top = 1
[fleet]
nodes = []
[[volume]]
name = "a"
  "settle_s" = 3
[volume.inner]
settle_s = 9
[[volume]] # the second
settle_s= 4
"""


@pytest.mark.parametrize(
    ("table", "index", "key", "line"),
    [
        ("", 0, "top", 1),
        ("fleet", 0, None, 2),
        ("fleet", 0, "nodes", 3),
        ("volume", 0, "settle_s", 6),
        ("volume", 1, "settle_s", 10),
        ("volume", 1, None, 9),
        ("volume", 2, None, None),
        ("volume", 0, "absent", None),
        ("fleet", 0, "node", None),
    ],
)
def test_line_of(table: str, index: int, key: str | None, line: int | None) -> None:
    assert line_of(TEXT, table, index, key) == line


def test_only_the_first_fifty_mistakes_are_shown() -> None:
    problems = Problems("f")
    for number in range(60):
        problems.add(str(number))
    with pytest.raises(SettingsError) as error:
        problems.raise_if_any()
    assert len(error.value.problems) == 51
    assert error.value.problems[-1] == "f: and 10 more"


def test_deep_nesting_is_a_mistake_and_no_crash() -> None:
    with pytest.raises(SettingsError):
        parse_document(b"a = " + b"[" * 50_000, "f", {}, {})


def test_a_hostile_file_name_and_value_are_printable() -> None:
    table = Table(Problems("a\x1b[2J"), "t", {"x": "\x1b]0;\n"})
    table.read("x", kinds.integer(0, 1), 0)
    table.close()
    assert all(problem.isprintable() for problem in table.problems.found)


@pytest.mark.parametrize(
    ("text", "shown"),
    [("[::1]:0", "[::1]:0"), ("localhost:7340", "localhost:7340"), ("[fe80::1%eth0]:1", "[fe80::1%eth0]:1"),
     ("h.example.:80", "h.example.:80")],
)  # fmt: skip
def test_addresses_read_and_shown(text: str, shown: str) -> None:
    assert str(kinds.parse_address(text)) == shown


@given(st.text(max_size=40))
def test_any_text_is_an_address_or_invalid(text: str) -> None:
    try:
        address = kinds.parse_address(text)
    except Invalid:
        return
    assert kinds.parse_address(str(address)) == address


@given(st.text(max_size=60) | st.text(max_size=30).map("http://".__add__))
def test_any_text_is_a_base_url_or_invalid(text: str) -> None:
    try:
        url, host = kinds.parse_base_url(text, 7340)
    except Invalid:
        return
    assert host
    assert kinds.parse_base_url(url, 7340)[0] == url


def toml_of(value: Any) -> str:
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + ", ".join(toml_of(item) for item in value) + "]"
    return str(value)


SCALARS = st.one_of(
    st.booleans(),
    st.integers(-(2**62), 2**62),
    st.floats(),
    st.sampled_from(
        ["n1", "n2", "quorum", "resync", "127.0.0.1:1", "http://[::1]:3", "/tmp/x", "/tmp/x/y", "*.tmp", "!"]
    ),
    st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF), max_size=12),
)
VALUES = SCALARS | st.lists(SCALARS, max_size=3)
KEYS = [
    "listen_agents",
    "listen_api",
    "state_dir",
    "log_format",
    "token_files",
    "public_hosts",
    "digest",
    "nodes",
    "max_quarantined",
    "name",
    "policy",
    "writers",
    "on_divergence",
    "settle_s",
    "settle_max_s",
    "chunk_bytes",
    "ignore",
    "track",
    "special_bits",
    "trash_max_bytes",
    "node",
    "coordinator",
    "listen",
    "advertise",
    "insecure",
    "path",
    "private_dir",
    "scan_interval_s",
    "on_release",
    "timeout_s",
]


def _table_once(part: tuple[str, object]) -> object:
    return part[0] if part[0] != "[[volume]]" else id(part)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                ["[coordinator]", "[fleet]", "[agent]", "[agent.hooks]", "[[volume]]", "[[volume]]"]
            ),
            st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=6),
        ),
        max_size=6,
        unique_by=_table_once,
    )
)
def test_any_file_is_read_or_its_mistakes_are_named(
    tmp_path: Path, parts: list[tuple[str, dict[str, Any]]]
) -> None:
    file = tmp_path / "any.toml"
    lines = [
        line
        for header, values in parts
        for line in [header, *(f"{k} = {toml_of(v)}" for k, v in values.items())]
    ]
    file.write_text("\n".join(lines))
    for load in (load_agent_config, load_coordinator_config):
        with pytest.raises(
            SettingsError
        ) as error:  # no file can be right for both, and these are for neither
            load(file, environ={})
        assert error.value.problems
        assert all(
            problem.startswith(str(file)) and problem.isprintable() for problem in error.value.problems
        )


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        st.sampled_from(AGENT_VARIABLES + COORDINATOR_VARIABLES), st.text(max_size=12), max_size=5
    )
)
def test_any_environment_is_read_or_its_mistakes_are_named(tmp_path: Path, environ: dict[str, str]) -> None:
    file = tmp_path / "any.toml"
    file.write_text("")
    for load in (load_agent_config, load_coordinator_config):
        with pytest.raises(SettingsError):
            load(file, environ=environ)
