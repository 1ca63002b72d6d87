"""What a program can read of an error, with the official client."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import grpc
import pytest
import trio
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from scada_trio.errors import (
    ConfigurationRefused,
    DatabaseMisconfigured,
    DatabaseUnavailable,
    UnknownConnection,
    UnknownTenant,
)
from tests.fake_backend import ABSENT, CONNECTION, TENANT, WELL, FakeBackend
from tests.fix_api import Call, ServeApi, connection_fields

KINDS = {
    message.DESCRIPTOR.full_name: message
    for message in (
        error_details_pb2.BadRequest,
        error_details_pb2.ErrorInfo,
        error_details_pb2.ResourceInfo,
        error_details_pb2.RetryInfo,
    )
}
STATS = {"tenant_id": str(TENANT)}


@dataclasses.dataclass(frozen=True)
class Told:
    """One error as it reached the client."""

    code: grpc.StatusCode
    text: str
    details: dict[str, Any]

    @property
    def reason(self) -> str:
        info = self.details["ErrorInfo"]
        assert info.domain == "scada-trio"
        return str(info.reason)


def told(error: grpc.RpcError) -> Told:
    (packed,) = [value for key, value in error.trailing_metadata() if key == "grpc-status-details-bin"]
    status = status_pb2.Status.FromString(packed)
    assert (status.code, status.message) == (error.code().value[0], error.details())
    details: dict[str, Message] = {}
    for container in status.details:
        message = KINDS[container.TypeName()]()
        assert container.Unpack(message)
        details[container.TypeName().rpartition(".")[2]] = message
    return Told(error.code(), error.details(), details)


async def failure(call: Call, method: str, **fields: Any) -> Told:
    with pytest.raises(grpc.RpcError) as raised:
        await call(method, **fields)
    return told(raised.value)


async def test_a_malformed_field_is_told_by_its_path(call: Call) -> None:
    (tag,) = connection_fields()["tags"]
    error = await failure(call, "AddConnection", **connection_fields(tags=[tag | {"node_id": "Pressure"}]))
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    (violation,) = error.details["BadRequest"].field_violations
    assert violation.field == "tags[0].node_id"
    assert error.text == f"{violation.field}: {violation.description}"


@pytest.mark.parametrize(
    ("fault", "code", "reason"),
    [
        (ConfigurationRefused("no"), grpc.StatusCode.FAILED_PRECONDITION, "CONFIGURATION_REFUSED"),
        (DatabaseUnavailable("away"), grpc.StatusCode.UNAVAILABLE, "DATABASE_UNAVAILABLE"),
        (DatabaseMisconfigured("not migrated"), grpc.StatusCode.FAILED_PRECONDITION, "DATABASE_MISCONFIGURED"),
        (DatabaseUnavailable("canceled", "57014"), grpc.StatusCode.DEADLINE_EXCEEDED, "STATEMENT_TIMEOUT"),
        (trio.TooSlowError(), grpc.StatusCode.DEADLINE_EXCEEDED, "TOO_SLOW"),
        (KeyError("s3cret"), grpc.StatusCode.INTERNAL, "INTERNAL"),
    ],
)
async def test_each_error_has_a_reason(
    call: Call, backend: FakeBackend, fault: Exception, code: grpc.StatusCode, reason: str
) -> None:
    backend.fault = fault
    error = await failure(call, "GetAggregatorStats", **STATS)
    assert (error.code, error.reason) == (code, reason)
    assert ("RetryInfo" in error.details) == (code is grpc.StatusCode.UNAVAILABLE)
    assert "s3cret" not in repr(error)


async def test_a_query_stopped_in_time_says_what_to_ask_instead(call: Call, backend: FakeBackend) -> None:
    backend.fault = DatabaseUnavailable("canceling statement due to statement timeout", "57014")
    error = await failure(call, "QueryReadings", tenant_id=str(TENANT), well_id=str(WELL), end_time=1)
    assert re.search("DB_STATEMENT_TIMEOUT_MS.*shorter range", error.text)


@pytest.mark.parametrize(
    ("fault", "kind", "name"),
    [
        (UnknownTenant(f"tenant {ABSENT} does not exist"), "tenant", ABSENT),
        (UnknownConnection(f"connection {CONNECTION} is not active"), "connection", CONNECTION),
    ],
)
async def test_what_does_not_exist_is_named(
    call: Call, backend: FakeBackend, fault: Exception, kind: str, name: object
) -> None:
    backend.fault = fault
    error = await failure(call, "GetAggregatorStats", **STATS)
    assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, f"{kind.upper()}_NOT_FOUND")
    resource = error.details["ResourceInfo"]
    assert (resource.resource_type, resource.resource_name) == (kind, str(name))


async def test_what_no_method_has_seen_has_a_reason_too(serve_api: ServeApi) -> None:
    """Too long a message, one that is none, and a compression that is not spoken."""

    def blocking(address: str, body: bytes) -> Told:
        with grpc.insecure_channel(address) as channel:
            call = channel.unary_unary("/scada.ScadaService/GetAggregatorStats")
            with pytest.raises(grpc.RpcError) as raised:
                call(body, timeout=30, wait_for_ready=True)
            return told(raised.value)

    async with serve_api(max_message_bytes=1000) as served:
        error = await trio.to_thread.run_sync(blocking, served.address, b"x" * 1001)
        assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE")
        error = await trio.to_thread.run_sync(blocking, served.address, b"\xff")
        assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_REQUEST")


async def test_a_stop_says_that_it_is_one(serve_api: ServeApi, backend: FakeBackend, call: Call) -> None:
    """A call that is cut short may be sent again."""
    backend.hold = trio.Event()
    errors: list[Told] = []
    async with serve_api(drain_s=0.1) as served, trio.open_nursery() as nursery:

        def blocking() -> None:
            with grpc.insecure_channel(served.address) as channel:
                stub = channel.unary_unary("/scada.ScadaService/GetAggregatorStats")
                with pytest.raises(grpc.RpcError) as raised:
                    stub(b"\x0a\x24" + str(TENANT).encode(), timeout=30, wait_for_ready=True)
                errors.append(told(raised.value))

        nursery.start_soon(trio.to_thread.run_sync, blocking)
        await backend.entered.wait()
        served.stop.set()
        await served.done.wait()
    assert (errors[0].code, errors[0].reason) == (grpc.StatusCode.UNAVAILABLE, "SERVICE_STOPPING")
    assert errors[0].details["RetryInfo"].retry_delay.seconds == 1
