"""GetConnection: what one connection is doing, over the official client."""

from __future__ import annotations

import grpc
import pytest

from scada_trio.losses import Loss, LossReason
from scada_trio.status import ConnectionState, RefusedTag
from tests.fix_api import CONNECTION, TENANT, Call, FakeBackend, connection_fields


async def test_a_connection_is_shown_with_refusals_and_losses(backend: FakeBackend, call: Call) -> None:
    """Everything that its status has, and the ledger's rows; what nobody knows is absent, not zero."""
    await call("AddConnection", **connection_fields())
    link = backend.link
    link.enter(ConnectionState.CONNECTED)
    link.since, link.attempts_failed, link.tags_monitored, link.readings = 1_700_000_000.5, 2, 9, 77
    link.tags_refused = [RefusedTag("ns=2;s=Gone", "BadNodeIdUnknown")]
    link.unstorable["string"] = 3
    backend.losses = [
        Loss(LossReason.SEQUENCE_GAP, CONNECTION, 10, 20),
        Loss(LossReason.JOURNAL_FULL, None, 1, 2, 500, "oldest dropped"),
    ]
    answer = await call("GetConnection", connection_id=str(CONNECTION))
    assert (answer.connection_id, answer.tenant_id) == (str(CONNECTION), str(TENANT))
    assert (answer.endpoint_url, answer.state, answer.since) == (
        "opc.tcp://192.0.2.1:4840/wells",
        "connected",
        1_700_000_000,
    )
    assert (answer.attempts_failed, answer.tags_monitored, answer.readings) == (2, 9, 77)
    assert [(tag.node_id, tag.status) for tag in answer.tags_refused] == [("ns=2;s=Gone", "BadNodeIdUnknown")]
    assert dict(answer.unstorable) == {"string": 3}
    assert not answer.HasField("last_error")
    assert not answer.HasField("last_reading_time")
    gap, dropped = answer.losses
    assert (gap.reason, gap.from_time_us, gap.to_time_us, gap.HasField("count")) == ("sequence_gap", 10, 20, False)
    assert (dropped.reason, dropped.count, dropped.detail) == ("journal_full", 500, "oldest dropped")
    link.last_error, link.last_error_type, link.last_reading_at = "cut", "unreachable", 1_700_000_001.0
    answer = await call("GetConnection", connection_id=str(CONNECTION))
    assert (answer.last_error, answer.last_error_type, answer.last_reading_time) == (
        "cut",
        "unreachable",
        1_700_000_001,
    )


async def test_an_unknown_connection_is_not_found(call: Call) -> None:
    """And a malformed id names its field."""
    with pytest.raises(grpc.RpcError) as caught:
        await call("GetConnection", connection_id=str(CONNECTION))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    with pytest.raises(grpc.RpcError) as caught:
        await call("GetConnection", connection_id="rtu-1")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "connection_id" in caught.value.details()
