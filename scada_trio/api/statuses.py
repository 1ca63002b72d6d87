"""Errors as gRPC statuses: the one table, and the details that a program can read beside the text.

Owns which status and which reason stand for which error. Knows no task and no loop; pure functions.

Every error carries a `google.rpc.ErrorInfo` of the domain ``scada-trio`` whose reason never changes its meaning; what
is wrong with a field is a `BadRequest` too, what does not exist a `ResourceInfo`, and what may be tried again a
`RetryInfo` (in the trailer ``grpc-status-details-bin``, https://google.aip.dev/193).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import trio
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, ResourceInfo, RetryInfo
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from scada_trio.errors import (
    ConfigurationRefused,
    DatabaseError,
    DatabaseMisconfigured,
    DatabaseUnavailable,
    DeviceError,
    DeviceUnreachable,
    InvalidField,
    NotPermitted,
    TooManyCalls,
    TooManyWalks,
    UnknownConnection,
    UnknownTenant,
    leaves,
)

DOMAIN: Final = "scada-trio"
_RETRY_AFTER_S: Final = 1
_QUERY_CANCELED: Final = "57014"  # PostgreSQL, appendix A: here the statement timeout

# The first that matches counts. What is not here is a bug of ours: INTERNAL, and nothing of it leaves the process.
_STATUSES: Final[tuple[tuple[type[Exception], Status, str], ...]] = (
    (InvalidField, Status.INVALID_ARGUMENT, "INVALID_FIELD"),
    (DecodeError, Status.INVALID_ARGUMENT, "MALFORMED_REQUEST"),
    (NotPermitted, Status.PERMISSION_DENIED, "NOT_PERMITTED"),
    (TooManyCalls, Status.RESOURCE_EXHAUSTED, "TOO_MANY_CALLS"),
    (TooManyWalks, Status.RESOURCE_EXHAUSTED, "TOO_MANY_WALKS"),
    (UnknownTenant, Status.NOT_FOUND, "TENANT_NOT_FOUND"),
    (UnknownConnection, Status.NOT_FOUND, "CONNECTION_NOT_FOUND"),
    (ConfigurationRefused, Status.FAILED_PRECONDITION, "CONFIGURATION_REFUSED"),
    (DatabaseUnavailable, Status.UNAVAILABLE, "DATABASE_UNAVAILABLE"),
    (DatabaseMisconfigured, Status.FAILED_PRECONDITION, "DATABASE_MISCONFIGURED"),
    (DatabaseError, Status.UNAVAILABLE, "DATABASE_UNAVAILABLE"),
    (DeviceUnreachable, Status.UNAVAILABLE, "DEVICE_UNREACHABLE"),
    (DeviceError, Status.FAILED_PRECONDITION, "DEVICE_REFUSED"),
    (trio.TooSlowError, Status.DEADLINE_EXCEEDED, "TOO_SLOW"),
)
_TEXTS: Final[Mapping[type[Exception], str]] = {
    DecodeError: "the request is not a message of this method",
    trio.TooSlowError: "the answer took too long",
}
_STOPPED_BY_DATABASE: Final = (
    "the database stopped the query at DB_STATEMENT_TIMEOUT_MS; ask for a shorter range, for fewer tags or wells, or "
    "for a coarser resolution"
)
_RESOURCES: Final[Mapping[type[BaseException], str]] = {UnknownTenant: "tenant", UnknownConnection: "connection"}
_ID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")

# What the API itself refuses, before any method has seen it.
_OWN_REASONS: Final[Mapping[Status, str]] = {
    Status.INVALID_ARGUMENT: "MALFORMED_REQUEST",
    Status.RESOURCE_EXHAUSTED: "MESSAGE_TOO_LARGE",
    Status.UNIMPLEMENTED: "COMPRESSION_UNSUPPORTED",
    Status.UNAVAILABLE: "SERVICE_STOPPING",
    Status.INTERNAL: "INTERNAL",
}


def as_grpc_error(error: BaseException) -> GRPCError | None:
    """The status that ``error`` is answered with, groups unwrapped; None where it is not in the table."""
    found: GRPCError | None = None
    for leaf in leaves(error):
        status = with_reason(leaf) if isinstance(leaf, GRPCError) else _looked_up(leaf)
        if status is None:
            return None  # a bug beside an expected error is still a bug
        found = found or status
    return found


def with_reason(error: GRPCError) -> GRPCError:
    """An error of the API's own with its reason; any other as it is."""
    reason = _OWN_REASONS.get(error.status)
    if error.details is not None or reason is None:
        return error
    return _grpc_error(error.status, error.message or "", reason)


def _looked_up(error: BaseException) -> GRPCError | None:
    if isinstance(error, DatabaseUnavailable) and error.sqlstate == _QUERY_CANCELED:
        return _grpc_error(Status.DEADLINE_EXCEEDED, _STOPPED_BY_DATABASE, "STATEMENT_TIMEOUT")
    for kind, status, reason in _STATUSES:
        if isinstance(error, kind):
            return _grpc_error(status, _TEXTS.get(kind, str(error)), reason, *_about(error))
    return None


def _grpc_error(status: Status, text: str, reason: str, *details: Message) -> GRPCError:
    info = ErrorInfo(reason=reason, domain=DOMAIN)
    retry = [RetryInfo(retry_delay=Duration(seconds=_RETRY_AFTER_S))] if status is Status.UNAVAILABLE else []
    return GRPCError(status, text, [info, *details, *retry])


def _about(error: BaseException) -> tuple[Message, ...]:
    if isinstance(error, InvalidField):
        violation = BadRequest.FieldViolation(field=error.field, description=error.reason)
        return (BadRequest(field_violations=[violation]),)
    kind = _RESOURCES.get(type(error))
    if kind is None:
        return ()
    found = _ID.search(str(error))  # such an error's text names what it is about
    return (ResourceInfo(resource_type=kind, resource_name=found[0] if found else "", description=str(error)),)
