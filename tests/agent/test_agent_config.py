"""agent.toml: every mistake is named; places on disk are compared after links are resolved."""

from __future__ import annotations

from pathlib import Path

import pytest

from closeranks_agent.config import AgentConfig, AgentVolumeConfig, Hooks, ReactionPermits, load_agent_config
from closeranks_proto.kinds import Address
from closeranks_proto.settings import SettingsError

AGENT = {
    "node": '"node-01"',
    "coordinator": '"https://coordinator.example:7340"',
    "listen": '"0.0.0.0:7342"',
    "state_dir": '"/var/lib/closeranks/agent"',
}
VOLUME = {"name": '"photos"', "path": '"/srv/photos"'}


def toml(agent: dict[str, str] | None = None, *volumes: dict[str, str], hooks: str = "") -> str:
    """A valid file, changed by these keys. A value of "" leaves the key out."""
    lines = ["[agent]", *(f"{key} = {value}" for key, value in (AGENT | (agent or {})).items()), hooks]
    for volume in volumes or ({},):
        lines += ["[[volume]]", *(f"{key} = {value}" for key, value in (VOLUME | volume).items())]
    return "\n".join(line for line in lines if not line.endswith(" = "))


def load(tmp_path: Path, text: str, environ: dict[str, str] | None = None, **flags: str) -> AgentConfig:
    file = tmp_path / "agent.toml"
    file.write_text(text)
    return load_agent_config(file, {f"agent.{key}": value for key, value in flags.items()}, environ or {})


def problems(
    tmp_path: Path, text: str, environ: dict[str, str] | None = None, **flags: str
) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as error:
        load(tmp_path, text, environ, **flags)
    assert all(problem.startswith(f"{tmp_path}/agent.toml") for problem in error.value.problems)
    return error.value.problems


def test_the_interface_example_is_valid(tmp_path: Path) -> None:
    config = load(tmp_path, toml())
    assert config.coordinator == "https://coordinator.example:7340"
    assert (config.listen, config.advertise) == (Address("0.0.0.0", 7342), None)
    assert (config.log_format, config.insecure, config.hooks) == ("text", False, Hooks((), (), 30.0))
    assert config.volumes == (AgentVolumeConfig("photos", "/srv/photos", None, None),)
    assert config.warnings == ()


def test_everything_set(tmp_path: Path) -> None:
    hooks = '[agent.hooks]\non_quarantine = ["/bin/true", "a b"]\non_release = ["/bin/true"]\ntimeout_s = 5'
    text = toml(
        {"advertise": '"[fd00::1]:7342"', "log_format": '"json"', "coordinator": '"http://[::1]"'},
        {"private_dir": '"/srv/private"', "scan_interval_s": "5", "path": '"/srv//photos/"'},
        hooks=hooks,
    )
    config = load(tmp_path, text)
    assert config.coordinator == "http://[::1]:7340"
    assert str(config.advertise) == "[fd00::1]:7342"
    assert config.hooks == Hooks(("/bin/true", "a b"), ("/bin/true",), 5.0)
    assert config.volumes == (AgentVolumeConfig("photos", "/srv/photos", "/srv/private", 5.0),)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("node", "", "node is missing"),
        ("node", '"Node 1"', "a character that names can not have"),
        ("coordinator", "", "coordinator is missing"),
        ("coordinator", '"coordinator.example:7340"', "it must begin with http:// or https://"),
        ("coordinator", '"ws://x:1"', "it must begin with http:// or https://"),
        ("coordinator", '"https://x:1/path"', "no path, no query"),
        ("coordinator", '"https://u:p@x:1"', "credentials do not belong into a URL"),
        ("coordinator", '"https://x:0"', "port 0 can not be dialled"),
        ("coordinator", '"https://x:99999"', "Port out of range"),
        ("coordinator", '"https://[::1"', "Invalid IPv6 URL"),
        ("coordinator", '"http://coordinator.example:7340"', "use https://, or say insecure = true"),
        ("coordinator", '"http://10.0.0.1:7340"', "insecure = true"),
        ("listen", '"7342"', "no port"),
        ("advertise", '"0.0.0.0:7342"', "nobody can dial an unspecified address"),
        ("advertise", '"[::]:7342"', "nobody can dial an unspecified address"),
        ("advertise", '"host:0"', "nobody can dial port 0"),
        ("state_dir", '"state"', "not an absolute path"),
        ("insecure", '"yes"', "not a boolean; write it without quotes"),
        ("nod", '"x"', "did you mean 'node'?"),
        ("on_release", "[]", "it belongs to [agent.hooks]"),
        ("path", '"/x"', "it belongs to [[volume]]"),
    ],
)
def test_agent_table(tmp_path: Path, key: str, value: str, told: str) -> None:
    (problem,) = problems(tmp_path, toml({key: value}))
    assert f"[agent] {key}" in problem
    assert told in problem


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "localhost", "[::1]", "LOCALHOST"])
def test_http_is_accepted_on_loopback(tmp_path: Path, host: str) -> None:
    assert load(tmp_path, toml({"coordinator": f'"http://{host}:7340"'})).warnings == ()


@pytest.mark.parametrize("host", ["localhost.example", "127.0.0.1.example", "0.0.0.0", "10.0.0.1"])
def test_http_elsewhere_needs_insecure_and_warns(tmp_path: Path, host: str) -> None:
    assert "insecure = true" in problems(tmp_path, toml({"coordinator": f'"http://{host}:7340"'}))[0]
    config = load(tmp_path, toml({"coordinator": f'"http://{host}:7340"', "insecure": "true"}))
    assert "travel in clear" in config.warnings[0]


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("name", '"PHOTOS"', "capital letters; write 'photos'"),
        ("path", "", "path is missing"),
        ("path", '"srv/photos"', "not an absolute path"),
        ("path", '"/"', "root of the file system"),
        ("path", '"/a\\u0000b"', "no NUL"),
        ("private_dir", '"private"', "not an absolute path"),
        ("private_dir", '"/srv/photos/.private"', "lies inside this volume's path"),
        ("private_dir", '"/srv/photos"', "is the same directory as this volume's path"),
        ("private_dir", '"/srv"', "contains this volume's path"),
        ("scan_interval_s", "0.01", "too small"),
        ("settle_s", "1", "unknown key; known are name, path, private_dir, scan_interval_s"),
    ],
)
def test_volume_table(tmp_path: Path, key: str, value: str, told: str) -> None:
    (problem,) = problems(tmp_path, toml(None, {key: value}))
    assert "[[volume]]" in problem
    assert told in problem


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        ("/srv/a", "/srv/a", 'is the same directory as the path of volume "photos"'),
        ("/srv/a", "/srv/a/b", 'lies inside the path of volume "photos"'),
        ("/srv/a/b", "/srv/a", 'contains the path of volume "photos"'),
        ("/srv/a", "/srv/x/../a", 'is the same directory as the path of volume "photos"'),
        ("/srv/a", "/var/lib/closeranks", "contains state_dir"),
        ("/srv/a", "/var/lib/closeranks/agent/tree", "lies inside state_dir"),
        ("/srv/a", "/var/lib/closeranks/agent", "is the same directory as state_dir"),
    ],
)
def test_places_do_not_overlap(tmp_path: Path, first: str, second: str, told: str) -> None:
    text = toml(None, {"path": f'"{first}"'}, {"path": f'"{second}"', "name": '"more"'})
    (problem,) = problems(tmp_path, text)
    assert f'[[volume]] "more": path = "{second}"' in problem
    assert told in problem


def test_siblings_with_a_common_beginning_are_two_places(tmp_path: Path) -> None:
    assert (
        len(load(tmp_path, toml(None, {"path": '"/srv/a"'}, {"path": '"/srv/ab"', "name": '"more"'})).volumes)
        == 2
    )


def test_links_are_resolved_before_places_are_compared(tmp_path: Path) -> None:
    (tmp_path / "tree" / "inner").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "tree")
    text = toml(None, {"path": f'"{tmp_path}/tree"'}, {"path": f'"{tmp_path}/link/inner"', "name": '"more"'})
    assert "lies inside the path of volume" in problems(tmp_path, text)[0]
    text = toml({"state_dir": f'"{tmp_path}/link/state"'}, {"path": f'"{tmp_path}/tree"'})
    assert "contains state_dir" in problems(tmp_path, text)[0]


def test_private_directories_are_places_too(tmp_path: Path) -> None:
    shared = {"private_dir": '"/srv/private"'}
    text = toml(None, {"path": '"/srv/a"'} | shared, {"path": '"/srv/b"', "name": '"more"'} | shared)
    assert "is the same directory as the private_dir of volume" in problems(tmp_path, text)[0]


def test_duplicate_names(tmp_path: Path) -> None:
    assert "names are unique" in problems(tmp_path, toml(None, {}, {"path": '"/srv/other"'}))[0]


@pytest.mark.parametrize(
    ("hooks", "told"),
    [
        ('[agent.hooks]\non_quarantine = ["true"]', "by its absolute path"),
        ('[agent.hooks]\non_quarantine = "/bin/true"', "not an array"),
        ('[agent.hooks]\non_quarantine = ["/bin/true", ""]', "element 2 (): empty"),
        ("[agent.hooks]\ntimeout_s = 0", "too small"),
        ("[agent.hooks]\non_verify = []", "unknown key"),
        ("hooks = 3", "must be a table, written as [agent.hooks]"),
    ],
)
def test_hooks_table(tmp_path: Path, hooks: str, told: str) -> None:
    (problem,) = problems(tmp_path, toml(hooks=hooks))
    assert told in problem


def test_what_a_hold_may_do_here_is_nothing_unless_the_owner_says_so(tmp_path: Path) -> None:
    assert load(tmp_path, toml()).reactions == ReactionPermits(False, False)
    config = load(tmp_path, toml(hooks="[agent.reactions]\nallow_pause = true\nallow_freeze = true"))
    assert config.reactions == ReactionPermits(True, True)
    told = "\n".join(config.notes)
    assert "SIGSTOP" in told
    assert "read-only" in told
    environ = {"CLOSERANKS_AGENT_REACTIONS_ALLOW_PAUSE": "yes"}
    assert load(tmp_path, toml(), environ).reactions == ReactionPermits(True, False)


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ("[agent.reactions]\nallow_pause = 1", "allow_pause"),
        ("[agent.reactions]\nallow_kill = true", "unknown key"),
        ("allow_pause = true", "it belongs to [agent.reactions]"),
    ],
)
def test_reactions_table(tmp_path: Path, table: str, told: str) -> None:
    (problem,) = problems(tmp_path, toml(hooks=table))
    assert told in problem


def test_hooks_of_a_hold(tmp_path: Path) -> None:
    text = toml(hooks='[agent.hooks]\non_hold = ["/bin/true", "a"]\non_unhold = ["/nonexistent/hook"]')
    config = load(tmp_path, text)
    assert (config.hooks.on_hold, config.hooks.on_unhold) == (("/bin/true", "a"), ("/nonexistent/hook",))
    assert "on_unhold: /nonexistent/hook can not be executed" in config.warnings[0]


def test_a_hook_that_can_not_run_is_a_warning(tmp_path: Path) -> None:
    config = load(tmp_path, toml(hooks='[agent.hooks]\non_release = ["/nonexistent/hook"]'))
    assert "/nonexistent/hook can not be executed" in config.warnings[0]


def test_flag_then_environment_then_file(tmp_path: Path) -> None:
    environ = {
        "CLOSERANKS_AGENT_NODE": "from-environment", "CLOSERANKS_AGENT_LISTEN": "127.0.0.1:2",
        "CLOSERANKS_AGENT_INSECURE": "yes", "CLOSERANKS_AGENT_HOOKS_TIMEOUT_S": "7",
        "CLOSERANKS_AGENT_HOOKS_ON_RELEASE": "/bin/echo,a,b", "CLOSERANKS_AGENT_LISTNE": "x",
    }  # fmt: skip
    config = load(tmp_path, toml({"node": "", "listen": '"127.0.0.1:1"'}), environ, listen="127.0.0.1:3")
    assert (config.node, config.listen.port, config.insecure) == ("from-environment", 3, True)
    assert config.hooks == Hooks((), ("/bin/echo", "a", "b"), 7.0)
    assert "did you mean CLOSERANKS_AGENT_LISTEN?" in config.warnings[0]
    assert config.reread() == config


def test_all_at_once(tmp_path: Path) -> None:
    found = problems(tmp_path, "[agent]\nlisten = 3\n[[volume]]\nname = 3\npath = 4\n")
    assert len(found) == 6
    assert found[0].startswith(f"{tmp_path}/agent.toml:1: [agent] node is missing")
    assert f"{tmp_path}/agent.toml:2: [agent] listen = 3: not a string" in "\n".join(found)


def test_no_volume(tmp_path: Path) -> None:
    assert "an agent watches at least one tree" in problems(tmp_path, toml().split("[[volume]]")[0])[0]
