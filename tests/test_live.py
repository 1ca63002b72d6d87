"""Watchers of live readings: filters, bounds, ends."""

from __future__ import annotations

from uuid import UUID, uuid4

import numpy as np
import pytest
import trio
import trio.testing

from scada_trio.live import LiveClosed, LiveHub
from scada_trio.readings import ReadingBlock, TagTable

ONE, OTHER = UUID(int=1), UUID(int=2)


@pytest.fixture
def tags() -> TagTable:
    table = TagTable()
    for well in (ONE, OTHER):
        for node in ("ns=2;s=Pressure", "ns=2;s=Flow"):
            table.index_of(well, node)
    return table


def of(*tags: int, first: int = 0) -> ReadingBlock:
    """A reading of each series named, with values ``first``, ``first + 1``, ..."""
    count = len(tags)
    values = np.arange(first, first + count)
    return ReadingBlock(np.array(tags, np.int32), values * 1000, values.astype(float), np.zeros(count, np.uint8))


async def test_all_readings_in_order(tags: TagTable) -> None:
    hub = LiveHub(tags)
    hub.publish([of(0, 1)])  # before anybody watches
    with hub.watch() as watcher:
        hub.publish([of(0, 1, first=10), of(3, first=12)])
        hub.publish([of(2, first=13)])
        live = await watcher.take(100)
    assert live.readings.value.tolist() == [10, 11, 12, 13]
    assert live.readings.tag.tolist() == [0, 1, 3, 2]
    assert live.missed == 0


@pytest.mark.parametrize(
    ("wells", "nodes", "expected"),
    [
        ((ONE,), (), [0, 1]),
        ((), ("ns=2;s=Flow",), [1, 3]),
        ((OTHER,), ("ns=2;s=Flow",), [3]),
        ((ONE, OTHER), ("ns=2;s=Flow", "ns=2;s=Pressure"), [0, 1, 2, 3]),
    ],
)
async def test_filters(tags: TagTable, wells: tuple[UUID, ...], nodes: tuple[str, ...], expected: list[int]) -> None:
    hub = LiveHub(tags)
    with hub.watch(wells, nodes) as watcher:
        hub.publish([of(0, 1), of(2, 3)])
        assert (await watcher.take(100)).readings.tag.tolist() == expected


async def test_a_series_that_comes_later_is_seen(tags: TagTable) -> None:
    hub = LiveHub(tags)
    with hub.watch([ONE]) as watcher:
        hub.publish([of(0)])
        later = tags.index_of(ONE, "ns=2;s=New")
        hub.publish([of(later, 2)])
        assert (await watcher.take(100)).readings.tag.tolist() == [0, later]


async def test_waits_until_something_wanted_comes(tags: TagTable) -> None:
    hub = LiveHub(tags)
    taken: list[int] = []

    async def watch() -> None:
        with hub.watch([OTHER]) as watcher:
            taken.extend((await watcher.take(100)).readings.tag)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        await trio.testing.wait_all_tasks_blocked()
        hub.publish([of(0, 1)])
        await trio.testing.wait_all_tasks_blocked()
        assert taken == []
        hub.publish([of(0, 2)])
    assert taken == [2]
    assert len(hub) == 0


async def test_a_slow_watcher_is_told_what_it_missed_and_others_miss_nothing(tags: TagTable) -> None:
    hub = LiveHub(tags)
    with hub.watch(max_waiting=10) as slow, hub.watch() as fast:
        for first in range(0, 24, 3):
            hub.publish([of(0, 1, 2, first=first)])
        live = await slow.take(4)
        assert (live.missed, live.readings.value.tolist()) == (14, [14, 15, 16, 17])
        hub.publish([of(0, first=24)])
        live = await slow.take(100)
        assert (live.missed, live.readings.value.tolist()) == (0, [18, 19, 20, 21, 22, 23, 24])
        assert len((await fast.take(100)).readings) == 25


async def test_one_block_above_the_bound(tags: TagTable) -> None:
    hub = LiveHub(tags)
    with hub.watch(max_waiting=5) as watcher:
        hub.publish([of(*[0] * 12)])
        live = await watcher.take(100)
    assert (live.missed, live.readings.value.tolist()) == (7, [7, 8, 9, 10, 11])


async def test_close_ends_who_waits_after_what_was_published(tags: TagTable) -> None:
    hub = LiveHub(tags)
    with hub.watch() as watcher:
        hub.publish([of(0)])
        hub.close()
        assert len((await watcher.take(100)).readings) == 1
        with pytest.raises(LiveClosed):
            await watcher.take(100)
    with pytest.raises(LiveClosed), hub.watch([uuid4()]):
        pass
