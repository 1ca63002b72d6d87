"""Log output: one JSON object a line, or coloured text for a person; no secret in either.

Owns structlog's and the standard library's logging configuration; `configure_logging` is called once, by the command
line, before anything else. Everybody else says ``log = structlog.get_logger()`` and knows nothing of this.

    structlog ──┐
                ├─► shared processors ─► redaction ─► JSON or text ─► one handler ─► stream
    logging ────┘   (opcua, grpclib, hypercorn, yoyo, psycopg, asyncio, warnings)
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import sys
from collections.abc import Mapping, MutableMapping
from datetime import UTC, datetime
from numbers import Integral
from typing import Any, Final, Literal, TextIO

import structlog
from structlog.types import EventDict, Processor

_HIDDEN: Final = "[redacted]"
_MAX_DEPTH: Final = 6

# Least severity of libraries that say too much below it. python-opcua warns of what is of no consequence (a timeout
# that the server revised) and repeats as errors what our own package reports with tenant and connection.
_LIBRARY_LEVELS: Final = {"opcua": logging.CRITICAL, "yoyo": logging.WARNING, "hypercorn": logging.WARNING}

_SECRET_KEY = re.compile(r"(?:^|[_.-])(?:password|passwd|secret|key|token|database_url)$", re.IGNORECASE)
_POSTGRES_URL = re.compile(r"(?P<before>\bpostgres(?:ql)?(?:\+\w+)?://[^\s:/@'\"]*:)[^\s'\"]*@", re.IGNORECASE)
_OTHER_URL = re.compile(r"(?P<before>\b[a-z][a-z0-9+.-]*://[^\s:/@'\"]*:)[^\s/'\"]*@", re.IGNORECASE)
_ASSIGNED = re.compile(
    r"(?P<before>\b(?:password|passwd|secret|token|encryption_key)\s*=\s*)(?:'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|[^\s&;,)]+)",
    re.IGNORECASE,
)


def configure_logging(level: str, fmt: Literal["json", "console"] = "json", stream: TextIO | None = None) -> None:
    """Send all logs of the process, of ``level`` or above, to ``stream`` (standard output by default).

    A JSON line has ``timestamp`` (ISO 8601, UTC), ``level``, ``message`` and ``logger`` first, then what was bound;
    an exception is one string. Calling it again replaces the earlier configuration.
    """
    stream = sys.stdout if stream is None else stream
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        _add_timestamp,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_last_steps(fmt, stream)],
    )
    _install(StreamHandler(stream, formatter), level)


def redact(text: str) -> str:
    """``text`` without the passwords that URLs, connection strings and assignments in it carry."""
    if "://" in text:
        text = _POSTGRES_URL.sub(rf"\g<before>{_HIDDEN}@", text)
        text = _OTHER_URL.sub(rf"\g<before>{_HIDDEN}@", text)
    if "=" in text:
        text = _ASSIGNED.sub(rf"\g<before>{_HIDDEN}", text)
    return text


def redact_secrets(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Processor: every value plain (what JSON knows), no string with a password, no secret under its key."""
    return {str(key): _plain_value(key, value) for key, value in event.items()}


class StreamHandler(logging.Handler):
    """Writes lines to a stream that may break: a service does not end because nobody reads its log."""

    def __init__(self, stream: TextIO, formatter: logging.Formatter) -> None:
        super().__init__()
        self.stream = stream
        self.setFormatter(formatter)

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`. Nothing is raised: a record that cannot be formatted says so in its place."""
        try:
            line = self.format(record)
        except Exception as error:  # noqa: BLE001 - the hook that logging calls; it must not raise
            line = json.dumps(
                {
                    "timestamp": _now(),
                    "level": "ERROR",
                    "message": "a log record could not be formatted",
                    "logger": record.name,
                    "error": type(error).__name__,
                }
            )
        try:
            self._write(line)
        except BrokenPipeError:
            self._forget_pipe()
        except (OSError, ValueError):  # full disk, closed stream
            pass

    def _write(self, line: str) -> None:
        try:
            self.stream.write(line + "\n")
        except UnicodeEncodeError:
            self.stream.write(line.encode("ascii", "backslashreplace").decode() + "\n")
        self.stream.flush()

    def _forget_pipe(self) -> None:
        """Let what is left in the buffer go nowhere, or the interpreter complains about it at its end."""
        if self.stream is sys.__stdout__:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.stream.fileno())
            os.close(nowhere)


def _install(handler: logging.Handler, level: str) -> None:
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old, StreamHandler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    for name, least in _LIBRARY_LEVELS.items():
        logging.getLogger(name).setLevel(max(least, logging.getLevelName(level)))
    logging.captureWarnings(True)


def _last_steps(fmt: str, stream: TextIO) -> list[Processor]:
    if fmt == "console":
        renderer = structlog.dev.ConsoleRenderer(
            colors=stream.isatty() and not os.environ.get("NO_COLOR"),
            # the default prints local variables, secrets included
            exception_formatter=structlog.dev.plain_traceback,
        )
        return [structlog.processors.format_exc_info, redact_secrets, renderer]
    return [
        structlog.processors.format_exc_info,
        redact_secrets,
        structlog.processors.EventRenamer("message"),
        _common_fields_first,
        structlog.processors.JSONRenderer(),
    ]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _add_timestamp(_logger: Any, _method: str, event: EventDict) -> EventDict:
    event["timestamp"] = _now()
    return event


def _common_fields_first(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> EventDict:
    first = {
        "timestamp": event.pop("timestamp", None),
        "level": str(event.pop("level", "")).upper(),
        "message": event.pop("message", ""),
    }
    return {**first, **event}


def _plain_value(key: object, value: object, depth: int = 0) -> object:
    if value is not None and not isinstance(value, Mapping) and _SECRET_KEY.search(str(key)):
        return _HIDDEN
    if isinstance(value, str):
        return redact(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(value)
    if depth < _MAX_DEPTH:
        if isinstance(value, Mapping):
            return {str(inner): _plain_value(inner, item, depth + 1) for inner, item in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [_plain_value("", item, depth + 1) for item in value]
    return redact(_text(value))


def _text(value: object) -> str:
    try:
        return str(value)
    except Exception as error:  # noqa: BLE001 - whatever is logged, a log call does not fail
        return f"<{type(value).__name__} whose text raised {type(error).__name__}>"
