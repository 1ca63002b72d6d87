"""What a device's status code, a broken socket or unreadable bytes mean to the rest of the service.

Owns the one table from OPC UA status codes to the errors of `scada_trio.errors`, and what an answer must be. Knows no
session; starts nothing.
"""

from __future__ import annotations

import concurrent.futures
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from opcua import ua
from opcua.ua.status_codes import get_name_and_doc
from opcua.ua.ua_binary import nodeid_from_binary, struct_from_binary

from scada_trio.errors import DeviceError, DeviceProtocolError, DeviceRefused, DeviceUnreachable

MALFORMED: Final = (
    ua.UaError,
    struct.error,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    RecursionError,
    NameError,  # eight of its structures name types that it does not have
    InvalidSignature,
)
"""What python-opcua's codec raises for bytes that are not what they claim to be: it checks little by itself."""

_REFUSED_PREFIXES: Final = ("BadCertificate", "BadIdentity", "BadSecurity", "BadUser", "BadLicense", "BadTooMany")
_REFUSED: Final = frozenset(
    {
        "BadApplicationSignatureInvalid",
        "BadNonceInvalid",
        "BadNoValidCertificates",
        "BadNotSupported",
        "BadRequestTypeInvalid",
        "BadServiceUnsupported",
        "BadTcpEndpointUrlInvalid",
    }
)
_UNREACHABLE_PREFIXES: Final = ("BadConnection", "BadSecureChannel", "BadTcp", "BadSession", "BadSubscription")
_UNREACHABLE: Final = frozenset(
    {
        "BadCommunicationError",
        "BadDisconnect",
        "BadNoCommunication",
        "BadNoSubscription",
        "BadServerHalted",
        "BadShutdown",
        "BadTimeout",
        "BadTooManyOperations",
        "BadTooManyPublishRequests",
    }
)


def status_name(code: int) -> str:
    """The symbolic name of a status code (OPC UA Part 6, A.2), info bits left out; hexadecimal where it has none."""
    name: str = get_name_and_doc(code & 0xFFFF0000)[0]
    return f"0x{code:08X}" if name.startswith("UnknownUaError") else name


def error_of_status(code: int, context: str, reason: str | None = None) -> DeviceError:
    """The error that a Bad status in answer to ``context`` stands for; ``reason`` is what the server said to it."""
    error = _error_of_status(code, context, reason)
    error.status = code
    return error


def _error_of_status(code: int, context: str, reason: str | None) -> DeviceError:
    name = status_name(code)
    text = f"{context}: the server answered {name}"
    if reason:
        text += f" ({one_line(reason)})"
    if name in _UNREACHABLE:
        return DeviceUnreachable(text)
    if name in _REFUSED or name.startswith(_REFUSED_PREFIXES):
        return DeviceRefused(text)
    if name.startswith(_UNREACHABLE_PREFIXES):
        return DeviceUnreachable(text)
    return DeviceError(text)


@contextmanager
def translated(context: str) -> Iterator[None]:
    """Re-raise what python-opcua and the socket raise in the block as a `DeviceError` that names ``context``."""
    try:
        yield
    except DeviceError:
        raise
    except ua.UaStatusCodeError as error:
        raise error_of_status(error.code, context) from error
    except (TimeoutError, concurrent.futures.TimeoutError) as error:
        raise DeviceUnreachable(f"{context}: no answer in time") from error
    except concurrent.futures.CancelledError as error:
        raise DeviceUnreachable(f"{context}: the link was closed") from error
    except OSError as error:
        raise DeviceUnreachable(f"{context}: {error.strerror or error}") from error
    except MALFORMED as error:
        raise DeviceProtocolError(f"{context}: the answer cannot be read ({type(error).__name__})") from error


def check_answer(body: Any, request: Any) -> None:
    """Look at the type of ``body``, a buffer that is not moved on: is it the answer to ``request``?

    Raises ``UaStatusCodeError`` for a fault and `DeviceProtocolError` for anything else: python-opcua would read the
    fields of one answer out of the bytes of another.
    """
    answer = body.copy()
    kind = nodeid_from_binary(answer)
    service = type(request).__name__.removesuffix("Request")
    if kind.Identifier == ua.ObjectIds.ServiceFault_Encoding_DefaultBinary:
        struct_from_binary(ua.ResponseHeader, answer).ServiceResult.check()
    wanted = getattr(ua.ObjectIds, f"{service}Response_Encoding_DefaultBinary")
    if (kind.NamespaceIndex, kind.Identifier) != (0, wanted):
        raise DeviceProtocolError(f"{service}: the server answered something else")


def one_line(text: str) -> str:
    """What a stranger wrote, fit for a log line: printable, at most 200 characters."""
    return "".join(char if char.isprintable() else " " for char in text[:200]).strip()
