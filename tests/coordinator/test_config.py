"""coordinator.toml: every mistake is named with file, key, value and what is allowed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from closeranks_coordinator.config import CoordinatorConfig, load_coordinator_config
from closeranks_coordinator.core.rules import GuardRules
from closeranks_coordinator.core.truth import fence_bound, quorum_of
from closeranks_proto.kinds import Address
from closeranks_proto.settings import SettingsError

INTERFACE_EXAMPLE = """
[coordinator]
listen_agents = "0.0.0.0:7340"
listen_api    = "127.0.0.1:7341"
state_dir     = "/var/lib/closeranks/coordinator"
[fleet]
digest = "xxh3-128"            # or "blake3"
nodes  = ["node-01", "node-02"]
max_quarantined = 1
[[volume]]
name     = "photos"
policy   = "quorum"            # quorum | writers | any-writer | baseline
writers  = []
settle_s = 30.0
scan_interval_s = 60.0
on_divergence = "resync"       # required: alert | quarantine | resync (quarantine, converge, verify, release)
ignore   = ["*.tmp", "cache/**"]
track    = ["mode"]            # any of mode, owner, mtime, xattrs
"""

COORDINATOR = {"state_dir": '"/state"'}
FLEET = {"nodes": '["n1", "n2", "n3", "n4", "n5"]'}
VOLUME = {"name": '"photos"', "on_divergence": '"resync"'}


def table(header: str, values: dict[str, str]) -> str:
    return header + "\n" + "".join(f"{key} = {value}\n" for key, value in values.items())


def toml(
    coordinator: dict[str, str] | None = None, fleet: dict[str, str] | None = None, *volumes: dict[str, str]
) -> str:
    """A valid file, changed by these keys. A value of "" leaves the key out."""
    parts = [
        table("[coordinator]", COORDINATOR | (coordinator or {})),
        table("[fleet]", FLEET | (fleet or {})),
    ]
    parts += [table("[[volume]]", VOLUME | volume) for volume in volumes or ({},)]
    return "\n".join(line for line in "\n".join(parts).splitlines() if not line.endswith(" = "))


def load(tmp_path: Path, text: str, environ: dict[str, str] | None = None, **flags: str) -> CoordinatorConfig:
    file = tmp_path / "coordinator.toml"
    file.write_text(text)
    return load_coordinator_config(file, {f"coordinator.{k}": v for k, v in flags.items()}, environ or {})


def problems(
    tmp_path: Path, text: str, environ: dict[str, str] | None = None, **flags: str
) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as error:
        load(tmp_path, text, environ, **flags)
    prefix = f"{tmp_path}/coordinator.toml"
    assert all(problem.startswith(prefix) for problem in error.value.problems)
    return tuple(problem.removeprefix(prefix) for problem in error.value.problems)


def test_the_interface_example_is_valid(tmp_path: Path) -> None:
    config = load(tmp_path, INTERFACE_EXAMPLE)
    assert config.listen_agents == Address("0.0.0.0", 7340)
    assert config.fleet.nodes == ("node-01", "node-02")
    assert config.fleet.volumes[0].ignore == ("*.tmp", "cache/**")
    assert any("2 nodes" in warning for warning in config.warnings)


def test_defaults_are_those_of_the_rules(tmp_path: Path) -> None:
    config = load(tmp_path, toml(None, None, {}, {"name": '"base"', "policy": '"baseline"'}))
    base, photos = config.fleet.volumes
    assert (str(config.listen_agents), str(config.listen_api)) == ("0.0.0.0:7340", "127.0.0.1:7341")
    assert (config.log_format, config.tokens, config.fleet.digest) == ("text", (), "xxh3-128")
    assert photos.guards == GuardRules()
    assert {k: v for k, v in dataclasses.asdict(photos).items() if k not in ("guards", "writers")} == {
        "name": "photos", "policy": "quorum", "nodes": ("n1", "n2", "n3", "n4", "n5"), "on_divergence": "resync",
        "settle_s": 30.0, "settle_max_s": 600.0, "scan_interval_s": 60.0, "on_lag": "resync", "lag_grace_s": 10.0,
        "chunk_bytes": 1 << 20, "ignore": (), "track": ("mode",), "special_bits": False, "trash_max_bytes": None,
        "trash_keep_s": 604800.0,
        "scrub_interval_s": 604800.0,
        "scrub_bytes_s": 20_000_000,
        "scrub_files_s": 200,
        "audit_interval_s": 60.0,
    }  # fmt: skip
    assert base.settle_s == 2.0
    assert config.fleet.max_quarantined == 1
    assert (config.fleet.auto_release_max, config.fleet.auto_release_window_s) == (3, 3600.0)
    assert (config.fleet.lb_max_lag_s, config.fleet.lb_unreachable_grace_s) == (300.0, 30.0)
    assert config.fleet.history_keep_s == 604800.0


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("listen_agents", '"0.0.0.0"', "no port"),
        ("listen_agents", '"::1:7340"', "must stand in brackets, like [::1]:7340"),
        ("listen_agents", '"[::1:7340"', "must stand in brackets"),
        ("listen_agents", '"[nonsense]:1"', "not an IPv6 address"),
        ("listen_agents", '":7340"', "every interface is 0.0.0.0 or [::]"),
        ("listen_agents", '"300.1.1.1:7340"', "neither an IP address nor a host name"),
        ("listen_agents", '"a b:7340"', "neither an IP address nor a host name"),
        ("listen_agents", '"0.0.0.0:70000"', "not a number from 0 to 65535"),
        ("listen_agents", '"0.0.0.0:http"', "not a number from 0 to 65535"),
        ("listen_agents", "7340", "not a string; write it in quotes"),
        ("listen_api", '"127.0.0.1:7340"\nlisten_agents = "127.0.0.1:7340"', "need a port each"),
        ("listen_api", '"0.0.0.0:7341"', "without tokens whoever reaches this address could fence nodes"),
        ("listen_api", '"[::]:7341"', "listen on loopback, like 127.0.0.1:7341, or name token files"),
        ("listen_api", '"coordinator.example:7341"', "without tokens"),
        ("state_dir", "", "state_dir is missing"),
        ("state_dir", '"var/lib"', "not an absolute path"),
        ("state_dir", '"~/state"', "~ is not expanded"),
        ("state_dir", '"/"', "root of the file system"),
        ("state_dir", '"//"', "root of the file system"),
        ("log_format", '"jsn"', "did you mean 'json'?; allowed: text or json"),
        ("token_files", '"/etc/token"', "not an array"),
        ("token_files", '["token"]', "element 1 (token): not an absolute path"),
        ("token_files", '["/nonexistent/token"]', "/nonexistent/token can not be read: No such file"),
        ("listen_apis", '"x:1"', "unknown key; did you mean 'listen_api'?"),
        ("scan_interval_s", "1", "unknown key; it belongs to [[volume]]"),
        ("zzz", "1", "unknown key; known are listen_agents, listen_api"),
    ],
)
def test_coordinator_table(tmp_path: Path, key: str, value: str, told: str) -> None:
    (problem,) = problems(tmp_path, toml({key: value}))
    assert f"[coordinator] {key}" in problem
    assert told in problem


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("digest", '"md5"', "allowed: xxh3-128 or blake3"),
        ("nodes", "", "nodes is missing"),
        ("nodes", "[]", "too few elements"),
        ("nodes", '"n1"', "not an array; write ['n1']"),
        ("nodes", '["n1", "n1"]', "'n1' is listed twice"),
        ("nodes", '["Node-01"]', "element 1 (Node-01): capital letters; write 'node-01'"),
        ("nodes", '["-a"]', "a character that names can not have"),
        ("nodes", '["a/b"]', "a character that names can not have"),
        ("nodes", '[""]', "empty"),
        ("nodes", '["' + "a" * 64 + '"]', "64 characters"),
        ("nodes", "[1]", "not a string"),
        ("max_quarantined", "3", "a quorum would be lost"),
        ("max_quarantined", "3", "with the 5 nodes of volume \"photos\" more than 2 fenced would leave fewer"),
        ("max_quarantined", "-1", "too small; allowed: a whole number from 0"),
        ("max_quarantined", "1.0", "not a whole number"),
        ("max_quarantined", '"1"', "write it without quotes"),
        ("auto_release_max", "true", "not a whole number"),
        ("auto_release_window_s", "inf", "too large"),
        ("lb_max_lag_s", "nan", "not a finite number"),
        ("history_keep_s", "0", "too small"),
        ("max_quarantine", "1", "did you mean 'max_quarantined'?"),
        ("settle_s", "1", "it belongs to [[volume]]"),
    ],
)  # fmt: skip
def test_fleet_table(tmp_path: Path, key: str, value: str, told: str) -> None:
    (problem,) = problems(tmp_path, toml(None, {key: value}))
    assert f"[fleet] {key}" in problem
    assert told in problem


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("name", '"Photos"', "capital letters"),
        ("policy", '"writers"', "needs at least one node whose changes make the truth"),
        ("on_lag", '"wait"\npolicy = "any-writer"', "closeranks itself carries the writes"),
        ("policy", '"qourum"', "did you mean 'quorum'?"),
        ("writers", '["n1"]', "this volume goes by quorum; leave writers out"),
        ("writers", '["n1"]\npolicy = "any-writer"', "every node of the volume is a writer"),
        ("writers", '["n1", "n9"]\npolicy = "writers"', "not a node of this volume: n9"),
        ("nodes", '["n1", "n9"]', "not in fleet.nodes: n9"),
        ("nodes", '["n1", "n1"]', "listed twice"),
        ("nodes", "[]", "too few"),
        ("on_divergence", '"fence"', "alert: a suspect stays as it is"),
        ("settle_s", '"30"', "not a number; write it without quotes; allowed: a number from 0 to 86400 s"),
        ("settle_s", "true", "not a number"),
        ("settle_s", "-1", "too small"),
        ("settle_s", "100\nsettle_max_s = 50", "must not be shorter; allowed: 100 or more"),
        ("scan_interval_s", "0", "too small"),
        ("on_lag", '"never"', "allowed: resync or wait"),
        ("lag_grace_s", "1e9", "too large"),
        ("chunk_bytes", "1024", "too small"),
        ("chunk_bytes", "5000", "a multiple of 4096"),
        ("chunk_bytes", "33554432", "too large"),
        ("ignore", '["["]', "it matches nothing"),
        ("ignore", '["# comment"]', "a pattern that begins with # is written \\#"),
        ("ignore", '["ok", "a\\nb"]', "element 2 (a\\nb): a pattern is one line"),
        ("ignore", '[""]', "empty"),
        ("track", '["mode", "modes"]', "allowed: an array, each element: mode, owner, mtime or xattrs"),
        ("track", '["mode", "mode"]', "listed twice"),
        ("special_bits", "1", "not a boolean"),
        ("trash_max_bytes", "10", "too small"),
        ("trash_keep_s", '"7d"', "not a number"),
        ("setle_s", "1", "did you mean 'settle_s'?"),
        ("max_quarantined", "1", "it belongs to [fleet]"),
        ("path", '"/srv"', "unknown key"),
    ],
)
def test_volume_table(tmp_path: Path, key: str, value: str, told: str) -> None:
    found = problems(tmp_path, toml(None, None, {key: value}))
    assert any(told in problem and "[[volume]]" in problem for problem in found)
    assert len(found) == 1


def test_on_divergence_has_no_default_and_says_what_there_is(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, toml(None, None, {"on_divergence": ""}))
    assert '[[volume]] "photos": on_divergence is missing' in problem
    assert "so it has no default" in problem
    for word in (
        "alert: ",
        "quarantine: ",
        "resync: ",
        "fenced until a person",
        "verified and released by itself",
    ):
        assert word in problem


def test_all_mistakes_at_once_each_with_its_line(tmp_path: Path) -> None:
    text = toml({"log_format": '"x"'}, {"digest": '"y"'}, {"settle_s": '"z"'}, {"on_divergence": '"w"'})
    found = problems(tmp_path, text)
    lines = text.splitlines()
    for problem, value in zip(found[:4], ("x", "y", "z", "w"), strict=True):
        number = int(problem.split(":")[1])
        assert f'"{value}"' in lines[number - 1]
    assert "another [[volume]] has this name" in found[4]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x = ", "not valid TOML: Invalid value (at"),
        ("a = 1\na = 2", "not valid TOML: Cannot overwrite a value"),
        ("", "[[volume]] is missing"),
        ("listen_api = 1", "unknown key; it belongs to [coordinator]"),
        ("[volume]\nname = 'x'", "written as [[volume]] with two brackets"),
        ("coordinator = 3", "must be a table, written as [coordinator]"),
        ("[agents]", "unknown key"),
    ],
)
def test_files_that_are_something_else(tmp_path: Path, text: str, told: str) -> None:
    assert any(told in problem for problem in problems(tmp_path, text))


def test_files_that_can_not_be_read(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="can not be read: No such file"):
        load_coordinator_config(tmp_path / "none.toml")
    with pytest.raises(SettingsError, match="can not be read: Is a directory"):
        load_coordinator_config(tmp_path)
    file = tmp_path / "c.toml"
    file.write_bytes(b"\xff")
    with pytest.raises(SettingsError, match="is not UTF-8"):
        load_coordinator_config(file)
    file.write_bytes(b"#" * (1 << 20 | 1))
    with pytest.raises(SettingsError, match="at most"):
        load_coordinator_config(file)


def test_flag_then_environment_then_file_then_default(tmp_path: Path) -> None:
    text = toml({"listen_api": '"127.0.0.1:1"', "listen_agents": '"127.0.0.1:2"', "log_format": '"text"'})
    environ = {
        "CLOSERANKS_COORDINATOR_LISTEN_API": "127.0.0.1:3",
        "CLOSERANKS_COORDINATOR_LOG_FORMAT": "json",
    }
    config = load(tmp_path, text, environ, listen_api="[::1]:4")
    assert str(config.listen_api) == "[::1]:4"
    assert config.log_format == "json"
    assert config.listen_agents.port == 2
    assert config.reread() == config


def test_fleet_keys_from_the_environment(tmp_path: Path) -> None:
    environ = {
        "CLOSERANKS_FLEET_NODES": "a, b,c,", "CLOSERANKS_FLEET_MAX_QUARANTINED": "0",
        "CLOSERANKS_FLEET_LB_MAX_LAG_S": "1.5", "CLOSERANKS_NODE": "not ours", "HOME": "/",
    }  # fmt: skip
    config = load(tmp_path, toml(), environ)
    assert config.fleet.nodes == ("a", "b", "c")
    assert (config.fleet.max_quarantined, config.fleet.lb_max_lag_s) == (0, 1.5)
    assert config.warnings == ()


def test_a_wrong_variable_is_named_and_a_misspelt_one_is_a_warning(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, toml(), {"CLOSERANKS_COORDINATOR_LISTEN_API": "nowhere"})
    assert 'environment CLOSERANKS_COORDINATOR_LISTEN_API = "nowhere": no port' in problem
    (problem,) = problems(tmp_path, toml(), listen_api="nowhere")
    assert 'flag --listen-api "nowhere": no port' in problem
    config = load(tmp_path, toml(), {"CLOSERANKS_COORDINATOR_LISTEN_APIS": "x"})
    assert "did you mean CLOSERANKS_COORDINATOR_LISTEN_API?" in config.warnings[0]


def test_tokens_open_the_api_to_the_network(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for file, secret in ((one, "a" * 32), (two, "b" * 32)):
        file.write_text(secret + "\n")
        file.chmod(0o640)
    text = toml({"listen_api": '"0.0.0.0:7341"', "token_files": f'["{one}", "{two}"]'})
    config = load(tmp_path, text)
    assert [token.secret for token in config.tokens] == ["a" * 32, "b" * 32]
    assert "aaaa" not in repr(config)
    two.write_text("a" * 32)
    assert "the same token as another file" in problems(tmp_path, text)[0]
    two.chmod(0o644)
    assert "open to others (mode 0644)" in problems(tmp_path, text)[0]


@pytest.mark.parametrize(
    ("nodes", "quorum", "bound"), [(1, 1, 0), (2, 2, 0), (3, 2, 1), (4, 3, 1), (5, 3, 2), (16, 9, 7)]
)
def test_quorum_arithmetic(nodes: int, quorum: int, bound: int) -> None:
    assert (quorum_of(nodes), fence_bound(nodes)) == (quorum, bound)


def test_a_smaller_volume_bounds_max_quarantined_with_a_note(tmp_path: Path) -> None:
    config = load(
        tmp_path, toml(None, {"max_quarantined": "2"}, {}, {"name": '"few"', "nodes": '["n1", "n2", "n3"]'})
    )
    assert any('volume "few": its quorum bears 1 fenced node, fewer than' in note for note in config.notes)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"nodes": '["n1", "n2", "n3"]'}, "fleet.nodes: n4, n5 in no volume"),
        ({"nodes": '["n1"]'}, "1 node: a quorum is 1"),
        ({"settle_s": "0.2"}, "can be accused before the others have it"),
        ({"trash_keep_s": "60"}, "gone within the hour"),
    ],
)
def test_warnings(tmp_path: Path, change: dict[str, str], told: str) -> None:
    assert any(told in warning for warning in load(tmp_path, toml(None, None, change)).warnings)


def test_notes_explain_settle_and_scan(tmp_path: Path) -> None:
    notes = " ".join(load(tmp_path, toml()).notes)
    assert "your own replication brings a change to 3 of the 5 nodes" in notes
    assert "naming takes up to about 120 s" in notes
    assert "on_divergence = resync: the node is fenced" in notes
    even = load(tmp_path, toml(None, None, {"nodes": '["n1", "n2", "n3", "n4"]'}))
    assert any("a split 2 to 2 accuses nobody" in note for note in even.notes)
