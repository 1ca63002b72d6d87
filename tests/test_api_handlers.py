"""The five methods, as a client sees them."""

from __future__ import annotations

import math
from typing import Any

import grpc
import pytest
import trio

from scada_trio.desired import SecurityMode
from scada_trio.errors import (
    ConfigurationRefused,
    DatabaseMisconfigured,
    DatabaseUnavailable,
    UnknownTenant,
)
from tests.fake_backend import ABSENT, CONNECTION, TAG, TENANT, WELL, FakeBackend
from tests.fix_api import Call, LogLines, connection_fields

FIRST_S = 1_700_000_000


def query(**changes: Any) -> dict[str, Any]:
    fields = {"tenant_id": str(TENANT), "well_id": str(WELL), "start_time": 0, "end_time": 253_402_300_799}
    return fields | changes


async def test_readings_come_newest_first_with_both_ends_included(call: Call, backend: FakeBackend) -> None:
    backend.fill(10)
    answer = await call("QueryReadings", **query(start_time=FIRST_S + 3, end_time=FIRST_S + 5))
    assert [(reading.timestamp - FIRST_S, reading.value) for reading in answer.readings] == [
        (5, 5.0),
        (4, 4.0),
        (3, 3.0),
    ]
    assert {(reading.well_id, reading.tag_node_id, reading.quality) for reading in answer.readings} == {
        (str(WELL), "ns=2;s=Pressure", "Good")
    }


async def test_without_a_limit_the_newest_ten_thousand_come(call: Call, backend: FakeBackend) -> None:
    backend.fill(10_050)
    answer = await call("QueryReadings", **query())
    assert len(answer.readings) == 10_000
    assert answer.readings[0].timestamp == FIRST_S + 10_049
    assert answer.readings[-1].timestamp == FIRST_S + 50


async def test_a_bad_reading_without_value_is_nan(call: Call, backend: FakeBackend) -> None:
    backend.readings[TENANT, WELL] = [(FIRST_S * 1_000_000 + 999_999, "i=85", math.nan, "Bad")]
    (reading,) = (await call("QueryReadings", **query())).readings
    assert math.isnan(reading.value)
    assert (reading.quality, reading.timestamp) == ("Bad", FIRST_S)


async def test_an_unknown_well_has_no_readings(call: Call) -> None:
    assert not (await call("QueryReadings", **query(well_id=str(ABSENT)))).readings


@pytest.mark.parametrize(
    ("method", "fields", "field"),
    [
        ("QueryReadings", query(tenant_id=""), "tenant_id"),
        ("QueryReadings", query(well_id="well-7"), "well_id"),
        ("QueryReadings", query(start_time=-1), "start_time"),
        ("QueryReadings", query(end_time=253_402_300_800), "end_time"),
        ("QueryReadings", query(start_time=2, end_time=1), "end_time"),
        ("GetAggregatorStats", {"tenant_id": "1; drop table tenants"}, "tenant_id"),
        ("RemoveConnection", {"connection_id": "x" * 5000}, "connection_id"),
        ("AddConnection", connection_fields(connection_id="1"), "connection_id"),
        ("AddConnection", connection_fields(tenant_id="1"), "tenant_id"),
        ("AddConnection", connection_fields(endpoint_url="http://host:4840"), "endpoint_url"),
        ("AddConnection", connection_fields(security_mode="Encrypt"), "security_mode"),
        ("AddConnection", connection_fields(security_policy="Basic512"), "security_policy"),
        ("AddConnection", connection_fields(security_mode="Sign"), "security_policy"),
        ("AddConnection", connection_fields(username="a\0b"), "username"),
        ("AddConnection", connection_fields(tags=[]), "tags"),
    ],
)
async def test_a_malformed_field_is_named(call: Call, method: str, fields: dict[str, Any], field: str) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        await call(method, **fields)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert raised.value.details().startswith(f"{field}: ")
    assert len(raised.value.details()) < 300


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"tag_id": "7"}, "tags[1].tag_id"),
        ({"well_id": "7"}, "tags[1].well_id"),
        ({"node_id": "Pressure"}, "tags[1].node_id"),
        ({"data_type": "D" * 65}, "tags[1].data_type"),
        ({"tag_id": str(TAG)}, "tags[1].tag_id"),
        ({"node_id": "ns=2;s=Pressure"}, "tags[1].node_id"),
    ],
)
async def test_a_malformed_tag_is_named_by_its_path(call: Call, change: dict[str, str], path: str) -> None:
    (first,) = connection_fields()["tags"]
    second = {"tag_id": str(ABSENT), "well_id": str(WELL), "node_id": "ns=2;i=7"} | change
    with pytest.raises(grpc.RpcError) as raised:
        await call("AddConnection", **connection_fields(tags=[first, second]))
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert raised.value.details().startswith(f"{path}: ")


async def test_a_connection_arrives_as_it_was_asked_for(call: Call, backend: FakeBackend) -> None:
    fields = connection_fields(
        connection_id=str(CONNECTION).upper(),
        security_mode="signandencrypt",
        security_policy="http://opcfoundation.org/UA/SecurityPolicy#Basic256Sha256",
        username="operator",
        password="s3cret",
    )
    answer = await call("AddConnection", **fields)
    assert answer.success
    assert not answer.HasField("error")
    spec = backend.connections[CONNECTION]
    assert (spec.security_mode, spec.security_policy) == (SecurityMode.SIGN_AND_ENCRYPT, "Basic256Sha256")
    assert spec.username == "operator"
    assert spec.password is not None
    assert spec.password.get_secret_value() == "s3cret"
    (tag,) = spec.tags
    assert (tag.tag_id, tag.well_id, tag.node_id, tag.scaling_factor, tag.deadband) == (
        TAG,
        WELL,
        "ns=2;s=Pressure",
        None,
        None,
    )


async def test_empty_security_and_login_mean_none(call: Call, backend: FakeBackend) -> None:
    await call("AddConnection", **connection_fields(security_mode="", security_policy="", username="", password=""))
    spec = backend.connections[CONNECTION]
    assert (spec.security_mode, spec.security_policy) == (SecurityMode.NONE, "None")
    assert (spec.username, spec.password) == (None, None)


@pytest.mark.parametrize(
    "fault",
    [
        UnknownTenant("no tenant of that id"),
        ConfigurationRefused("belongs to another tenant"),
        DatabaseUnavailable("the master database does not answer"),
    ],
)
async def test_what_cannot_be_carried_out_is_told_in_the_answer(
    call: Call, backend: FakeBackend, fault: Exception
) -> None:
    backend.fault = fault
    answer = await call("AddConnection", **connection_fields())
    assert not answer.success
    assert answer.error == str(fault)


async def test_removing_tells_whether_the_connection_was_known(call: Call) -> None:
    await call("AddConnection", **connection_fields())
    assert (await call("RemoveConnection", connection_id=str(CONNECTION))).success
    assert not (await call("RemoveConnection", connection_id=str(ABSENT))).success


async def test_stats_and_health(call: Call, backend: FakeBackend) -> None:
    stats = await call("GetAggregatorStats", tenant_id=str(TENANT))
    assert (stats.tenant_id, stats.buffer_size, stats.time_since_last_flush_ms) == (str(TENANT), 42, 1234)
    backend.status = "degraded"
    health = await call("HealthCheck")
    assert (health.status, health.active_connections, health.active_tenants) == ("degraded", 0, 1)


@pytest.mark.parametrize(
    ("fault", "code", "details"),
    [
        (UnknownTenant("no tenant"), grpc.StatusCode.NOT_FOUND, "no tenant"),
        (DatabaseUnavailable("away"), grpc.StatusCode.UNAVAILABLE, "away"),
        (DatabaseMisconfigured("not migrated"), grpc.StatusCode.FAILED_PRECONDITION, "not migrated"),
        (trio.TooSlowError(), grpc.StatusCode.DEADLINE_EXCEEDED, "the answer took too long"),
        (
            ExceptionGroup("outer", [ExceptionGroup("inner", [DatabaseUnavailable("away")])]),
            grpc.StatusCode.UNAVAILABLE,
            "away",
        ),
    ],
)
async def test_errors_become_statuses(
    call: Call, backend: FakeBackend, fault: Exception, code: grpc.StatusCode, details: str
) -> None:
    backend.fault = fault
    with pytest.raises(grpc.RpcError) as raised:
        await call("GetAggregatorStats", tenant_id=str(TENANT))
    assert (raised.value.code(), raised.value.details()) == (code, details)


@pytest.mark.parametrize(
    "fault", [KeyError("s3cret"), ExceptionGroup("both", [DatabaseUnavailable("away"), KeyError("s3cret")])]
)
async def test_a_bug_tells_the_client_nothing_and_the_log_everything(
    call: Call, backend: FakeBackend, fault: Exception, log_lines: LogLines
) -> None:
    backend.fault = fault
    with pytest.raises(grpc.RpcError) as raised:
        await call("GetAggregatorStats", tenant_id=str(TENANT))
    assert (raised.value.code(), raised.value.details()) == (grpc.StatusCode.INTERNAL, "internal error")
    (line,) = [line for line in log_lines() if line["level"] == "ERROR"]
    assert (line["message"], line["method"]) == ("call failed", "/scada.ScadaService/GetAggregatorStats")
    assert "KeyError" in line["exception"]


async def test_a_password_is_in_no_log_and_no_answer(call: Call, backend: FakeBackend, log_lines: LogLines) -> None:
    fields = connection_fields(username="operator", password="hunter2-s3cret")
    await call("AddConnection", **fields)
    backend.fault = RuntimeError("boom")
    with pytest.raises(grpc.RpcError) as raised:
        await call("AddConnection", **fields)
    assert raised.value.details() == "internal error"
    lines = log_lines()
    assert {"connection added", "call failed"} <= {line["message"] for line in lines}
    assert "hunter2" not in repr(lines)
    assert "hunter2" not in repr(backend.connections)


async def test_a_client_that_cancels_cancels_the_work(call: Call, backend: FakeBackend) -> None:
    backend.hold = trio.Event()
    with pytest.raises(grpc.RpcError) as raised:
        await call("GetAggregatorStats", tenant_id=str(TENANT), timeout_s=0.3)
    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    with trio.fail_after(30):
        await backend.cancelled.wait()
