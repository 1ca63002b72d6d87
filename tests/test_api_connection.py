"""GetConnection: what one connection is doing, over the official client."""

from __future__ import annotations

import grpc
import pytest

from scada_trio.losses import Loss, LossReason
from scada_trio.sampling import Sampling
from scada_trio.status import ConnectionState, RefusedTag, RevisedItem, Revisions, SubscriptionTerms
from tests.fake_backend import CONNECTION, TENANT, FakeBackend
from tests.fix_api import Call, connection_fields


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


async def test_parameters_come_and_go(backend: FakeBackend, call: Call) -> None:
    """What is said is taken, zero included; what is not said is nothing; a mistake names its field."""
    fields = connection_fields()
    tag = {**fields["tags"][0], "sampling_interval_ms": 0.0, "deadband_percent": 2.5, "scaling_factor": 1.0}
    given = {**fields, "tags": [tag], "publishing_interval_ms": 250.0, "queue_size": 7, "name": "rtu"}
    await call("AddConnection", **given)
    spec = backend.connections[CONNECTION]
    assert (spec.name, spec.publishing_interval_ms, spec.sampling) == ("rtu", 250.0, Sampling(queue_size=7))
    (stored,) = spec.tags
    assert (stored.sampling, stored.deadband_percent, stored.deadband) == (Sampling(0.0), 2.5, None)
    assert stored.scaling_factor == 1.0
    for bad, named in (({"queue_size": 0}, "tags[0].queue_size"), ({"deadband": 1.0}, "tags[0].deadband_percent")):
        with pytest.raises(grpc.RpcError) as caught:
            await call("AddConnection", **{**fields, "tags": [{**tag, **bad}]})
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert caught.value.details().startswith(named)


async def test_revisions_are_shown(backend: FakeBackend, call: Call) -> None:
    """Requested and revised, and nothing where there is no subscription."""
    await call("AddConnection", **connection_fields())
    assert not (await call("GetConnection", connection_id=str(CONNECTION))).HasField("subscription")
    terms = SubscriptionTerms(250.0, 20, 2400, 500.0, 10, 1200)
    backend.link.revisions = Revisions(terms, 3, (RevisedItem("ns=2;s=P", 100.0, 250.0, 1000, 100),), 2)
    answer = await call("GetConnection", connection_id=str(CONNECTION))
    shown = answer.subscription
    assert (shown.requested_publishing_interval_ms, shown.revised_publishing_interval_ms) == (250.0, 500.0)
    assert (shown.requested_keep_alive_count, shown.revised_keep_alive_count) == (20, 10)
    assert (shown.requested_lifetime_count, shown.revised_lifetime_count) == (2400, 1200)
    assert (answer.items_revised, answer.items_unfiltered) == (3, 2)
    (item,) = answer.revised_items
    assert (item.requested_sampling_interval_ms, item.revised_sampling_interval_ms) == (100.0, 250.0)
    assert (item.node_id, item.requested_queue_size, item.revised_queue_size) == ("ns=2;s=P", 1000, 100)


async def test_an_unknown_connection_is_not_found(call: Call) -> None:
    """And a malformed id names its field."""
    with pytest.raises(grpc.RpcError) as caught:
        await call("GetConnection", connection_id=str(CONNECTION))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    with pytest.raises(grpc.RpcError) as caught:
        await call("GetConnection", connection_id="rtu-1")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "connection_id" in caught.value.details()
