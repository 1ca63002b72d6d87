"""The stream of bytes before there is a channel: frames, Acknowledge, errors, and the first answer without security.

An input is a byte that says how the stream is cut, and the stream. However it is cut, the same frames come out.
"""

from __future__ import annotations

from collections.abc import Iterator

from opcua import ua
from opcua.ua.ua_binary import uatcp_to_binary

from scada_trio.errors import DeviceError, DeviceProtocolError
from scada_trio.opcua.transport import MAX_CHUNK_BYTES, FrameBuffer, _read_acknowledge, error_of_err_frame
from tests.fuzzing.bodies import open_answer
from tests.fuzzing.fakes import AnsweringLink, plain_frame
from tests.fuzzing.oracle import Wrong


def run(data: bytes) -> None:
    step, stream = 1 + data[0] % 64 if data else 1, data[1:]
    whole, cut = _frames(stream, len(stream) or 1), _frames(stream, step)
    if whole[0] != cut[0][: len(whole[0])] or (whole[1] is None) != (cut[1] is None):
        raise Wrong("the cuts decide which frames there are")
    for frame in cut[0]:
        if frame[:3] == b"ERR":
            error_of_err_frame(frame, "Hello")
        elif frame[:3] == b"ACK":
            _greeted(frame)
    link = AnsweringLink([])
    link.expect_open()
    for frame in cut[0][cut[0][:1] != [] and cut[0][0][:3] == b"ACK" :]:
        link.take(frame)


def _frames(stream: bytes, step: int) -> tuple[list[bytes], DeviceProtocolError | None]:
    """The frames in front of the first thing that is none, and the error for that."""
    buffer, frames = FrameBuffer(), list[bytes]()
    for at in range(0, len(stream), step):
        try:
            frames += buffer.feed(stream[at : at + step])
        except DeviceProtocolError as error:
            return frames, error
        if len(buffer._rest) > MAX_CHUNK_BYTES:
            raise Wrong("more is kept than a frame may have")
    return frames, None


def _greeted(frame: bytes) -> None:
    try:
        size = _read_acknowledge(frame)
    except DeviceError:
        return
    if not 8192 <= size <= MAX_CHUNK_BYTES:
        raise Wrong(f"chunks of {size} bytes would be sent")


def seeds() -> Iterator[bytes]:
    acknowledge = uatcp_to_binary(ua.MessageType.Acknowledge, ua.Acknowledge())
    failure = ua.ErrorMessage()
    failure.Error, failure.Reason = ua.StatusCode(0x80830000), "no such endpoint"
    error = uatcp_to_binary(ua.MessageType.Error, failure)
    opened = plain_frame(b"OPNF", open_answer(), request_id=1, sequence=1)
    first = plain_frame(b"MSGC", b"a" * 50, request_id=2, sequence=2)
    last = plain_frame(b"MSGF", b"b" * 50, request_id=2, sequence=3)
    aborted = plain_frame(b"MSGA", error[8:], request_id=3, sequence=4)
    yield from (b"\x3f" + stream for stream in (acknowledge, error, opened, acknowledge + opened + first + last))
    yield b"\x00" + acknowledge + opened + aborted + error
    yield b"\x07" + b"HTTP/1.1 400 Bad Request\r\n\r\n"
    yield b"\x07" + b"ACKF\xff\xff\xff\x7f"
