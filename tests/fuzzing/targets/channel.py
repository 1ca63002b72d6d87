"""Chunks on a channel: without security, signed, signed and encrypted; what is not the device's own word gets nowhere.

An input is a byte for the mode, a byte that says whether the channel is open yet, and steps. A step is a byte of flags,
four numbers where they are to be odd, and a body. The chunk is sealed with the right keys, so that what lies behind the
signature is reached, unless the flags say otherwise.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import cache
from typing import Any

from opcua import ua
from opcua.ua.ua_binary import struct_to_binary

from scada_trio.opcua.policies import NONE_URI, ChannelSecurity, suite_of_name
from scada_trio.opcua.transport import MAX_MESSAGE_BYTES
from tests.fix_pki import key_of
from tests.fuzzing.bodies import activated_answer, fault, open_answer
from tests.fuzzing.fakes import CHANNEL, TOKEN, AnsweringLink
from tests.fuzzing.feed import Feed, pack
from tests.fuzzing.oracle import Wrong
from tests.publish_bytes import capture

_MODES = (None, ua.MessageSecurityMode.Sign, ua.MessageSecurityMode.SignAndEncrypt)
_KINDS = (b"MSG", b"OPN", b"CLO")
_PLACES = (b"F", b"C", b"A", b"F")
_CLIENT_NONCE, _SERVER_NONCE = b"c" * 32, b"s" * 32
RENEW, BAD_SIGNATURE, BAD_PADDING, RAW, ODD = 3, 0x10, 0x20, 0x40, 0x80
_REQUESTS, _PUBLISHES = 8, range(100, 120)
_KEY_BITS = 1024


def run(data: bytes) -> None:
    feed = Feed(data)
    mode, is_open = _MODES[feed.byte() % len(_MODES)], feed.byte() & 1
    peer = Peer(mode, is_open=bool(is_open))
    while feed:
        flags = feed.byte()
        if flags & 3 == RENEW:
            peer.ask_again()
        else:
            peer.play(flags, feed)


@cache
def _policy(mode: Any, own: str, other: str) -> Any:
    suite = suite_of_name("Basic256Sha256")
    assert suite is not None
    key, public_key = key_of(own, _KEY_BITS), key_of(other, _KEY_BITS).public_key()
    names = (own.encode(), other.encode())
    return ChannelSecurity(
        suite, mode, own_certificate=names[0], own_key=key, certificate=names[1], public_key=public_key
    )


class Peer:
    """The device's end of a channel, and ours."""

    def __init__(self, mode: Any, *, is_open: bool) -> None:
        self._mode = mode
        own = ua.SecurityPolicy() if mode is None else _policy(mode, "fuzzed client", "fuzzed device")
        self._policy = ua.SecurityPolicy() if mode is None else _policy(mode, "fuzzed device", "fuzzed client")
        if mode is not None:
            own.symmetric_cryptography.Verifier = own.symmetric_cryptography.Decryptor = None
            self._policy.make_local_symmetric_key(_CLIENT_NONCE, _SERVER_NONCE)
            own.make_local_symmetric_key(_SERVER_NONCE, _CLIENT_NONCE)
        self._link = AnsweringLink([], own)
        self._sequence = 0
        if is_open:
            self._link.open(_CLIENT_NONCE, _SERVER_NONCE)
            self._link._publishes.update(_PUBLISHES)
        else:
            self._link.expect_open(_CLIENT_NONCE)
        self._link.expect(_REQUESTS)
        self._link.on_publish = lambda _: None

    def ask_again(self) -> None:
        """Our side asks for new keys."""
        self._link.expect_open(_CLIENT_NONCE, renew=True)

    def play(self, flags: int, feed: Feed) -> None:
        """One chunk comes."""
        kind, place = _KINDS[flags & 3], _PLACES[flags >> 2 & 3]
        self._sequence += 1
        token, sequence, request, channel = TOKEN, self._sequence, 1, CHANNEL
        if flags & ODD:
            token, sequence = feed.byte(), self._sequence + feed.byte() - 128
            request, channel = feed.byte(), feed.byte()
        body = feed.piece()
        content = struct.pack("<II", sequence % (1 << 32), request) + body
        if flags & RAW:
            frame = _framed(kind + place, struct.pack("<I", channel) + body)
        else:
            spoilt = feed.byte() if flags & BAD_PADDING else None
            frame = self._seal(kind + place, channel, token, content, spoilt, whole=not flags & BAD_SIGNATURE)
        if len(frame) > 65_536:
            return
        self._link.take(frame)
        if self._mode is not None and flags & (RAW | BAD_SIGNATURE):
            raise Wrong("a chunk that nobody signed was taken")
        if self._link._partial_bytes > MAX_MESSAGE_BYTES:
            raise Wrong("more is kept than a message may have")

    def _seal(
        self, head: bytes, channel: int, token: int, content: bytes, padding_size: int | None, *, whole: bool
    ) -> bytes:
        if head[:3] == b"OPN":
            cryptography = self._policy.asymmetric_cryptography
            security = ua.AsymmetricAlgorithmHeader()
            security.SecurityPolicyURI = NONE_URI if self._mode is None else self._policy.URI
            security_bytes = struct_to_binary(security)
        else:
            cryptography, security_bytes = self._policy.symmetric_cryptography, struct.pack("<I", token)
        content += cryptography.padding(len(content))
        if padding_size is not None:
            content = content[:-1] + bytes((padding_size,))
        plain_bytes = len(content) + cryptography.signature_size()
        size = plain_bytes // cryptography.plain_block_size() * cryptography.encrypted_block_size()
        front = head + struct.pack("<II", 12 + len(security_bytes) + size, channel) + security_bytes
        signature = cryptography.signature(front + content)
        if not whole and signature:
            signature = bytes((signature[0] ^ 1,)) + signature[1:]
        return bytes(front + cryptography.encrypt(content + signature))


def _framed(head: bytes, content: bytes) -> bytes:
    return head + struct.pack("<I", 8 + len(content)) + content


def step(flags: int, body: bytes, *odd: int) -> bytes:
    """A step of an input; ``odd``: token, 128 + how far the sequence number is off, request, channel."""
    numbers = bytes((flags | (ODD if odd else 0), *odd))
    return numbers + pack([body])


def seeds() -> Iterator[bytes]:
    answer, publish, opened = activated_answer(), capture("open62541-uniform-10"), open_answer(_SERVER_NONCE)
    part, last, abort, renew, close = 0x04, 0x00, 0x08, 0x03, 0x02
    steps = {
        "answers": step(0, answer) + step(0, publish, TOKEN, 128, 100, CHANNEL) + step(0, publish, TOKEN, 128, 101, 7),
        "chunks": step(part, answer[:20]) + step(part, answer[20:30]) + step(last, answer[30:]),
        "abort": step(part, answer) + step(abort, fault(0x80010000)[8:]) + step(last, answer),
        "renewal": bytes((renew,)) + step(1, opened, TOKEN, 128, 9, CHANNEL) + step(0, answer, TOKEN, 128, 1, CHANNEL),
        "close": step(close, answer),
        "wrong number": step(0, answer) + step(0, answer, TOKEN, 130, 2, CHANNEL),
        "wrong token": step(0, answer, TOKEN + 1, 128, 1, CHANNEL),
        "no token": step(0, answer, 0, 128, 1, 0),
        "no signature": step(BAD_SIGNATURE, answer),
        "no seal": step(RAW, answer),
        "padding": step(BAD_PADDING, answer) + b"\xff",
    }
    for mode in range(len(_MODES)):
        for flags in steps.values():
            yield bytes((mode, 1)) + flags
        yield bytes((mode, 0)) + step(1, opened) + step(0, answer, TOKEN, 128, 2, CHANNEL)
        yield bytes((mode, 0)) + step(0, opened, 0, 128, 1, 0)
