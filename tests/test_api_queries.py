"""The query methods as a client sees them: pages, filters, streams, aggregates, newest readings."""

from __future__ import annotations

import base64
from typing import Any

import grpc
import pytest
import trio

from scada_trio.api import questions
from scada_trio.api._generated import scada_pb2
from scada_trio.queries import Aggregate, Resolution
from tests.fake_backend import ABSENT, TENANT, WELL, FakeBackend
from tests.fix_api import Call, ServedApi, eventually, grpcio_call, grpcio_stream

FIRST_S = 1_700_000_000
FIRST_US = FIRST_S * 1_000_000
LAST_US = 253_402_300_799_999_999
NODE = "ns=2;s=Pressure"


def query(**changes: Any) -> dict[str, Any]:
    fields = {"tenant_id": str(TENANT), "well_id": str(WELL), "start_time": 0, "end_time": 253_402_300_799}
    return fields | changes


def span(**changes: Any) -> dict[str, Any]:
    fields = {"tenant_id": str(TENANT), "well_id": str(WELL), "start_time_us": 0, "end_time_us": LAST_US}
    return fields | changes


def mixed(backend: FakeBackend) -> None:
    """Two tags and three qualities, some at the same time, milliseconds apart."""
    labels = ("Good", "Uncertain", "Bad")
    backend.readings[TENANT, WELL] = [
        (FIRST_US + (index // 2) * 1_500, (NODE, "ns=2;s=Flöw")[index % 2], index / 3, labels[index % 3])
        for index in range(100)
    ]


# --- QueryReadings


async def test_a_reading_has_its_time_to_the_microsecond(call: Call, backend: FakeBackend) -> None:
    mixed(backend)
    answer = await call("QueryReadings", **query())
    expected = sorted(backend.readings[TENANT, WELL], key=lambda row: (-row[0], row[1]))
    assert [(r.timestamp_us, r.tag_node_id, r.value, r.quality) for r in answer.readings] == expected
    assert {r.timestamp_us // 1_000_000 - r.timestamp for r in answer.readings} == {0}
    assert answer.next_page_token == ""


@pytest.mark.parametrize("order", [scada_pb2.ORDER_NEWEST_FIRST, scada_pb2.ORDER_OLDEST_FIRST])
async def test_pages_follow_one_another(call: Call, backend: FakeBackend, order: int) -> None:
    """A page that is cut says so; the last one does not; the size of a page may change on the way."""
    mixed(backend)
    found, token, sizes = [], "", iter([7, 30, 1, 62, 10])
    while True:
        limit = next(sizes)
        answer = await call("QueryReadings", **query(limit=limit, page_token=token, order=order))
        found += [(r.timestamp_us, r.tag_node_id) for r in answer.readings]
        token = answer.next_page_token
        if not token:
            break
        assert len(answer.readings) == limit
    sign = 1 if order == scada_pb2.ORDER_OLDEST_FIRST else -1
    expected = sorted(backend.readings[TENANT, WELL], key=lambda row: (sign * row[0], row[1]))
    assert found == [row[:2] for row in expected]


async def test_without_a_limit_a_cut_answer_says_so(call: Call, backend: FakeBackend) -> None:
    backend.fill(10_001)
    answer = await call("QueryReadings", **query())
    assert (len(answer.readings), bool(answer.next_page_token)) == (10_000, True)
    backend.fill(10_000)
    answer = await call("QueryReadings", **query())
    assert (len(answer.readings), bool(answer.next_page_token)) == (10_000, False)


async def test_more_than_the_largest_page_is_the_largest_page(
    call: Call, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(questions, "MAX_LIMIT", 60)
    mixed(backend)
    answer = await call("QueryReadings", **query(limit=2_000_000_000))
    assert (len(answer.readings), bool(answer.next_page_token)) == (60, True)


async def test_tags_and_microseconds_narrow_the_answer(call: Call, backend: FakeBackend) -> None:
    mixed(backend)
    answer = await call(
        "QueryReadings",
        **query(tag_node_ids=[NODE], start_time_us=FIRST_US + 1_500, end_time_us=FIRST_US + 4_499, end_time=1),
    )
    assert [r.timestamp_us - FIRST_US for r in answer.readings] == [3_000, 1_500]
    assert not (await call("QueryReadings", **query(tag_node_ids=["ns=2;s=Other"]))).readings


def forged(token: str) -> list[str]:
    data = bytearray(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    flipped = [bytes(data[:i]) + bytes([data[i] ^ 1]) + bytes(data[i + 1 :]) for i in range(len(data))]
    changed: tuple[bytes, ...] = (*flipped, bytes(data[:-1]), bytes(data) + b"x")
    texts = [base64.urlsafe_b64encode(text).decode().rstrip("=") for text in changed]
    return [*texts, "x", "%%%", "Ä", "AAAA", token + "\n"]


async def test_a_forged_token_is_refused(api: ServedApi, backend: FakeBackend) -> None:
    """Whatever byte of it is changed; nothing is read for it."""
    mixed(backend)

    def blocking() -> None:
        with grpc.insecure_channel(api.address) as channel:
            token = grpcio_call(channel, "QueryReadings", **query(limit=10)).next_page_token
            pages = backend.pages
            for text in forged(token):
                with pytest.raises(grpc.RpcError) as raised:
                    grpcio_call(channel, "QueryReadings", **query(limit=10, page_token=text))
                assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
                assert raised.value.details().startswith("page_token: ")
            assert backend.pages == pages

    await trio.to_thread.run_sync(blocking)


@pytest.mark.parametrize(
    "change",
    [
        {"tenant_id": str(ABSENT)},
        {"well_id": str(ABSENT)},
        {"start_time": 1},
        {"start_time_us": 0},
        {"end_time": 1_800_000_000},
        {"order": scada_pb2.ORDER_OLDEST_FIRST},
        {"tag_node_ids": [NODE]},
    ],
)
async def test_a_token_is_good_for_its_own_request_only(
    call: Call, backend: FakeBackend, change: dict[str, Any]
) -> None:
    """That of another tenant's or well's answer most of all."""
    mixed(backend)
    token = (await call("QueryReadings", **query(limit=10))).next_page_token
    with pytest.raises(grpc.RpcError) as raised:
        await call("QueryReadings", **query(limit=10, page_token=token, **change))
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_an_old_client_reads_what_it_read(api: ServedApi, backend: FakeBackend) -> None:
    """One that sends the four first fields only: the newest 10,000, newest first, as ever."""
    mixed(backend)

    def blocking() -> bytes:
        with grpc.insecure_channel(api.address) as channel:
            call = channel.unary_unary("/scada.ScadaService/QueryReadings")
            request = (
                b"\x0a\x24" + str(TENANT).encode() + b"\x12\x24" + str(WELL).encode() + b"\x20\xff\xff\xff\xff\x0f"
            )
            answer: bytes = call(request, timeout=30, wait_for_ready=True)
            return answer

    answer = scada_pb2.QueryReadingsResponse.FromString(await trio.to_thread.run_sync(blocking))
    times = [reading.timestamp_us for reading in answer.readings]
    assert len(times) == 100
    assert times == sorted(times, reverse=True)


# --- StreamReadings


async def test_a_stream_has_everything_in_order(api: ServedApi, backend: FakeBackend) -> None:
    """In messages of 2,000 at most."""
    backend.fill(20_500)

    def blocking() -> list[Any]:
        with grpc.insecure_channel(api.address) as channel:
            return list(grpcio_stream(channel, **span(order=scada_pb2.ORDER_OLDEST_FIRST)))

    messages = await trio.to_thread.run_sync(blocking)
    assert max(len(message.readings) for message in messages) == 2_000
    times = [reading.timestamp for message in messages for reading in message.readings]
    assert times == list(range(FIRST_S, FIRST_S + 20_500))


async def test_an_empty_stream_ends_well(api: ServedApi) -> None:
    def blocking() -> list[Any]:
        with grpc.insecure_channel(api.address) as channel:
            return list(grpcio_stream(channel, **span()))

    assert await trio.to_thread.run_sync(blocking) == []


async def test_a_client_that_does_not_read_holds_the_stream_up(api: ServedApi, backend: FakeBackend) -> None:
    """Pages are asked for as they are taken, not before; cancelled, no more are."""
    backend.fill(200_000)
    channel = grpc.insecure_channel(api.address)
    call = grpcio_stream(channel, **span())
    await trio.to_thread.run_sync(next, call)
    before = -1
    while before != backend.pages:  # until it stands still
        before = backend.pages
        await trio.sleep(0.5)
    assert backend.pages < 20  # of 25
    call.cancel()
    await trio.to_thread.run_sync(channel.close)
    assert backend.pages <= before + 1


async def test_a_tenant_that_goes_ends_its_streams(api: ServedApi, backend: FakeBackend) -> None:
    backend.hold = trio.Event()
    backend.fill(100)
    failed: list[grpc.RpcError] = []

    def blocking() -> None:
        with grpc.insecure_channel(api.address) as channel:
            try:
                list(grpcio_stream(channel, **span(tenant_id=str(ABSENT))))
            except grpc.RpcError as error:
                failed.append(error)

    await trio.to_thread.run_sync(blocking)
    assert failed[0].code() is grpc.StatusCode.NOT_FOUND


# --- QueryAggregates and LatestReadings


def aggregate(bucket: int, **changes: Any) -> Aggregate:
    fields: dict[str, Any] = {
        "bucket_us": FIRST_US + bucket * 3_600_000_000,
        "node_id": NODE,
        "avg": 2.0,
        "min": 1.0,
        "max": 3.0,
        "stddev": 0.5,
        "count": 60,
        "uncertain_count": 1,
        "bad_count": 2,
        "total_count": 64,
    }
    return Aggregate(**(fields | changes))


async def test_an_aggregate_has_what_there_is(call: Call, backend: FakeBackend) -> None:
    backend.aggregates = [aggregate(0), aggregate(1, avg=None, min=None, max=None, stddev=None, count=0)]
    answer = await call("QueryAggregates", **span(resolution=scada_pb2.RESOLUTION_HOURLY))
    full, empty = answer.aggregates
    assert (full.tag_node_id, full.bucket_start_us) == (NODE, FIRST_US)
    assert (full.avg, full.min, full.max, full.stddev) == (2.0, 1.0, 3.0, 0.5)
    assert (full.count, full.uncertain_count, full.bad_count, full.total_count) == (60, 1, 2, 64)
    assert not any(empty.HasField(name) for name in ("avg", "min", "max", "stddev"))
    assert answer.resolution == scada_pb2.RESOLUTION_HOURLY
    assert answer.next_page_token == ""


async def test_aggregates_come_in_pages(call: Call, backend: FakeBackend) -> None:
    backend.aggregates = [aggregate(n) for n in range(10)]
    found, token = [], ""
    for _ in range(4):
        answer = await call("QueryAggregates", **span(limit=3, page_token=token))
        found += [a.bucket_start_us for a in answer.aggregates]
        token = answer.next_page_token
    assert found == [a.bucket_us for a in backend.aggregates]
    assert token == ""


@pytest.mark.parametrize(
    ("hours", "points", "expected"),
    [
        (1, 0, Resolution.HOURLY),
        (499, 0, Resolution.HOURLY),
        (500, 0, Resolution.DAILY),
        (24 * 499, 0, Resolution.DAILY),
        (24 * 500, 0, Resolution.MONTHLY),
        (24 * 500, 10_000, Resolution.DAILY),
        (48, 10, Resolution.DAILY),
        (24 * 365 * 80, 1, Resolution.MONTHLY),
    ],
)
async def test_auto_is_the_finest_within_the_budget(
    call: Call, backend: FakeBackend, hours: int, points: int, expected: Resolution
) -> None:
    fields = span(start_time_us=FIRST_US, end_time_us=FIRST_US + hours * 3_600_000_000, max_points=points)
    answer = await call("QueryAggregates", **fields)
    assert backend.aggregates_query is not None
    assert backend.aggregates_query.resolution is expected
    assert scada_pb2.Resolution.Name(answer.resolution) == f"RESOLUTION_{expected.name}"


async def test_the_newest_reading_of_each_tag(call: Call, backend: FakeBackend) -> None:
    mixed(backend)
    answer = await call("LatestReadings", tenant_id=str(TENANT), well_ids=[str(ABSENT), str(WELL), str(WELL)])
    assert [(r.well_id, r.tag_node_id, r.timestamp_us) for r in answer.readings] == [
        (str(WELL), "ns=2;s=Flöw", FIRST_US + 49 * 1_500),
        (str(WELL), NODE, FIRST_US + 49 * 1_500),
    ]
    answer = await call("LatestReadings", tenant_id=str(TENANT), well_ids=[str(WELL)], tag_node_ids=[NODE])
    assert [r.tag_node_id for r in answer.readings] == [NODE]


# --- what is refused


@pytest.mark.parametrize(
    ("method", "fields", "field"),
    [
        ("QueryReadings", query(limit=-1), "limit"),
        ("QueryReadings", query(order=7), "order"),
        ("QueryReadings", query(start_time_us=-1), "start_time_us"),
        ("QueryReadings", query(end_time_us=LAST_US + 1), "end_time_us"),
        ("QueryReadings", query(start_time=5, end_time_us=4_999_999), "end_time_us"),
        ("QueryReadings", query(tag_node_ids=["i=1", ""]), "tag_node_ids[1]"),
        ("QueryReadings", query(tag_node_ids=["x" * 2_049]), "tag_node_ids[0]"),
        ("QueryReadings", query(tag_node_ids=["a\0"]), "tag_node_ids[0]"),
        ("QueryReadings", query(tag_node_ids=["i=1"] * 1_001), "tag_node_ids"),
        ("QueryAggregates", span(resolution=9), "resolution"),
        ("QueryAggregates", span(max_points=-1), "max_points"),
        ("QueryAggregates", span(limit=-1), "limit"),
        ("QueryAggregates", span(start_time_us=2, end_time_us=1), "end_time_us"),
        ("QueryAggregates", span(page_token="x"), "page_token"),
        ("QueryAggregates", span(well_id="7"), "well_id"),
        ("LatestReadings", {"tenant_id": str(TENANT)}, "well_ids"),
        ("LatestReadings", {"tenant_id": str(TENANT), "well_ids": ["7"]}, "well_ids[0]"),
        ("LatestReadings", {"tenant_id": str(TENANT), "well_ids": [str(WELL)] * 101}, "well_ids"),
        ("ListConnections", {"tenant_id": "7"}, "tenant_id"),
        ("RestartConnection", {"connection_id": "7", "tenant_id": str(TENANT)}, "connection_id"),
        ("RestartConnection", {"connection_id": str(ABSENT)}, "tenant_id"),
    ],
)
async def test_a_malformed_field_is_named(call: Call, method: str, fields: dict[str, Any], field: str) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        await call(method, **fields)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert raised.value.details().startswith(f"{field}: ")


async def test_a_cancelled_call_cancels_the_reading(api: ServedApi, backend: FakeBackend) -> None:
    backend.hold = trio.Event()
    backend.fill(10)
    with grpc.insecure_channel(api.address) as channel:
        call = grpcio_stream(channel, **span())
        await eventually(backend.entered.is_set)
        call.cancel()
        await eventually(backend.cancelled.is_set)
