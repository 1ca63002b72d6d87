"""Steps over OPC UA binary values without making them (OPC UA Part 6, 5.2): where does this one end?

Owns the sizes of the built-in types. Knows no service and no meaning; starts nothing, allocates nothing.

The stock decoder is not used for this: it fails on text that is not UTF-8 and on structures whose type it does not know
well, and an array length of 2^31 or a few nested brackets from a corrupt message make it allocate without bound.

Every function takes the message, an offset and the steps left, and returns the offset behind the value. It may point
past the end, since a skipped value is not read: the caller compares. Reading past the end raises ``IndexError`` or
``struct.error``, which the caller turns into `truncated`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from scada_trio.errors import DeviceProtocolError

# Part 6, 5.1.5 asks decoders for 100 levels of nested variants and diagnostics; more is an attack on the stack.
MAX_DEPTH: Final = 100

INT32: Final = struct.Struct("<i")
UINT32: Final = struct.Struct("<I")

ARRAY: Final = 0x80  # in a variant's first byte: an array of the type in bits 0-5
DIMENSIONS: Final = 0x40  # and its dimensions behind it
TYPE: Final = 0x3F

# Built-in types whose size is always the same (Part 6, 5.1.2), bytes; 0 is the null variant.
FIXED_SIZES: Final = {0: 0, 1: 1, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 4, 8: 8, 9: 8, 10: 4, 11: 8, 13: 8, 14: 16, 19: 4}

MAX_STEPS: Final = 250_000
"""Values of one message that are gone over one by one, nested ones too: some 0.3 s where each is as slow as can be.

We ask for 20,000 notifications in a message; one with millions would hold up every other device meanwhile.
"""

_NODE_ID_SIZES: Final = {0: 2, 1: 4, 2: 7, 4: 19}
_NODE_ID_STRINGS: Final = (3, 5)


class Steps:
    """How many more values of a message may be gone over one by one."""

    left = MAX_STEPS  # of the class until the first is taken: nearly every message takes none

    def take(self, count: int) -> None:
        """Use ``count`` of them. Raises `DeviceProtocolError` where there are not so many left."""
        self.left -= count
        if self.left < 0:
            raise DeviceProtocolError(f"the device's message has more than {MAX_STEPS} values of no common layout")


Skip = Callable[[bytes, int, Steps, int], int]
"""Message, offset, steps, depth: the offset behind the value."""


def truncated() -> DeviceProtocolError:
    """The error for a message that ends in the middle of a field."""
    return DeviceProtocolError("the device's message ends in the middle of a field")


def read_length(body: bytes, offset: int) -> tuple[int, int]:
    """Length of the array or string at ``offset``, null (any negative number) as 0, and where its content starts."""
    length = INT32.unpack_from(body, offset)[0]
    return max(length, 0), offset + 4


def read_type_id(body: bytes, offset: int, steps: Steps) -> tuple[int, int]:
    """The number of a NodeId in namespace 0, -1 for every other one, and the offset behind it."""
    end = skip_node_id(body, offset, steps)
    encoding = body[offset]
    if encoding == 0:
        return body[offset + 1], end
    if encoding == 1 and body[offset + 1] == 0:
        return int.from_bytes(body[offset + 2 : offset + 4], "little"), end
    if encoding == 2 and body[offset + 1 : offset + 3] == b"\0\0":
        return int(UINT32.unpack_from(body, offset + 3)[0]), end
    return -1, end


def skip_string(body: bytes, offset: int, steps: Steps, depth: int = 0) -> int:
    """String, ByteString or XmlElement."""
    length, start = read_length(body, offset)
    return start + length


def skip_node_id(body: bytes, offset: int, steps: Steps, depth: int = 0) -> int:
    """NodeId or ExpandedNodeId (Part 6, 5.2.2.9 and 5.2.2.10)."""
    encoding = body[offset]
    form = encoding & 0x3F
    if form in _NODE_ID_SIZES:
        offset += _NODE_ID_SIZES[form]
    elif form in _NODE_ID_STRINGS:
        offset = skip_string(body, offset + 3, steps)
    else:
        raise DeviceProtocolError(f"the device's message has a NodeId of unknown form {form}")
    if encoding & 0x80:
        offset = skip_string(body, offset, steps)
    return offset + 4 if encoding & 0x40 else offset


def skip_qualified_name(body: bytes, offset: int, steps: Steps, depth: int = 0) -> int:
    """QualifiedName: namespace index and name."""
    return skip_string(body, offset + 2, steps)


def skip_localized_text(body: bytes, offset: int, steps: Steps, depth: int = 0) -> int:
    """LocalizedText: mask, then locale and text as it says."""
    mask = body[offset]
    offset += 1
    for bit in (1, 2):
        if mask & bit:
            offset = skip_string(body, offset, steps)
    return offset


def skip_extension_object(body: bytes, offset: int, steps: Steps, depth: int = 0) -> int:
    """ExtensionObject: type, form, and a body whose length is stated whatever the form."""
    offset = skip_node_id(body, offset, steps)
    return skip_string(body, offset + 1, steps) if body[offset] else offset + 1


def skip_data_value(body: bytes, offset: int, steps: Steps, depth: int = 0) -> int:
    """DataValue: mask, then value, status and times as it says."""
    mask = body[offset]
    offset += 1
    if mask & 1:
        offset = skip_variant(body, offset, steps, depth + 1)
    return offset + timing_size(mask)


def timing_size(mask: int) -> int:
    """Bytes of a DataValue's fields behind the value: status, two times, two picosecond fields."""
    return 4 * (mask >> 1 & 1) + 8 * (mask >> 2 & 1) + 8 * (mask >> 3 & 1) + 2 * (mask >> 4 & 1) + 2 * (mask >> 5 & 1)


def skip_diagnostic_info(body: bytes, offset: int, steps: Steps, depth: int = 0) -> int:
    """DiagnosticInfo (Part 6, 5.2.2.12)."""
    _check_depth(depth)
    mask = body[offset]
    offset += 1 + 4 * (mask & 0x0F).bit_count()
    if mask & 0x10:
        offset = skip_string(body, offset, steps)
    if mask & 0x20:
        offset += 4
    return skip_diagnostic_info(body, offset, steps, depth + 1) if mask & 0x40 else offset


def skip_variant(body: bytes, offset: int, steps: Steps, depth: int = 0) -> int:
    """Variant: a scalar, an array or a matrix of any built-in type (Part 6, 5.2.2.16)."""
    _check_depth(depth)
    encoding = body[offset]
    kind = encoding & TYPE
    count, offset = read_length(body, offset + 1) if encoding & ARRAY else (1, offset + 1)
    if kind in FIXED_SIZES:
        offset += count * FIXED_SIZES[kind]
    elif kind in _SKIPS:
        offset = skip_many(_SKIPS[kind], body, offset, count, steps, depth + 1)
    else:
        raise DeviceProtocolError(f"the device's message has a value of unknown type {kind}")
    if encoding & DIMENSIONS:
        length, offset = read_length(body, offset)
        offset += 4 * length
    return offset


def skip_many(skip: Skip, body: bytes, offset: int, count: int, steps: Steps, depth: int = 0) -> int:
    """``count`` values in a row; each takes a step, and a byte at least."""
    steps.take(count)
    for _ in range(count):
        offset = skip(body, offset, steps, depth)
    return offset


def _check_depth(depth: int) -> None:
    if depth > MAX_DEPTH:
        raise DeviceProtocolError(f"the device's message nests values more than {MAX_DEPTH} deep")


# 26-31 are reserved and read as ByteString (Part 6, 5.1.2).
_SKIPS: Final[dict[int, Skip]] = {
    **dict.fromkeys((12, 15, 16, *range(26, 32)), skip_string),
    **dict.fromkeys((17, 18), skip_node_id),
    20: skip_qualified_name,
    21: skip_localized_text,
    22: skip_extension_object,
    23: skip_data_value,
    24: skip_variant,
    25: skip_diagnostic_info,
}
