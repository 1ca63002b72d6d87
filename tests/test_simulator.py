"""The simulated field: its model alone, and its process as the demo uses it."""

from __future__ import annotations

import itertools
import math
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import opcua
import pytest
import trio

from scada_trio.errors import ConfigError
from scada_trio.simulator import process
from scada_trio.simulator.field import (
    BAD_SENSOR_FAILURE,
    GOOD,
    TAG_MODELS,
    UNCERTAIN_SENSOR_NOT_ACCURATE,
    FaultRates,
    Field,
    Well,
    tag_models,
)
from scada_trio.simulator.process import FieldOptions, open_field
from scada_trio.simulator.wells import SimulatedWell

DATA_TYPES = {"Boolean", "Int32", "Float", "Double"}
COMMAND = [sys.executable, "-m", "scada_trio.simulator"]
ALL = slice(None)


def test_a_seed_gives_the_same_wells_and_values() -> None:
    """A second run finds the field of the first, and more wells change nothing of who the others are."""
    one, same, larger = Field(2, seed=7), Field(2, seed=7), Field(5, seed=7)
    for _ in range(50):
        assert np.array_equal(one.advance(ALL).value, same.advance(ALL).value)
    for well, other in zip(one.wells, larger.wells, strict=False):
        assert (well.well_id, well.name, well.homes()) == (other.well_id, other.name, other.homes())
        assert [well.tag_id(tag) for tag in well.tags] == [other.tag_id(tag) for tag in other.tags]


def test_another_seed_gives_another_field() -> None:
    """Two demos side by side share no well, and no well is like another."""
    assert Well(1, seed=1).well_id != Well(1, seed=2).well_id
    assert Well(1, seed=1).homes() != Well(1, seed=2).homes()
    assert Well(1, seed=1).homes() != Well(2, seed=1).homes()


def test_a_well_has_ten_tags_of_four_types() -> None:
    """Names are unique, and every type that the types of a real field come down to is there."""
    assert len({tag.name for tag in TAG_MODELS}) == len(TAG_MODELS) == 10
    assert {tag.data_type for tag in TAG_MODELS} == DATA_TYPES
    assert all(tag.low <= tag.typical <= tag.high for tag in TAG_MODELS)


@pytest.mark.parametrize("count", [1, 9, 10, 11, 1000])
def test_any_number_of_tags_has_names_of_their_own(count: int) -> None:
    """A well with more tags than kinds has each kind several times."""
    tags = tag_models(count)
    assert len({tag.name for tag in tags}) == len(tags) == count
    assert [tag.unit for tag in tags[10:]] == [tag.unit for tag in tags[:-10]]


def test_values_stay_in_range_and_move() -> None:
    """An hour of every tag is within its range, is of its type and is no constant."""
    field = Field(1, seed=1)
    columns = np.array([field.advance(ALL).value[0] for _ in range(3600)]).T
    for tag, values in zip(TAG_MODELS, columns, strict=True):
        assert values.min() >= tag.low
        assert values.max() <= tag.high
        if tag.data_type == "Boolean":
            assert set(values.tolist()) <= {0.0, 1.0}
            continue
        assert len(set(values.tolist())) > 10
        assert np.ptp(values) < (tag.high - tag.low) / 2
        if tag.data_type == "Int32":
            assert np.array_equal(values, np.rint(values))
        if tag.data_type == "Float":
            assert np.array_equal(values, values.astype(np.float32))


def test_walks_are_held_at_their_bounds() -> None:
    """A walk that is pushed out of range stops at its end."""
    field = Field(2, seed=1)
    field._levels[0], field._levels[1] = 1e9, -1e9
    shown = field.advance(ALL).value
    for column, tag in enumerate(TAG_MODELS[:-1]):  # a Boolean shows no level
        assert shown[:, column].tolist() == [pytest.approx(tag.high), pytest.approx(tag.low)]


def test_statuses_come_at_their_rates() -> None:
    """Uncertain is as rare as stated, within five standard deviations, and so is Bad, which comes in episodes."""
    rates = FaultRates(uncertain=0.01, bad=0.01, episode_steps=5.0)
    field = Field(10, seed=1, rates=rates)
    statuses = np.array([field.advance(ALL).status for _ in range(5_000)])
    assert set(np.unique(statuses).tolist()) == {GOOD, BAD_SENSOR_FAILURE, UNCERTAIN_SENSOR_NOT_ACCURATE}
    uncertain, bad = statuses == UNCERTAIN_SENSOR_NOT_ACCURATE, statuses == BAD_SENSOR_FAILURE
    assert abs(uncertain.sum() - statuses.size * rates.uncertain) < 5 * math.sqrt(statuses.size * rates.uncertain) + (
        statuses.size * rates.uncertain * rates.bad
    )
    # the values of an episode are one event: their number varies by twice an episode's length as much
    assert abs(bad.sum() - statuses.size * rates.bad) < 5 * math.sqrt(statuses.size * rates.bad * 10)
    begins = (bad[1:] & ~bad[:-1]).sum()
    assert bad.sum() / begins == pytest.approx(rates.episode_steps, rel=0.2)


@contextmanager
def connected(well: SimulatedWell) -> Iterator[opcua.Client]:
    client = opcua.Client(well.endpoint_url, timeout=10)
    client.connect()
    try:
        yield client
    finally:
        client.disconnect()


def read_well(well: SimulatedWell) -> tuple[str, list[opcua.ua.DataValue]]:
    """The well's server name and the present value of each of its tags."""
    with connected(well) as client:
        name = client.get_endpoints()[0].Server.ApplicationName.Text
        return name, [client.get_node(tag.node_id).get_data_value() for tag in well.tags]


def subscribe_until(well: SimulatedWell, wanted: int) -> list[object]:
    """The first ``wanted`` values that a subscription to the well's first tag delivers."""
    import queue

    arrived: queue.Queue[object] = queue.Queue()

    class Handler:
        def datachange_notification(self, node: object, value: object, data: object) -> None:
            arrived.put(value)

    with connected(well) as client:
        subscription = client.create_subscription(20, Handler())
        subscription.subscribe_data_change(client.get_node(well.tags[0].node_id))
        return [arrived.get(timeout=30) for _ in range(wanted)]


async def test_wells_can_be_read_and_subscribed_to() -> None:
    """Each well has a server of its own, with its tags under the announced node ids, and its values move."""
    healthy = FaultRates(uncertain=0.0, bad=0.0)  # the stock client raises for a value that is not Good
    async with open_field(FieldOptions(2, seed=3, interval_ms=20, rates=healthy)) as running:
        field = running.wells
        assert [well.well_id for well in field] == [Well(number, seed=3).well_id for number in (1, 2)]
        assert len({well.endpoint_url for well in field}) == 2
        for well in field:
            name, values = await trio.to_thread.run_sync(read_well, well)
            assert well.name in name
            for tag, value in zip(well.tags, values, strict=True):
                assert value.Value.VariantType.name == tag.data_type
                assert value.SourceTimestamp is not None
        assert len(set(await trio.to_thread.run_sync(subscribe_until, field[0], 5))) > 1


def namespaces_and_children(well: SimulatedWell) -> tuple[list[str], set[str]]:
    with connected(well) as client:
        children = client.get_objects_node().get_children()
        return client.get_namespace_array(), {child.get_browse_name().Name for child in children}


async def test_a_well_shows_nothing_of_another() -> None:
    """The servers are one process and share nothing that is their own."""
    async with open_field(FieldOptions(2, seed=3)) as field:
        for well, other in (field.wells, field.wells[::-1]):
            namespaces, children = await trio.to_thread.run_sync(namespaces_and_children, well)
            assert f"urn:scada-trio:simulator:{well.well_id}" in namespaces
            assert f"urn:scada-trio:simulator:{other.well_id}" not in namespaces
            assert well.name in children
            assert other.name not in children


def test_a_line_is_read_back() -> None:
    """What the process announces is what the other side sees."""
    from scada_trio.readings import Tag

    model = Well(1, seed=1)
    tags = tuple(
        Tag(model.tag_id(tag), model.well_id, f"ns=2;s={tag.name}", tag.data_type, tag.name, tag.unit)
        for tag in TAG_MODELS
    )
    well = SimulatedWell(model.well_id, model.name, "opc.tcp://127.0.0.1:4840/", tags)
    assert SimulatedWell.from_line(well.to_line()) == well


async def test_what_the_block_raises_comes_out_as_it_is() -> None:
    """The task that watches the process does not wrap its caller's errors."""
    with pytest.raises(KeyError, match="mine"):
        async with open_field(FieldOptions(1)):
            raise KeyError("mine")


async def test_cancelling_the_block_ends_the_process() -> None:
    """A cancelled demo leaves no process and no open port."""
    with trio.CancelScope() as scope:
        async with open_field(FieldOptions(1)) as field:
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    host, port = field.wells[0].endpoint_url.removeprefix("opc.tcp://").rstrip("/").split(":")
    with pytest.raises(OSError, match=r"."):
        await trio.open_tcp_stream(host, int(port))


async def test_a_process_that_cannot_start_gives_its_last_line() -> None:
    """A port that is taken is told with the words of the operating system."""
    with trio.socket.socket() as taken:
        await taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match=r"status 1: cannot listen: .*address already in use"):
            async with open_field(FieldOptions(1, base_port=taken.getsockname()[1])):
                pass


async def test_a_process_that_dies_later_cancels_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for wells that are gone."""

    async def wait_in_block() -> None:
        async with open_field(FieldOptions(1)):
            started[0].kill()
            await trio.sleep_forever()

    started: list[trio.Process] = []
    init = process._Run.__init__

    def remember(self: process._Run, child: trio.Process) -> None:
        started.append(child)
        init(self, child)

    monkeypatch.setattr(process._Run, "__init__", remember)
    with pytest.raises(ConfigError, match=f"ended with status -{signal.SIGKILL.value}"):
        await wait_in_block()


def run_until_ready(*arguments: str) -> subprocess.Popen[str]:
    child = subprocess.Popen([*COMMAND, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    list(itertools.takewhile(lambda line: line != '{"ready": true}\n', child.stdout))
    return child


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_quietly(number: signal.Signals) -> None:
    """An orchestrator's signal is a clean end."""
    with run_until_ready("--wells", "1") as child:
        child.send_signal(number)
        assert child.wait(30) == 0


def test_it_ends_with_its_standard_input() -> None:
    """It never outlives the program that started it."""
    with run_until_ready("--wells", "1") as child:
        assert child.stdin is not None
        child.stdin.close()
        assert child.wait(30) == 0


@pytest.mark.parametrize(
    ("option", "value"), [("--wells", "0"), ("--interval-ms", "-5"), ("--wells", "many"), ("--bad", "1.5")]
)
def test_bad_arguments_are_refused(option: str, value: str) -> None:
    """A field of no wells is a mistake, told in one line."""
    ended = subprocess.run([*COMMAND, option, value], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert option in ended.stderr.splitlines()[-1]
