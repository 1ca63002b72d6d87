"""How much one request may hold: a bound on inbound messages, compressed ones included.

grpclib reads whatever length a message announces, and knows no compression. `BoundedStream` stands between grpclib's
message reader and the HTTP/2 stream: the announced length is refused before a byte of the body is read, so that
the flow-control window is all that a client can make the server hold; a compressed message is unpacked up to the
same bound and handed on as a plain one. Starts nothing.
"""

from __future__ import annotations

import zlib
from typing import Any

from grpclib.const import Status
from grpclib.exceptions import GRPCError

_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS


class BoundedStream:
    """One HTTP/2 stream whose messages hold at most ``max_bytes``; everything else is the wrapped stream's own.

    A message is a compressed flag, its length in four bytes, big-endian, and its body (gRPC over HTTP/2,
    "Length-Prefixed-Message").

    Reading raises `GRPCError`: RESOURCE_EXHAUSTED for a message that is too long, UNIMPLEMENTED for a compression that
    is neither gzip nor deflate, INVALID_ARGUMENT for one that ends early.
    """

    def __init__(self, stream: Any, max_bytes: int) -> None:
        self._stream = stream
        self._max_bytes = max_bytes
        self._prefix_read = False
        self._unpacked_body: bytes | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    async def recv_data(self, size: int) -> bytes:
        """What grpclib asks for, by turns: the prefix of a message, and the body that the prefix announced."""
        if self._prefix_read:
            self._prefix_read = False
            body, self._unpacked_body = self._unpacked_body, None
            return await self._read(size) if body is None else body
        prefix = await self._read(size)
        if not prefix:
            return prefix
        length = int.from_bytes(prefix[1:], "big")
        if length > self._max_bytes:
            raise self._too_long(f"a message of {length:,} bytes")
        if prefix[0]:
            self._unpacked_body = self._unpacked(await self._read(length))
            length = len(self._unpacked_body)
        self._prefix_read = True
        return b"\0" + length.to_bytes(4, "big")

    async def _read(self, size: int) -> bytes:
        try:
            return bytes(await self._stream.recv_data(size))
        except AssertionError:  # grpclib's word for a stream that ended within a message
            raise GRPCError(Status.INVALID_ARGUMENT, "the request ends within a message") from None

    def _unpacked(self, packed: bytes) -> bytes:
        unpacker = zlib.decompressobj(_GZIP_OR_ZLIB)
        try:
            body = unpacker.decompress(packed, self._max_bytes + 1)
        except zlib.error:
            raise GRPCError(Status.UNIMPLEMENTED, "messages may be compressed with gzip or deflate only") from None
        if len(body) > self._max_bytes:
            raise self._too_long("a compressed message")
        if not unpacker.eof:
            raise GRPCError(Status.INVALID_ARGUMENT, "the compressed message ends early")
        return body

    def _too_long(self, what: str) -> GRPCError:
        return GRPCError(Status.RESOURCE_EXHAUSTED, f"{what} is over the limit of {self._max_bytes:,} bytes")
