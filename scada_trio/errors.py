"""The taxonomy of errors: what may be raised between the parts, and what each one asks of its catcher.

Third-party exceptions stop at their edge package (`opcua/`, `storage/`) and are re-raised ``from`` the original
as one of these. No message holds a secret.
"""

from __future__ import annotations

from collections.abc import Iterator


class ScadaError(Exception):
    """Base of every error that this service raises on purpose; its text is one line meant for a user."""


class ConfigError(ScadaError):
    """The service cannot start as it is configured. Exit status 2; names the variable at fault."""

    def __init__(self, variable: str, reason: str) -> None:
        super().__init__(f"{variable}: {reason}")
        self.variable = variable
        self.reason = reason


class DeviceError(ScadaError):
    """Base of what goes wrong between us and an OPC UA server; ``error_type`` is the metric label.

    ``status`` is the OPC UA status code where the server gave one.
    """

    error_type = "device"
    status: int | None = None


class DeviceUnreachable(DeviceError):
    """No answer, or the link broke: retry with back-off."""

    error_type = "unreachable"


class DeviceSilent(DeviceUnreachable):
    """Connected, but nothing came for longer than the keep-alive allows: drop the session, reconnect."""

    error_type = "silent"


class DeviceRefused(DeviceError):
    """The device said no (credentials, security, limits): retry slowly, show it in status."""

    error_type = "refused"


class CertificateRefused(DeviceRefused):
    """We do not accept the device's certificate: look again when the trust store has changed.

    ``error_type`` tells which check it did not pass; ``trust_version`` is the trust store's at that moment.
    """

    def __init__(self, message: str, error_type: str) -> None:
        super().__init__(message)
        self.error_type = error_type
        self.trust_version: object = None


class SecurityRefused(DeviceRefused):
    """The device does not offer the security that is configured, or refuses ours; ``error_type`` tells which."""

    def __init__(self, message: str, error_type: str) -> None:
        super().__init__(message)
        self.error_type = error_type


class DeviceProtocolError(DeviceError):
    """The device sent what the protocol does not allow: drop the session and start anew."""

    error_type = "protocol"


class DatabaseError(ScadaError):
    """Base of what goes wrong between us and PostgreSQL; ``sqlstate`` is None where the server gave none."""

    def __init__(self, message: str, sqlstate: str | None = None) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


class DatabaseUnavailable(DatabaseError):
    """Away, restarting, overloaded or in doubt: keep the batch, reconnect, retry."""


class DatabaseMisconfigured(DatabaseError):
    """It answers, but not as needed (login refused, no such database, not migrated): retry slowly, tell the user."""


class BatchRejected(DatabaseError):
    """The database will not take these rows (SQLSTATE class 22 or 23)."""


class JournalUnavailable(ScadaError):
    """The journal's file cannot be written or read now (disk full, no permission, used by another process): retry."""


class JournalFull(JournalUnavailable):
    """There is no room on the disk under it."""


class JournalCorrupt(ScadaError):
    """The journal's file is damaged: set it aside, save what can be read, go on."""


class UnknownTenant(ScadaError):
    """No such tenant, or none that may run."""


class UnknownConnection(ScadaError):
    """No such connection, or none that is active."""


class ConfigurationRefused(ScadaError):
    """A well-formed change of the configuration that cannot be carried out; the text says why."""


class IdTaken(ConfigurationRefused):
    """The id of a connection or tag is another tenant's."""


class NotPermitted(ScadaError):
    """The caller may not do this; ``reason`` is one of unknown_client, right, tenant, revoked."""

    def __init__(self, reason: str) -> None:
        super().__init__("this client may not do that")
        self.reason = reason


class TooManyCalls(ScadaError):
    """The caller has as many calls under way as it may have."""

    reason = "too_many_calls"


class TooManyWalks(ScadaError):
    """As many devices of this tenant are being looked at as may be at a time."""


class SecretError(ScadaError):
    """A stored secret cannot be read or written; says why and shows nothing of it."""


class InvalidField(ScadaError):
    """A field of a request, row or file that is not of its form; names the field."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors of a group, of groups in it too, in order; ``error`` itself where it is no group."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error
