"""Page tokens: where an answer goes on, signed together with the request that it belongs to.

A token says a time and a tag, and nothing of a tenant or a well: those come with each request, so that no token, forged
or stolen, reaches beyond what its bearer may ask for anyway. The signature keeps a token from being used with another
request, where it would leave out or repeat readings in silence. Pure, but for the key, which the service derives
from its own.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import struct
from typing import Final

from google.protobuf.message import Message

from scada_trio.errors import InvalidField
from scada_trio.queries import Position

_VERSION: Final = b"\x01"
_MAC_BYTES: Final = 16
_TIME: Final = struct.Struct(">q")
_ABOUT_THE_PAGE: Final = ("page_token", "limit")


class PageTokens:
    """Makes and reads tokens; those of another key are refused as forged ones are."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def make(self, request: Message, position: Position) -> str:
        """The token with which ``request`` goes on at ``position``, of whatever page size."""
        node = b"" if position.node_id is None else b"n" + position.node_id.encode()
        place = _VERSION + _TIME.pack(position.time_us) + node
        return base64.urlsafe_b64encode(self._mac(request, place) + place).decode().rstrip("=")

    def read(self, request: Message, token: str) -> Position:
        """The position in ``token``; raises `InvalidField` where it was not made here for the same request."""
        invalid = InvalidField("page_token", "is not one of an answer to this request; ask from the beginning")
        try:
            data = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raise invalid from None
        mac, place = data[:_MAC_BYTES], data[_MAC_BYTES:]
        if not hmac.compare_digest(mac, self._mac(request, place)):
            raise invalid
        (time_us,) = _TIME.unpack_from(place, 1)
        node = place[1 + _TIME.size :]
        return Position(time_us, node[1:].decode() if node else None)

    def _mac(self, request: Message, place: bytes) -> bytes:
        same = type(request)()
        same.CopyFrom(request)
        for field in _ABOUT_THE_PAGE:
            same.ClearField(field)
        signed = request.DESCRIPTOR.full_name.encode() + b"\0" + same.SerializeToString(deterministic=True)
        return hmac.digest(self._key, hashlib.sha256(signed).digest() + place, "sha256")[:_MAC_BYTES]
