"""A coordinator's HTTP API for tests of the command line: canned answers on a real socket, requests noted."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import msgspec

from closeranks_coordinator.core import shapes as model

NOW = "Sat, 22 Nov 2025 16:00:00 GMT"
ROOT = "0123456789abcdef0123456789abcdef"
OTHER_ROOT = "fedcba9876543210fedcba9876543210"
Answer = tuple[int, bytes]


@dataclass
class Request:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


@dataclass
class Fake:
    """`routes` maps "METHOD /path" to an object (200), bytes, (status, object), or a function of the request."""

    routes: dict[str, Any] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    url: str = ""

    def answer(self, request: Request) -> Answer:
        found = self.routes.get(
            f"{request.method} {request.path}", (404, error("not_found", f"no {request.path}"))
        )
        if callable(found):
            found = found(request)
        status, body = found if isinstance(found, tuple) else (200, found)
        return status, body if isinstance(body, bytes) else msgspec.json.encode(body)


def error(code: str, message: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "detail": None}}


@contextmanager
def serving(fake: Fake) -> Iterator[Fake]:
    class Speaker(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            parts = urlsplit(self.path)
            length = int(self.headers.get("Content-Length") or 0)
            data = self.rfile.read(length)
            body = msgspec.json.decode(data) if data else None
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Request(self.command, parts.path, dict(parse_qsl(parts.query)), headers, body)
            fake.requests.append(request)
            status, answer = fake.answer(request)
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            try:
                self.wfile.write(answer)
            except OSError:
                self.close_connection = True  # the asker is gone, which some tests want

        do_GET = do_POST = do_DELETE = answer

        def date_time_string(self, timestamp: float | None = None) -> str:
            return NOW

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Speaker)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    fake.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def node_volume(name: str = "photos", **changes: Any) -> model.NodeVolumeView:
    values: dict[str, Any] = {
        "name": name, "root": ROOT, "differing_paths": 0, "unconfirmed_paths": 0, "differing_bytes": 0,
        "lagging_paths": 0, "lag_s": None, "files": 1200, "bytes": 3_500_000_000,
        "last_full_scan": "2025-11-22T15:59:30.000Z", "problem": None, "unreadable": 0, "unreadable_paths": (),
        "withheld": 0, "progress": None,
    }  # fmt: skip
    return model.NodeVolumeView(**(values | changes))


def node(
    name: str, state: str = "in_rank", volume: model.NodeVolumeView | None = None, **changes: Any
) -> model.NodeView:
    values: dict[str, Any] = {
        "node": name, "state": state, "since": "2025-11-22T15:56:00.000Z",
        "last_contact": "2025-11-22T15:59:58.000Z", "connected": True, "address": f"{name}:7342",
        "blocked_by": None, "volumes": (volume or node_volume(),), "disk": (), "quarantine": None,
    }  # fmt: skip
    return model.NodeView(**(values | changes))


def quarantine(**changes: Any) -> model.QuarantineView:
    values: dict[str, Any] = {
        "reason": "12 paths differ", "since": "2025-11-22T15:56:00.000Z", "fence_token": 3, "incident": "inc-1",
        "by_hand": False, "verified": False, "release": "automatic", "acknowledged": True,
    }  # fmt: skip
    return model.QuarantineView(**(values | changes))


def volume(
    name: str = "photos", nodes: tuple[str, ...] = ("n1", "n2", "n3"), **changes: Any
) -> model.VolumeView:
    values: dict[str, Any] = {
        "name": name, "policy": "quorum", "truth_root": ROOT, "in_rank_nodes": len(nodes), "undetermined": 0,
        "nodes": nodes, "quorum": len(nodes) // 2 + 1, "voters": len(nodes), "files": 1200, "bytes": 3_500_000_000,
        "baseline": None, "on_divergence": "resync",
    }  # fmt: skip
    return model.VolumeView(**(values | changes))


def fleet(
    nodes: list[model.NodeView], volumes: list[model.VolumeView] | None = None, **changes: Any
) -> model.FleetView:
    values: dict[str, Any] = {
        "in_rank": all(one.state == "in_rank" for one in nodes),
        "coverage": model.CoverageView(len(nodes), len(nodes)),
        "volumes": tuple(volumes or [volume(nodes=tuple(one.node for one in nodes))]),
        "nodes": tuple(nodes),
    }
    return model.FleetView(**(values | changes))


def incident(**changes: Any) -> model.IncidentView:
    values: dict[str, Any] = {
        "id": "inc-1", "kind": "divergence", "state": "open", "node": "n2", "volume": "photos",
        "opened_at": "2025-11-22T15:56:00.000Z", "closed_at": None,
        "summary": "n2 holds 12 paths that 2 of 3 nodes hold otherwise", "advice": "", "paths": (), "path_count": 12,
        "recurrences": 0, "writers": (), "timeline": (), "evidence": {}, "bytes_moved": 0, "files_trashed": 0,
    }  # fmt: skip
    return model.IncidentView(**(values | changes))


def action(**changes: Any) -> model.ActionView:
    values: dict[str, Any] = {
        "id": "act-1", "kind": "resync", "node": "n2", "volume": None, "state": "done", "error": None,
        "bytes_moved": 4096, "dry_run": False, "plan": None, "plan_steps": None, "plan_bytes": None,
    }  # fmt: skip
    return model.ActionView(**(values | changes))


def baseline(**changes: Any) -> model.BaselineView:
    values: dict[str, Any] = {
        "name": "spring", "volume": "photos", "root": ROOT, "created_at": "2025-11-22T15:00:00.000Z",
        "source": "truth", "files": 1200, "bytes": 3_500_000_000, "pinned": False,
    }  # fmt: skip
    return model.BaselineView(**(values | changes))


def page(items: list[Any], next_cursor: str | None = None) -> dict[str, Any]:
    return {"items": items, "next_cursor": next_cursor}


Respond = Callable[[Request], Any]
