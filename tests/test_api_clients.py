"""The contract as its users' own clients see it: @grpc/grpc-js and a NestJS microservice client, unchanged."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest

from scada_trio.desired import SecurityMode
from tests.fake_backend import ABSENT, CONNECTION, TENANT, WELL, FakeBackend
from tests.fix_api import ServedApi, connection_fields, run_node_client

FIRST_S = 1_700_000_000

CALLS: list[dict[str, Any]] = [
    {"method": "HealthCheck"},
    {"method": "AddConnection", "request": connection_fields(username="operator", password="s3cret")},
    {"method": "HealthCheck", "request": {}},
    {
        "method": "QueryReadings",
        "request": {
            "tenant_id": str(TENANT),
            "well_id": str(WELL),
            "start_time": str(FIRST_S),
            "end_time": str(FIRST_S + 1),
        },
    },
    {"method": "GetAggregatorStats", "request": {"tenant_id": str(TENANT)}},
    {"method": "AddConnection", "request": connection_fields(tenant_id=str(ABSENT))},
    {"method": "RemoveConnection", "request": {"connection_id": str(CONNECTION)}},
    {"method": "RemoveConnection", "request": {"connection_id": str(ABSENT)}},
    {"method": "GetAggregatorStats", "request": {"tenant_id": str(ABSENT)}},
    {"method": "GetAggregatorStats", "request": {"tenant_id": "tenant-1"}},
]

ANSWERS: list[dict[str, Any]] = [
    {"response": {"status": "healthy", "active_connections": 0, "active_tenants": 1}},
    {"response": {"success": True}},
    {"response": {"status": "healthy", "active_connections": 1, "active_tenants": 1}},
    {
        "response": {
            "readings": [
                {
                    "well_id": str(WELL),
                    "tag_node_id": "ns=2;s=Flow",
                    "timestamp": str(FIRST_S + 1),
                    "value": "NaN",
                    "quality": "Bad",
                    "timestamp_us": f"{FIRST_S + 1}000000",
                },
                {
                    "well_id": str(WELL),
                    "tag_node_id": "ns=2;s=Pressure",
                    "timestamp": str(FIRST_S),
                    "value": 0,
                    "quality": "Good",
                    "timestamp_us": f"{FIRST_S}000000",
                },
            ],
            "next_page_token": "",
        }
    },
    {"response": {"tenant_id": str(TENANT), "buffer_size": 42, "time_since_last_flush_ms": "1234"}},
    {"response": {"success": False, "error": f"no tenant {ABSENT}"}},
    {"response": {"success": True}},
    {"response": {"success": False}},
    {"error": {"code": 5, "name": "NOT_FOUND", "details": f"no tenant {ABSENT}"}},
    {"error": {"code": 3, "name": "INVALID_ARGUMENT", "details": "tenant_id: 'tenant-1' is not a UUID"}},
]


@pytest.fixture
def filled(backend: FakeBackend) -> FakeBackend:
    backend.readings[TENANT, WELL] = [
        (FIRST_S * 1_000_000, "ns=2;s=Pressure", 0.0, "Good"),
        (FIRST_S * 1_000_000 + 1_000_000, "ns=2;s=Flow", math.nan, "Bad"),
    ]
    return backend


async def test_a_node_client_calls_every_method(api: ServedApi, filled: FakeBackend) -> None:
    assert presence_aside(await run_node_client("grpc_client.mjs", api.address, CALLS)) == ANSWERS
    check_stored(filled)


async def test_a_nestjs_client_calls_every_method(api: ServedApi, filled: FakeBackend) -> None:
    answers = await run_node_client("nest_client.mjs", api.address, camel_case(CALLS))
    assert presence_aside(answers) == camel_case(ANSWERS, values=False)
    check_stored(filled)


def check_stored(backend: FakeBackend) -> None:
    spec = backend.connections[CONNECTION]
    assert (spec.security_mode, spec.username, len(spec.tags)) == (SecurityMode.NONE, "operator", 1)
    assert spec.password is not None
    assert spec.password.get_secret_value() == "s3cret"


def presence_aside(answers: list[Any]) -> list[Any]:
    """Answers without the ``_error: "error"`` by which proto-loader tells that an optional field is there."""
    for answer in answers:
        answer.get("response", {}).pop("_error", None)
    return answers


def camel_case(value: Any, *, values: bool = True) -> Any:
    """The same with names as NestJS spells them; ``values``: also the method names, which are values."""
    if isinstance(value, list):
        return [camel_case(item, values=values) for item in value]
    if isinstance(value, dict):
        return {_camel(name): camel_case(item, values=values) for name, item in value.items()} | (
            {"method": value["method"][0].lower() + value["method"][1:]} if values and "method" in value else {}
        )
    return value


def _camel(name: str) -> str:
    return re.sub(r"_(\w)", lambda match: match[1].upper(), name)
