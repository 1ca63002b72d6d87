"""Readings as the bytes of ``repeated Reading readings = 1``, without a message object each.

Owns that part of the wire format (protobuf, "Encoding"). A repeated message is its field's key, its length and its
fields, in any order, one after the other, so an answer is a join of two parts a reading:

    0A │ length │ 0A 24 well │ 12 length node id │ 2A length quality ──── the same for each (series, quality)
    18 timestamp, 6 bytes │ 21 value, 8 bytes │ 30 timestamp_us, 9 bytes ──── laid out by numpy, 26 bytes a reading

The varints have a fixed width, their last bytes zero where the number needs fewer: parsers take that, and it lets all
readings be laid out at once. Ten thousand take less than 1 ms, against 6 with message objects. `WireCodec` lets
grpclib send such bytes. Pure functions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from grpclib.encoding.proto import ProtoCodec
from numpy.typing import NDArray

from scada_trio.readings import QUALITY_LABELS, ReadingBlock, ReadingRows, TagTable

_KEY: Final = 0x0A  # field 1, length-delimited
_WELL, _NODE, _QUALITY = b"\x0a", b"\x12", b"\x2a"
_SECONDS_BYTES: Final = 6  # 42 bits: the year 9999 needs 38
_MICROSECONDS_BYTES: Final = 9  # 63 bits
_END_US: Final = 253_402_300_800_000_000  # the year 10000
_VARIABLE_BYTES: Final = 1 + _SECONDS_BYTES + 1 + 8 + 1 + _MICROSECONDS_BYTES
_QUALITIES: Final = len(QUALITY_LABELS)


@dataclass(frozen=True, slots=True)
class Encoded:
    """An answer that is bytes already."""

    data: bytes


class WireCodec(ProtoCodec):  # type: ignore[misc]
    """grpclib's codec, that passes `Encoded` answers on as they are."""

    def encode(self, message: Any, message_type: Any) -> bytes:
        """See `grpclib.encoding.base.CodecBase`."""
        if isinstance(message, Encoded):
            return message.data
        data: bytes = super().encode(message, message_type)
        return data


def encode_readings(rows: ReadingRows) -> bytes:
    """Field 1 of an answer, once for each reading, in their order. Times are from 1970 to 9999."""
    well_id = str(rows.well_id)
    return _encode(rows, rows.series, lambda series: (well_id, rows.names[series]), {})


class LiveEncoder:
    """Field 1 of answers about readings of many wells; keeps what is the same in every reading of a series."""

    def __init__(self, tags: TagTable) -> None:
        self._tags = tags
        self._templates: dict[int, bytes] = {}

    def encode(self, readings: ReadingBlock) -> bytes:
        """Readings in their order, but for those whose time is not from 1970 to 9999: no table takes them either."""
        usable = (readings.time_us >= 0) & (readings.time_us < _END_US)
        if not usable.all():
            readings = readings.select(usable)
        return _encode(readings, readings.tag, self._names, self._templates)

    def _names(self, series: int) -> tuple[str, str]:
        well_id, node_id = self._tags.key(series)
        return str(well_id), node_id


def _encode(
    columns: ReadingRows | ReadingBlock,
    series: NDArray[np.int32],
    names: Callable[[int], tuple[str, str]],
    templates: dict[int, bytes],
) -> bytes:
    """``names`` gives well id and node id of a series; ``templates`` is filled with what is new."""
    numbers = series * _QUALITIES + columns.quality
    for number in np.unique(numbers).tolist():
        if number not in templates:
            one, quality = divmod(number, _QUALITIES)
            templates[number] = _template(*names(one), QUALITY_LABELS[quality])
    parts: list[Any] = [None] * (2 * len(columns))
    parts[::2] = [templates[number] for number in numbers.tolist()]
    parts[1::2] = _variable(columns).tolist()
    return b"".join(parts)


def _template(well_id: str, node_id: str, quality: str) -> bytes:
    fields = _text(_WELL, well_id) + _text(_NODE, node_id) + _text(_QUALITY, quality)
    return bytes([_KEY]) + _varint(len(fields) + _VARIABLE_BYTES) + fields


def _variable(rows: ReadingRows | ReadingBlock) -> NDArray[np.void]:
    """Fields 3, 4 and 6 of each reading, as one element of 26 bytes."""
    layout = np.empty(
        len(rows),
        [
            ("key_3", "u1"),
            ("seconds", "u1", _SECONDS_BYTES),
            ("key_4", "u1"),
            ("value", "<f8"),
            ("key_6", "u1"),
            ("microseconds", "u1", _MICROSECONDS_BYTES),
        ],
    )
    layout["key_3"], layout["key_4"], layout["key_6"] = 0x18, 0x21, 0x30
    layout["seconds"] = _varints(rows.time_us // 1_000_000, _SECONDS_BYTES)
    layout["value"] = rows.value
    layout["microseconds"] = _varints(rows.time_us, _MICROSECONDS_BYTES)
    return layout.view(f"V{_VARIABLE_BYTES}")


def _varints(numbers: NDArray[np.int64], width: int) -> NDArray[np.uint8]:
    """Seven bits a byte, the lowest first; the top bit says that another byte follows."""
    digits = np.empty((len(numbers), width), np.uint8)
    for index in range(width):
        digits[:, index] = (numbers >> (7 * index)) & 0x7F
    digits[:, :-1] |= 0x80
    return digits


def _text(key: bytes, text: str) -> bytes:
    data = text.encode()
    return key + _varint(len(data)) + data


def _varint(number: int) -> bytes:
    data = bytearray()
    while number > 0x7F:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    data.append(number)
    return bytes(data)
