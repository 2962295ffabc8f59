"""The coordinator's HTTP API as a program outside meets it: plain requests, JSON, server-sent events."""

from __future__ import annotations

import http.client
import json
import queue
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlencode


class ApiError(Exception):
    """An answer with a status of 400 or more."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status = status
        self.code = code
        self.message = message


class Api:
    """One coordinator (or agent) on loopback. Each request is a connection of its own."""

    def __init__(self, port: int, host: str = "127.0.0.1", timeout_s: float = 10.0) -> None:
        self.host, self.port, self.timeout_s = host, port, timeout_s

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def request(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=self.timeout_s)
        try:
            data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
            sent = {"Content-Type": "application/json"} if data is not None else {}
            connection.request(method, path, body=data, headers={**sent, **(headers or {})})
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
        except http.client.HTTPException as error:
            raise ConnectionError(f"{method} {path}: {error!r}") from error
        finally:
            connection.close()

    def _json(self, method: str, path: str, body: object = None) -> Any:
        status, _, data = self.request(method, path, body)
        if status >= 400:
            try:
                error = json.loads(data)["error"]
                raise ApiError(status, error["code"], error["message"])
            except (ValueError, KeyError, TypeError) as fault:
                raise ApiError(
                    status, "not_the_promised_error", data[:500].decode(errors="replace")
                ) from fault
        return json.loads(data) if data else None

    def get(self, path: str, **query: object) -> Any:
        given = {k: v for k, v in query.items() if v is not None}
        return self._json("GET", path + ("?" + urlencode(given) if given else ""))

    def post(self, path: str, body: object = None) -> Any:
        return self._json("POST", path, {} if body is None else body)

    def text(self, path: str) -> str:
        status, _, data = self.request("GET", path)
        if status >= 400:
            raise ApiError(status, "text", data[:200].decode(errors="replace"))
        return data.decode()

    def status(self, path: str, method: str = "GET") -> int:
        return self.request(method, path)[0]

    # --- the coordinator's routes -------------------------------------------------------------

    def fleet(self) -> Any:
        return self.get("/api/v1/fleet")

    def nodes(self) -> dict[str, Any]:
        return {node["node"]: node for node in self.fleet()["nodes"]}

    def node(self, name: str) -> Any:
        return self.get(f"/api/v1/nodes/{quote(name)}")

    def items(self, path: str, key: str = "items", **query: object) -> list[Any]:
        """Every page of a list."""
        found: list[Any] = []
        cursor: str | None = None
        while True:
            page = self.get(path, cursor=cursor, **query)
            found += page[key]
            cursor = page["next_cursor"]
            if cursor is None:
                return found

    def diff(self, volume: str, node: str, against: str | None = None) -> list[Any]:
        return self.items(f"/api/v1/volumes/{quote(volume)}/diff", "entries", node=node, against=against)

    def incidents(self, **match: object) -> list[Any]:
        """The incidents whose fields have these values, oldest first."""
        found = [i for i in self.items("/api/v1/incidents") if all(i[k] == v for k, v in match.items())]
        return sorted(found, key=lambda incident: (incident["opened_at"], incident["id"]))

    def incident(self, identity: str) -> Any:
        return self.get(f"/api/v1/incidents/{quote(identity)}")

    def report(self, identity: str, form: str) -> str:
        return self.text(f"/api/v1/incidents/{quote(identity)}/report?format={form}")

    def action(self, identity: str) -> Any:
        return self.get(f"/api/v1/actions/{quote(identity)}")

    def quarantine(self, node: str, reason: str) -> Any:
        return self.post(f"/api/v1/nodes/{quote(node)}/quarantine", {"reason": reason})

    def release(self, node: str) -> Any:
        return self.post(f"/api/v1/nodes/{quote(node)}/release")

    def resync(self, node: str, volume: str | None = None, dry_run: bool = False) -> Any:
        body: dict[str, object] = {"dry_run": True} if dry_run else {}
        if volume is not None:
            body["volume"] = volume
        return self.post(f"/api/v1/nodes/{quote(node)}/resync", body)

    def held(self, **match: object) -> list[Any]:
        """The holds whose fields have these values."""
        return [hold for hold in self.items("/api/v1/held") if all(hold[k] == v for k, v in match.items())]

    def allow(self, hold: str, seconds: float | None = None) -> Any:
        body = {} if seconds is None else {"seconds": seconds}
        return self.post(f"/api/v1/held/{quote(hold)}/allow", body)

    def reject(self, hold: str) -> Any:
        return self.post(f"/api/v1/held/{quote(hold)}/reject")

    def conflicts(self, volume: str) -> list[Any]:
        return self.items(f"/api/v1/volumes/{quote(volume)}/conflicts")

    def lb(self, node: str) -> int:
        return self.status(f"/lb/{quote(node)}")


class EventReader:
    """Follows `/api/v1/events` on a thread, resuming by Last-Event-ID; `take` hands events out.

    The queue is bounded: a reader that is not emptied drops the oldest and says how many.
    """

    LIMIT = 10_000

    def __init__(self, api: Api) -> None:
        self._api = api
        self._events: queue.Queue[tuple[str, Any]] = queue.Queue()
        self._stop = threading.Event()
        self.last_id: str | None = None
        self.dropped = 0
        self._thread = threading.Thread(target=self._follow, name="events", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(timeout=3)

    def take(self, timeout_s: float) -> tuple[str, Any] | None:
        """The next event (its kind, its data), or None when none came in time."""
        try:
            return self._events.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def _follow(self) -> None:
        while not self._stop.is_set():
            try:
                self._read_once()
            except (OSError, http.client.HTTPException):
                self._stop.wait(0.3)  # the coordinator is away; it is asked again from the last id

    def _read_once(self) -> None:
        connection = http.client.HTTPConnection(self._api.host, self._api.port, timeout=1.0)
        try:
            headers = {"Accept": "text/event-stream"}
            if self.last_id is not None:
                headers["Last-Event-ID"] = self.last_id
            connection.request("GET", "/api/v1/events", headers=headers)
            answer = connection.getresponse()
            if answer.status != 200:
                raise ConnectionError(f"the event stream answered {answer.status}")
            # A time limit in the middle of a line would lose bytes of a buffered reader: read raw.
            for event, data in self._parse(self._chunks(answer)):
                if self._events.qsize() >= self.LIMIT:
                    self._events.get_nowait()
                    self.dropped += 1
                self._events.put((event, data))
        finally:
            connection.close()

    def _chunks(self, answer: http.client.HTTPResponse) -> Iterator[bytes]:
        while not self._stop.is_set():
            try:
                data = answer.read1(65536)
            except TimeoutError:
                raise ConnectionError("the event stream was silent") from None
            if not data:
                return
            yield data

    def _parse(self, chunks: Iterator[bytes]) -> Iterator[tuple[str, Any]]:
        buffer = b""
        event, data = "message", list[str]()
        for chunk in chunks:
            buffer += chunk
            while b"\n" in buffer:
                raw, buffer = buffer.split(b"\n", 1)
                line = raw.rstrip(b"\r").decode()
                if not line:
                    if data:
                        yield event, json.loads("\n".join(data))
                    event, data = "message", []
                elif line.startswith("id:"):
                    self.last_id = line[3:].strip()
                elif line.startswith("event:"):
                    event = line[6:].strip()
                elif line.startswith("data:"):
                    data.append(line[5:].strip())
