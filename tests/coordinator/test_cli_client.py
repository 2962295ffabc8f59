"""Why no answer came: each cause has its own message, one line, exit 2, and no traceback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import clifake
from clifake import Fake
from closeranks_coordinator.cli import client
from closeranks_coordinator.cli.main import main
from closeranks_coordinator.cli.screen import safe_json

PROGRAM = str(Path(sys.executable).with_name("closeranks"))


def complaint(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("closeranks: ")
    assert len(captured.err.splitlines()) == 1
    assert "Traceback" not in captured.err
    return captured.err


@contextmanager
def talker(said: bytes, keep_open: bool = False) -> Iterator[str]:
    """A port that accepts one connection, says this, and closes, or keeps silent."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        done = threading.Event()

        def talk() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(said)
                if keep_open:
                    done.wait(10)

        thread = threading.Thread(target=talk, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        done.set()
        thread.join(5)


def test_nobody_listens(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
    assert main(["status", "--url", url]) == 2
    said = complaint(capsys)
    assert url in said
    assert "connection refused" in said
    assert "closeranks coordinator --config FILE" in said


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (b"SSH-2.0-OpenSSH\r\n", "does not speak HTTP"),
        (b"", "It may be restarting"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", "before its answer was complete"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{nope", "does not understand"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "same version"),
        (b'HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"\xff\xff"', "does not understand"),
        (b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n", "redirection"),
        (b"HTTP/1.1 500 No\r\nContent-Length: 6\r\n\r\n\x1b[2Jxx", "HTTP 500 (\\x1b[2Jxx)"),
    ],
)
def test_something_else_answers(capsys: pytest.CaptureFixture[str], said: bytes, told: str) -> None:
    with talker(said) as url:
        assert main(["status", "--url", url]) == 2
    assert told in complaint(capsys)


def test_the_port_where_agents_dial_in(api: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    api.routes["GET /api/v1/fleet"] = (421, clifake.error("wrong_port", "this is listen_agents"))
    assert main(["status"]) == 2
    assert "Name its listen_api (by default port 7341) with --url or CLOSERANKS_URL" in complaint(capsys)


def test_silence_ends(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "ANSWER_TIMEOUT_S", 0.2)
    with talker(b"", keep_open=True) as url:
        assert main(["status", "--url", url]) == 2
    assert "no answer in time" in complaint(capsys)


def test_an_endless_answer_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "MAX_ANSWER_BYTES", 1000)
    with talker(b"HTTP/1.1 200 OK\r\n\r\n" + b" " * 5000) as url:
        assert main(["status", "--url", url]) == 2
    assert "more than 1000 bytes" in complaint(capsys)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("ftp://x:1", "http:// or https://"),
        ("http://x:1/api", "end after the port"),
        ("http://me:secret@x:1", "credentials"),
        ("http://x:port", "--url"),
        ("http://", "no usable host"),
        ("http://no-such-host.invalid:7341", "host name is not known"),
    ],
)
def test_a_wrong_url(capsys: pytest.CaptureFixture[str], url: str, told: str) -> None:
    assert main(["status", "--url", url]) == 2
    assert told in complaint(capsys)


def test_tls_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    with talker(b"HTTP/1.1 400 Bad Request\r\n\r\n") as url:
        assert main(["status", "--url", url.replace("http:", "https:")]) == 2
    assert "TLS failed" in complaint(capsys)


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    with clifake.serving(Fake()) as fake:
        fake.routes["GET /api/v1/fleet"] = clifake.fleet([clifake.node("n1")])
        monkeypatch.setenv("CLOSERANKS_URL", fake.url)
        monkeypatch.delenv("CLOSERANKS_TOKEN_FILE", raising=False)
        yield fake


def test_the_token_is_sent_from_its_file(
    api: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "token"
    file.write_text("0123456789abcdef0123\n")
    file.chmod(0o600)
    assert main(["status", "--token-file", str(file)]) == 0
    monkeypatch.setenv("CLOSERANKS_TOKEN_FILE", str(file))
    assert main(["status"]) == 0
    asked = [(request.path, request.headers["authorization"]) for request in api.requests]
    token = "Bearer 0123456789abcdef0123"
    assert asked == [("/api/v1/fleet", token), ("/api/v1/incidents", token)] * 2
    assert "0123456789abcdef0123" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "mode", "told"),
    [
        (b"", 0o600, "is empty"),
        (b"0123456789abcdef", 0o644, "open to others (mode 0644); run: chmod 600"),
        (b"two words here 12345", 0o600, "more than one word"),
        (b"short", 0o600, "16 to 1024"),
        (b"\xff" * 20, 0o600, "printable ASCII"),
    ],
)
def test_a_token_file_that_is_no_good(
    api: Fake, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, mode: int, told: str
) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    file.chmod(mode)
    assert main(["status", "--token-file", str(file)]) == 2
    assert told in complaint(capsys)
    assert main(["status", "--token-file", str(tmp_path / "absent")]) == 2
    assert "can not be read: No such file" in complaint(capsys)
    assert api.requests == []


def test_no_token_where_one_is_needed(api: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    api.routes["GET /api/v1/fleet"] = (401, clifake.error("unauthorized", "a token is needed"))
    assert main(["status"]) == 2
    assert "--token-file FILE or CLOSERANKS_TOKEN_FILE" in complaint(capsys)


def test_a_wrong_token_is_one_error_with_what_to_compare(
    api: Fake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was said twice that the token is wrong, and then to name a file, which had been named."""
    file = tmp_path / "token"
    file.write_text("0123456789abcdef0123\n")
    file.chmod(0o600)
    api.routes["GET /api/v1/fleet"] = (401, clifake.error("token_wrong", "the token is none of those"))
    assert main(["status", "--token-file", str(file)]) == 2
    said = complaint(capsys)
    assert "the token is none of those. The file that --token-file" in said
    assert "token_files in coordinator.toml" in said
    assert "Name the file" not in said


def test_a_guard_against_foreign_hosts_is_no_lack_of_a_token(
    api: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    api.routes["POST /api/v1/nodes/n1/release"] = (
        403,
        clifake.error("foreign_host", "name it in public_hosts"),
    )
    assert main(["release", "n1"]) == 2
    said = complaint(capsys)
    assert "name it in public_hosts" in said
    assert "token" not in said


def test_the_flag_stands_above_the_environment(api: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOSERANKS_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert main(["status", "--url", api.url]) == 0


def test_usage_errors_exit_2() -> None:
    for words in ([], ["stauts"], ["status", "--unknown"], ["diff", "photos"], ["allow"], ["mesh"]):
        with pytest.raises(SystemExit) as exit_info:
            main(words)
        assert exit_info.value.code == 2


@pytest.mark.parametrize(
    "command",
    ["", "coordinator", "agent", "check-config", "status", "nodes", "diff", "incidents", "incident", "quarantine",
     "release", "resync", "baseline", "baseline create", "trash", "trash restore", "doctor", "completion"],
)  # fmt: skip
def test_every_command_has_help(capsys: pytest.CaptureFixture[str], command: str) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main([*command.split(), "--help"])
    assert exit_info.value.code == 0
    assert "usage: closeranks" in capsys.readouterr().out


def test_help_imports_neither_the_daemons_nor_the_tables() -> None:
    code = (
        "import sys; from closeranks_coordinator.cli.main import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\nprint(sorted(sys.modules))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for module in ("aiohttp", "rich", "msgspec", "apsw", "closeranks_agent", "http.client"):
        assert f"'{module}'" not in loaded


def test_a_locale_that_can_not_show_a_name(api: Fake) -> None:
    api.routes["GET /api/v1/nodes/n1"] = clifake.node("n1", address="grün")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([PROGRAM, "nodes", "n1"], env=environment, capture_output=True, check=False)
    assert done.returncode == 0
    assert b"gr\\xfcn" in done.stdout


def test_json_on_a_terminal_is_the_same_json() -> None:
    assert safe_json('{"a": "x\x9b\u202e"}\n') == '{"a": "x\\u009b\\u202e"}\n'


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_is_a_script_of_all_commands(capsys: pytest.CaptureFixture[str], shell: str) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    (words,) = [line for line in script.splitlines() if line.strip().startswith('" baseline create") words=')]
    assert "--volume" in words
    assert "--node" in words
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
