"""`check-config`, and how the daemons' commands read their configuration."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from closeranks_coordinator.cli.main import main

PROGRAM = str(Path(sys.executable).with_name("closeranks"))
AGENT = """\
[agent]
node = "n1"
coordinator = "http://127.0.0.1:7340"
state_dir = "{0}/state"
[[volume]]
name = "photos"
path = "{0}/tree"
"""
COORDINATOR = """\
[coordinator]
state_dir = "{0}/state"
[fleet]
nodes = ["n1", "n2", "n3"]
[[volume]]
name = "photos"
on_divergence = "alert"
"""


@pytest.mark.parametrize(("text", "kind"), [(AGENT, "agent"), (COORDINATOR, "coordinator")])
def test_either_file_is_recognised(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, kind: str
) -> None:
    file = tmp_path / "any.toml"
    file.write_text(text.format(tmp_path))
    assert main(["check-config", str(file)]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{file}: a valid {kind}.toml\n")
    assert main(["check-config", "--json", str(file)]) == 0
    answer = msgspec.json.decode(capsys.readouterr().out)
    assert (answer["kind"], answer["warnings"]) == (kind, [])
    assert ("your own replication" in out) is (kind == "coordinator")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "has neither [agent] nor [coordinator]"),
        ("[agent]\n[fleet]\n", "has tables of both sides"),
        ("[agent\n", "not valid TOML"),
        ("[agent]\nnode = 'n1'\nlisten = 'x'\n", "no port"),
    ],
)
def test_what_is_wrong_exits_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, told: str
) -> None:
    file = tmp_path / "any.toml"
    file.write_text(text)
    assert main(["check-config", str(file)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert told in captured.err
    assert captured.err.splitlines()[-1].endswith("nothing was changed")
    assert main(["check-config", str(file), "--json"]) == 2
    assert any(told in error for error in msgspec.json.decode(capsys.readouterr().out)["errors"])


def test_a_file_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-config", "/nonexistent\x1b[2J"]) == 2
    err = capsys.readouterr().err
    assert "/nonexistent\\x1b[2J: can not be read: No such file" in err
    assert "\x1b" not in err


@pytest.mark.parametrize("daemon", ["agent", "coordinator"])
def test_a_daemon_without_a_usable_configuration_exits_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], daemon: str
) -> None:
    assert main([daemon]) == 2
    assert f"CLOSERANKS_{daemon.upper()}_CONFIG" in capsys.readouterr().err
    assert main([daemon, "--config", str(tmp_path / "none.toml")]) == 2
    assert "can not be read" in capsys.readouterr().err
    file = tmp_path / "some.toml"
    file.write_text(f"[{daemon}]\nlog_format = 'xml'\nx = 1\n")
    assert main([daemon, "--config", str(file), "--state-dir", "relative"]) == 2
    err = capsys.readouterr().err
    assert 'flag --state-dir "relative": not an absolute path' in err
    assert 'log_format = "xml"' in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("daemon", "text", "told"),
    [
        (
            "agent",
            COORDINATOR,
            "a coordinator.toml ([coordinator], [fleet]), and the agent wants its agent.toml",
        ),
        (
            "coordinator",
            AGENT,
            "this is an agent.toml ([agent]), and the coordinator wants its coordinator.toml",
        ),
    ],
)
def test_a_daemon_that_is_given_the_others_file_says_so_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], daemon: str, text: str, told: str
) -> None:
    file = tmp_path / "some.toml"
    file.write_text(text.format(tmp_path))
    assert main([daemon, "--config", str(file)]) == 2
    err = capsys.readouterr().err
    assert told in err
    assert len(err.splitlines()) == 1, err


def test_a_misspelt_policy_is_one_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "some.toml"
    file.write_text(COORDINATOR.format(tmp_path) + 'policy = "writer"\nwriters = ["n1"]\n')
    assert main(["check-config", str(file)]) == 2
    err = capsys.readouterr().err
    assert "did you mean 'writers'?" in err
    assert err.splitlines()[-1].endswith("not valid: 1 error; nothing was changed")


def test_flags_reach_the_daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import closeranks_agent.commands

    file = tmp_path / "agent.toml"
    file.write_text(AGENT.format(tmp_path))
    seen = []

    class FakeMain:
        @staticmethod
        def run(config: object) -> int:
            seen.append(config)
            return 4

    monkeypatch.setitem(sys.modules, "closeranks_agent.main", FakeMain)
    monkeypatch.setattr("closeranks_agent.logs.set_up_logging", lambda log_format: seen.append(log_format))
    assert main(["agent", "--config", str(file), "--listen", "127.0.0.1:1", "--log-format", "json"]) == 4
    assert seen[0] == "json"
    assert str(seen[1].listen) == "127.0.0.1:1"
    assert closeranks_agent.commands.__name__ in sys.modules


def test_the_installed_program_runs() -> None:
    done = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("closeranks ")
