"""What is served keeps to its own OpenAPI document, whatever is asked: every check of schemathesis, on a live fleet."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import APIOperation, GenerationMode
from schemathesis.core.failures import Failure, FailureGroup
from schemathesis.core.result import Ok

from fleet import Fleet, finish

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(170)]
REQUESTS_MIN = 150
EXAMPLES = 4  # of each operation and phase


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Generator[Fleet]:
    """Three nodes in rank, a closed incident with trash, a baseline."""
    fleet = Fleet(tmp_path_factory.mktemp("served"), nodes=3)
    try:
        fleet.start()
        fleet.wait_in_rank()
        (fleet[1].path() / "large.bin").write_bytes(b"damage")
        fleet.wait_incident(node="node-02", state="closed")
        fleet.api.post("/api/v1/baselines", {"name": "known-good", "volume": "photos"})
        yield fleet
        finish(fleet, failed=False)
    finally:
        fleet.kill()


@pytest.mark.repeats(REQUESTS_MIN)
def test_every_operation_keeps_to_its_document(served: Fleet) -> None:
    """Valid and invalid requests of each operation. The endless stream of events has tests of its own."""
    schema = schemathesis.openapi.from_url(f"{served.api.url}/api/v1/openapi.json")
    wrong: dict[str, str] = {}
    asked = 0
    for found in schema.exclude(operation_id="follow_events").get_all_operations():
        assert isinstance(found, Ok), found
        operation = found.ok()
        for mode in GenerationMode:
            try:
                asked += _ask(operation, mode)
            except (FailureGroup, Failure) as failure:
                wrong[f"{operation.label} {mode.value}"] = str(failure)
    print(f"{asked} requests")
    assert asked >= REQUESTS_MIN
    assert not wrong, "\n\n".join(f"{name}: {text}" for name, text in wrong.items())


def _ask(operation: APIOperation[Any, Any, Any, Any], mode: GenerationMode) -> int:
    """Requests of one kind; how many. Raises what schemathesis found."""
    asked = 0

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy(generation_mode=mode))
    def ask(case: schemathesis.Case[Any]) -> None:
        nonlocal asked
        asked += 1
        if mode is GenerationMode.POSITIVE:
            case.query.pop("cursor", None)  # good is only one that an answer gave; no schema can say so
            if isinstance(case.body, dict) and any(isinstance(value, float) for value in case.body.values()):
                case.body = _whole(case.body)
        case.call_and_validate(timeout=20)

    try:
        ask()
    except Unsatisfiable:
        pass  # nothing invalid can be asked of an operation without parameters
    return asked


def _whole(body: dict[str, Any]) -> dict[str, Any]:
    """1.0 is an integer to JSON Schema, and a number with a point to who reads integers strictly, as we do."""
    return {
        name: int(value) if isinstance(value, float) and value.is_integer() else value
        for name, value in body.items()
    }
