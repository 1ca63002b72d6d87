"""Rows of the journal's file: their form, and the checksum of all that is in one. Knows no file; starts nothing."""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import asdict, dataclass, fields
from typing import Final
from uuid import UUID

import numpy as np

from scada_trio.errors import JournalCorrupt
from scada_trio.losses import Loss, LossReason, RememberedSubscription
from scada_trio.readings import ReadingBlock

TagKey = tuple[UUID, str]

BYTES_A_READING: Final = 21
_SUBSCRIPTION_FIELDS: Final = [
    f.name for f in fields(RememberedSubscription) if f.name not in ("last_sequence", "heard_us")
]


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """One row of ``blocks``; its times are those of the earliest and the latest reading."""

    sequence: int
    block: ReadingBlock

    @property
    def count(self) -> int:
        """Number of readings."""
        return len(self.block)


def encode(block: ReadingBlock) -> bytes:
    """The columns one after the other, little-endian, the widest first so that they stay aligned."""
    return b"".join(
        (
            block.time_us.astype("<i8", copy=False).data,
            block.value.astype("<f8", copy=False).data,
            block.tag.astype("<i4", copy=False).data,
            block.quality.data,
        )
    )


def decode(data: bytes) -> ReadingBlock:
    """The inverse of `encode`, on the same bytes."""
    count = len(data) // BYTES_A_READING
    return ReadingBlock(
        np.frombuffer(data, "<i4", count, 16 * count).astype(np.int32, copy=False),
        np.frombuffer(data, "<i8", count).astype(np.int64, copy=False),
        np.frombuffer(data, "<f8", count, 8 * count).astype(np.float64, copy=False),
        np.frombuffer(data, np.uint8, count, 20 * count),
    )


def read_row(row: tuple[object, ...]) -> Record:
    """A row of ``blocks``; raises `JournalCorrupt` where its checksum is wrong."""
    sequence, from_us, to_us, crc, data = row
    if not isinstance(data, bytes) or crc != checksum(sequence, from_us, to_us, data):
        raise JournalCorrupt(f"block {sequence} is damaged")
    assert isinstance(sequence, int)
    return Record(sequence, decode(data))


def read_tag(row: tuple[object, ...]) -> tuple[int, TagKey]:
    """A row of ``tags``; raises as `read_row`."""
    number, well_id, node_id, crc = row
    if not isinstance(well_id, bytes) or not isinstance(node_id, bytes) or crc != checksum(number, well_id, node_id):
        raise JournalCorrupt(f"tag {number} is damaged")
    assert isinstance(number, int)
    return number, (UUID(bytes=well_id), node_id.decode())


def read_loss(row: tuple[object, ...]) -> tuple[int, Loss]:
    """A row of ``losses``; raises as `read_row`."""
    number, data, crc = row
    if not isinstance(data, bytes) or crc != checksum(number, data):
        raise JournalCorrupt(f"loss {number} is damaged")
    assert isinstance(number, int)
    values = json.loads(data)
    connection_id = values.pop("connection_id")
    reason = LossReason(values.pop("reason"))
    return number, Loss(reason, UUID(connection_id) if connection_id else None, **values)


def read_subscription(row: tuple[object, ...]) -> tuple[UUID, RememberedSubscription]:
    """A row of ``subscriptions``; raises as `read_row`."""
    connection_id, last_sequence, heard_us, data, crc = row
    if not isinstance(connection_id, bytes) or not isinstance(data, bytes) or crc != checksum(connection_id, data):
        raise JournalCorrupt("a subscription is damaged")
    if not isinstance(last_sequence, int) or not isinstance(heard_us, int):
        raise JournalCorrupt("a subscription is damaged")
    values = json.loads(data)
    values["items"] = {handle: (UUID(well), node, item) for handle, well, node, item in values["items"]}
    values["deadbands"] = dict(values["deadbands"])
    return UUID(bytes=connection_id), RememberedSubscription(last_sequence=last_sequence, heard_us=heard_us, **values)


def block_row(record: Record) -> tuple[object, ...]:
    """A row for `read_row`."""
    data = encode(record.block)
    from_us, to_us = int(record.block.time_us.min()), int(record.block.time_us.max())
    return record.sequence, from_us, to_us, checksum(record.sequence, from_us, to_us, data), data


def tag_row(tag: tuple[int, TagKey]) -> tuple[object, ...]:
    """A row for `read_tag`."""
    number, (well_id, node_id) = tag
    node = node_id.encode()
    return number, well_id.bytes, node, checksum(number, well_id.bytes, node)


def loss_row(numbered: tuple[int, Loss]) -> tuple[object, ...]:
    """A row for `read_loss`."""
    number, loss = numbered
    data = json.dumps(asdict(loss), default=str).encode()
    return number, data, checksum(number, data)


def subscription_row(connection_id: UUID, remembered: RememberedSubscription) -> tuple[object, ...]:
    """A row for `read_subscription`."""
    values: dict[str, object] = {name: getattr(remembered, name) for name in _SUBSCRIPTION_FIELDS}
    values["items"] = [(handle, str(well), node, item) for handle, (well, node, item) in remembered.items.items()]
    values["deadbands"] = list(remembered.deadbands.items())
    data = json.dumps(values).encode()
    last = (remembered.last_sequence, remembered.heard_us)
    return connection_id.bytes, *last, data, checksum(connection_id.bytes, data)


def checksum(*parts: object) -> int:
    """CRC-32 of integers and bytes; of anything else, as a damaged row has it, one that never fits."""
    crc = 0
    for part in parts:
        if isinstance(part, int):
            crc = zlib.crc32(struct.pack("<q", part), crc)
        elif isinstance(part, bytes):
            crc = zlib.crc32(part, crc)
        else:
            return -1
    return crc
