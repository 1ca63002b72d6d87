"""python-opcua's decoder on bytes that somebody made up: no length is believed, no array is larger than the message.

Owns what of the library is replaced for that, and the bound on a message's array elements. Knows no service; the
package's ``__init__`` calls it when the library has been imported, before anything is decoded.

As it is, the library steps back in the message where a length is negative, so that an array of such strings never ends;
makes 2^31 elements that take no bytes; fills an array up to whatever its dimensions claim; and puts the whole message
into the text of the error for one that is cut short. A message of 40 bytes took a minute, and then all memory there is.
"""

from __future__ import annotations

from typing import Any, Final

from opcua import ua
from opcua.common import utils
from opcua.ua import ua_binary

MAX_ELEMENTS: Final = 200_000
"""Array elements in one message that become an object each: some 150 MB of references, the largest that we ask for."""
FEW_ELEMENTS: Final = 2_000
"""The same for what is decoded in the Trio thread: a quarter of a second of endpoints, the slowest to decode."""
_NUMBERS_AN_OBJECT: Final = 8
"""Numbers of an array that take the memory of one such object."""

_unbounded_from_binary = ua_binary.from_binary


def bound_decoder() -> None:
    """Let the library decode with these bounds, whoever calls it; to do it twice changes nothing."""
    for name in ("__init__", "read", "skip", "copy"):
        setattr(utils.Buffer, name, vars(_Buffer)[name])
    ua_binary.unpack_uatype_array = _unpack_array
    ua_binary.from_binary = _from_binary
    ua_binary._reshape = _reshape


def allow_few(data: Any) -> Any:
    """``data``, a buffer that was not read yet, from which no more than `FEW_ELEMENTS` may be decoded."""
    data._left[0] = FEW_ELEMENTS
    return data


class _Buffer:
    """The methods of the library's buffer: it never goes back, and its copies count array elements together."""

    def __init__(self, data: bytes, start_pos: int = 0, size: int = -1) -> None:
        self._data = data
        self._cur_pos = start_pos
        self._size = len(data) - start_pos if size < 0 else size
        self._left = [MAX_ELEMENTS]

    def read(self, size: int) -> bytes:
        """The next ``size`` bytes. Raises ``NotEnoughData`` where there are not so many, and for fewer than none."""
        if not 0 <= size <= self._size:
            raise utils.NotEnoughData(f"{size} bytes asked for, {self._size} are left")
        start = self._cur_pos
        self._cur_pos = end = start + size
        self._size -= size
        return self._data[start:end]

    def skip(self, size: int) -> None:
        """Go on behind the next ``size`` bytes, as `read` does."""
        if not 0 <= size <= self._size:
            raise utils.NotEnoughData(f"{size} bytes to skip, {self._size} are left")
        self._cur_pos += size
        self._size -= size

    def copy(self, size: int = -1) -> Any:
        """A buffer of its own on the next ``size`` bytes at most; on all where ``size`` is negative."""
        copied = utils.Buffer(self._data, self._cur_pos, self._size if size < 0 else min(size, self._size))
        copied._left = self._left
        return copied


def _count(data: Any, length: int, objects: int) -> int:
    """``length`` of an array, once it can be true: each element has a byte at least."""
    data._left[0] -= objects
    if length > len(data) or data._left[0] < 0:
        raise ua.UaError(f"an array of {length} elements, {len(data)} bytes are left")
    return length


def _unpack_array(kind: Any, data: Any) -> list[Any] | None:
    """An array of a built-in type; a negative length is that of none (Part 6, 5.2.5)."""
    length = ua_binary.Primitives.Int32.unpack(data)
    if length < 0:
        return None
    numbers = getattr(ua_binary.Primitives1, kind.name, None)
    if numbers is not None:
        return list(numbers.unpack_array(data, _count(data, length, length // _NUMBERS_AN_OBJECT)))
    return [ua_binary.unpack_uatype(kind, data) for _ in range(_count(data, length, length))]


def _from_binary(kind: Any, data: Any) -> Any:
    """As the library's, but for the arrays of structures."""
    if isinstance(kind, str) and kind.startswith("ListOf") and not hasattr(ua.VariantType, kind[6:]):
        length = max(ua_binary.Primitives.Int32.unpack(data), 0)
        return [_from_binary(kind[6:], data) for _ in range(_count(data, length, length))]
    return _unbounded_from_binary(kind, data)


def _reshape(flat: Any, dimensions: list[int] | None) -> Any:
    """Nested lists of ``dimensions``, which have room for all of ``flat`` and for no more (Part 6, 5.2.2.16)."""
    if not flat or not dimensions:
        return flat
    room = 1
    for size in dimensions:
        room *= size
        if not 0 < room <= len(flat):
            break
    if room != len(flat):
        raise ua.UaError(f"{len(flat)} elements in other dimensions")
    return _nest(flat, dimensions)


def _nest(flat: list[Any], dimensions: list[int]) -> list[Any]:
    if len(dimensions) == 1:
        return flat
    step = len(flat) // dimensions[0]
    return [_nest(flat[start : start + step], dimensions[1:]) for start in range(0, len(flat), step)]
