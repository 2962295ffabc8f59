"""Metrics: everything that was promised, fit for promtool, true to the views."""

from __future__ import annotations

import logging
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from apifake import Client, FakeCore, break_ranks, fleet_config, three_nodes
from closeranks_coordinator.core.model import Observe
from closeranks_coordinator.web.metrics import DETECTED_BUCKETS, Metrics


@pytest.fixture
async def core(tmp_path: Path) -> AsyncIterator[FakeCore]:
    made = FakeCore(tmp_path, fleet_config())
    await three_nodes(made)
    yield made
    await made.close()


async def samples(core: FakeCore) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = (await core.metrics.exposition(""))[0].decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_every_promised_metric_is_there(core: FakeCore) -> None:
    await break_ranks(core)
    core.metrics.observe(
        Observe("closeranks_resync_bytes_total", 7, (("node", "node-02"), ("volume", "photos")))
    )
    core.metrics.loop_lag(0.002)
    names = {name for name, _ in (await samples(core))}
    assert {
        "closeranks_node_state", "closeranks_node_differing_paths", "closeranks_node_lag_seconds",
        "closeranks_divergence_detected_seconds_bucket", "closeranks_resync_bytes_total",
        "closeranks_resync_remaining_bytes", "closeranks_commits_total", "closeranks_incidents_total",
        "closeranks_guard_holds_total",
        "closeranks_store_objects", "closeranks_store_object_bytes", "closeranks_store_database_bytes",
        "closeranks_sessions", "closeranks_event_loop_lag_seconds", "closeranks_build_info",
    } <= names  # fmt: skip
    assert all(name.startswith("closeranks_") for name in names)


async def test_a_node_s_state_is_one_hot(core: FakeCore) -> None:
    await break_ranks(core)
    found = await samples(core)
    for node in core.fleet.node_names():
        view = core.fleet.node_view(core.now(), node)
        assert view is not None
        hot = [
            dict(labels)["state"]
            for (name, labels), value in found.items()
            if name == "closeranks_node_state" and dict(labels)["node"] == node and value == 1
        ]
        assert hot == [view.state]
    assert found["closeranks_node_differing_paths", (("node", "node-02"), ("volume", "photos"))] == 2
    assert found["closeranks_incidents_total", (("kind", "divergence"),)] == 1
    assert found["closeranks_fleet_in_rank", ()] == 0
    assert found["closeranks_sessions", ()] == 3


async def test_what_is_not_known_has_no_sample(tmp_path: Path) -> None:
    core = FakeCore(tmp_path, fleet_config())
    names = {name for name, _ in (await samples(core))}
    assert "closeranks_node_files" not in names
    assert "closeranks_node_scan_age_seconds" not in names
    assert "closeranks_node_state" in names
    await core.close()


def test_the_histogram_of_detection_reaches_from_a_blink_to_ten_minutes() -> None:
    assert (DETECTED_BUCKETS[0], DETECTED_BUCKETS[-1]) == (0.05, 600.0)


def test_an_observation_of_no_metric_is_logged_once_and_dropped(caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics()
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            metrics.observe(Observe("closeranks_nothing_total", 1))
            metrics.observe(Observe("closeranks_incidents_total", 1, (("path", "a/b"),)))
    assert len(caplog.records) == 2


async def test_labels_are_never_paths_and_every_route_is_counted_by_its_pattern(core: FakeCore) -> None:
    async with Client(core) as client:
        for path in ("/api/v1/nodes/node-01", "/api/v1/nodes/nobody", "/nowhere/at/all", "/lb/node-01"):
            await client.ask("GET", path)
        status, body, answer = await client.ask("GET", "/metrics")
    assert status == 200
    assert answer.headers["Content-Type"].startswith("text/plain")
    routes = {
        (dict(labels)["route"], dict(labels)["code"])
        for (name, labels) in (await samples(core))
        if name == "closeranks_api_requests_total"
    }
    assert routes >= {
        ("/api/v1/nodes/{node}", "200"),
        ("/api/v1/nodes/{node}", "404"),
        ("none", "404"),
        ("/lb/{node}", "200"),
    }
    assert b"nowhere" not in body


async def test_openmetrics_is_given_to_those_who_ask_for_it(core: FakeCore) -> None:
    body, content_type = await core.metrics.exposition("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool (Debian's prometheus)")
async def test_promtool_has_nothing_to_say(core: FakeCore) -> None:
    await break_ranks(core)
    async with Client(core) as client:
        await client.ask("GET", "/api/v1/fleet")
    core.metrics.observe(
        Observe("closeranks_resync_bytes_total", 7, (("node", "node-02"), ("volume", "photos")))
    )
    core.metrics.loop_lag(0.01)
    text, _ = await core.metrics.exposition("")
    checked = _promtool(text)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


def _promtool(text: bytes) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False)
