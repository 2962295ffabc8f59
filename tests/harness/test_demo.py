"""The demo's own judgement: settings, news told once, table and last line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from demo.acts import named_paths, unix
from demo.screen import amount
from demo.settings import Wrong, read_settings
from demo.stage import scan_interval_s
from demo.watch import News, StateChange, TimelineEvent, Watch
from fleet import Api, EventReader, wait_until
from frame.measured import Measured

ROOT = Path(__file__).parents[2]


def test_settings_are_read_from_the_environment(tmp_path: Path) -> None:
    given = read_settings(
        {"TREE": str(tmp_path), "PORT": "7341", "KEEP": "1", "SEED": "5", "DEMO_DIR": "/elsewhere"}
    )
    assert (given.tree, given.port, given.keep, given.seed) == (tmp_path, 7341, True, 5)
    assert read_settings({"KEEP": "0"}).keep is False


@pytest.mark.parametrize(
    ("environment", "word"),
    [
        ({"TREE": "/no/such/place"}, "not a directory"),
        ({"PORT": "http"}, "not a port"),
        ({"PORT": "70000"}, "not a port"),
        ({"TREE": "/", "DEMO_DIR": "/var/demo"}, "inside TREE"),
        ({"SEED": "x"}, "SEED"),
    ],
)
def test_wrong_settings_say_what_to_do(environment: dict[str, str], word: str) -> None:
    with pytest.raises(Wrong, match=word):
        read_settings(environment)


def test_a_wrong_setting_ends_the_demo_with_2_and_no_traceback() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "demo"],
        env={**os.environ, "PYTHONPATH": f"{ROOT}/tests:{ROOT}/bench", "TREE": "/no/such/place"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 2
    assert "not a directory" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_amounts_are_for_people() -> None:
    assert [amount(n) for n in (0, 999, 1_300_000, 2_500_000_000)] == ["0 B", "999 B", "1.3 MB", "2.50 GB"]


def test_large_trees_are_scanned_less_often() -> None:
    assert scan_interval_s(2_600) == 1.0
    assert scan_interval_s(100_000) > 10


def test_a_bound_holds_below_it_only() -> None:
    assert Measured("x", 3.9, "s", 4.0).holds
    assert not Measured("x", 4.0, "s", 4.0).holds
    assert Measured("x", 1e9, "B", None).holds


def test_paths_that_are_not_utf8_are_compared_as_bytes() -> None:
    assert named_paths({"paths": [{"path_b64": "/2E="}, {"path_b64": "YQ=="}]}) == {b"\xffa", b"a"}


def _node(state: str) -> dict[str, Any]:
    return {"node": "node-01", "state": state, "volumes": [], "quarantine": None}


def _incident(*events: str) -> dict[str, Any]:
    timeline = [{"at": f"2026-01-01T00:00:0{n}.000Z", "event": e, "text": e} for n, e in enumerate(events)]
    return {"id": "i-1", "kind": "divergence", "node": "node-01", "timeline": timeline, "opened_at": "x"}


class Recorded(BaseHTTPRequestHandler):
    """A coordinator's recorded answers."""

    def do_GET(self) -> None:
        if self.path.startswith("/api/v1/events"):
            self._answer("text/event-stream", self._stream())
        elif self.path.startswith("/api/v1/fleet"):
            self._answer(
                "application/json", json.dumps({"in_rank": False, "nodes": [_node("suspect")]}).encode()
            )
        else:
            page = {"items": [_incident("detected", "named")], "next_cursor": None}
            self._answer("application/json", json.dumps(page).encode())

    def _stream(self) -> bytes:
        if self.headers.get("Last-Event-ID") == "3":
            return b""  # all was told
        told = [
            (1, "node", _node("in_rank")),
            (2, "node", _node("suspect")),
            (3, "incident", _incident("detected")),
        ]
        lines = [f"id: {n}\nevent: {kind}\ndata: {json.dumps(data)}\n\n" for n, kind, data in told]
        return b": a comment\n\n" + "".join(lines).encode()

    def _answer(self, kind: str, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def recorded() -> Generator[Api]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Recorded) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield Api(server.server_port)
        server.shutdown()
        thread.join()


def test_news_come_from_stream_and_poll_and_are_told_once(recorded: Api) -> None:
    watch = Watch(recorded, EventReader(recorded))
    told: list[News] = []

    def gather() -> list[News]:
        told.extend(watch.turn(0.05))
        return told

    def complete(news: list[News]) -> bool:
        changes = sum(isinstance(item, StateChange) for item in news)
        return changes >= 1 and sum(isinstance(item, TimelineEvent) for item in news) >= 2

    wait_until("everything was told", gather, complete, timeout_s=5)
    for _ in range(15):
        gather()
    watch.reader.close()
    events = [item.event for item in told if isinstance(item, TimelineEvent)]
    assert events == ["detected", "named"]
    assert [item.after for item in told if isinstance(item, StateChange)][-1] == "suspect"
    assert watch.reader.last_id == "3"
    assert unix("2026-01-01T00:00:01.000Z") - unix("2026-01-01T00:00:00.000Z") == 1
