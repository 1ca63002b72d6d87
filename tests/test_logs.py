"""Every line of the log is one JSON object, and no secret is in it."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
import structlog
from pydantic import SecretStr

from scada_trio.logs import StreamHandler, configure_logging, redact


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """What was logged; logging is as it was before when the test ends."""
    root = logging.getLogger()
    level = root.level
    stream = io.StringIO()
    configure_logging("DEBUG", "json", stream)
    yield stream
    for handler in [handler for handler in root.handlers if isinstance(handler, StreamHandler)]:
        root.removeHandler(handler)
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def without_pytest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave our handler only: pytest's own fail on records that ours must survive."""
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [handler for handler in root.handlers if isinstance(handler, StreamHandler)])


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_has_time_level_message_and_what_was_bound(stream: io.StringIO) -> None:
    tenant = UUID(int=7)
    with structlog.contextvars.bound_contextvars(tenant_id=str(tenant)):
        structlog.get_logger().warning("subscribed", connection_id=UUID(int=8), tags_count=np.int64(3))
    (line,) = lines(stream)
    assert list(line)[:3] == ["timestamp", "level", "message"]
    assert line["timestamp"].endswith("Z")
    assert datetime.fromisoformat(line["timestamp"]).utcoffset() is not None
    assert line | {"timestamp": ""} == {
        "timestamp": "",
        "level": "WARNING",
        "message": "subscribed",
        "logger": "tests.test_logs",
        "tenant_id": str(tenant),
        "connection_id": str(UUID(int=8)),
        "tags_count": 3,
    }


@pytest.mark.parametrize("name", ["yoyo", "hypercorn.error", "asyncio", "grpclib.server", "psycopg"])
def test_libraries_log_the_same_way(stream: io.StringIO, name: str) -> None:
    logging.getLogger(name).warning("lost %s of %d", "connection", 3)
    (line,) = lines(stream)
    assert (line["level"], line["message"], line["logger"]) == ("WARNING", "lost connection of 3", name)


@pytest.mark.parametrize("level", [logging.DEBUG, logging.WARNING, logging.ERROR])
def test_python_opcua_is_quiet(stream: io.StringIO, level: int) -> None:
    """Its warnings are of no consequence to a user, and its errors are told by ours."""
    logging.getLogger("opcua.client.client").log(level, "Requested secure channel timeout to be 1ms, got 2ms instead")
    assert not lines(stream)


def test_a_level_hides_what_is_below_it(stream: io.StringIO) -> None:
    configure_logging("ERROR", "json", stream)
    structlog.get_logger().warning("not shown")
    logging.getLogger("yoyo").warning("not shown")
    structlog.get_logger().error("shown")
    assert [line["message"] for line in lines(stream)] == ["shown"]


def test_warnings_are_lines_too(stream: io.StringIO) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old ways", DeprecationWarning, stacklevel=1)
    assert [(line["logger"], "old ways" in line["message"]) for line in lines(stream)] == [("py.warnings", True)]


def test_an_exception_is_one_string_without_secrets(stream: io.StringIO) -> None:
    password = "hunter2"
    try:
        raise ExceptionGroup("both", [ValueError(f"postgresql://scada:{password}@db/plant is away")])
    except ExceptionGroup:
        structlog.get_logger().exception("write failed")
        logging.getLogger("elsewhere").exception("write failed")
    for line in lines(stream):
        assert "ValueError" in line["exception"]
        assert "Traceback" in line["exception"]
        assert "hunter2" not in line["exception"]


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://scada:hunter2@db:5432/plant",
        "connecting to postgres://scada:hunter2@db, then waiting",
        "postgresql+psycopg://scada:pa/ss@hunter2@db/plant",
        "postgresql://:hunter2@/plant?host=/run",
        "postgresql://db/plant?user=scada&password=hunter2&sslmode=require",
        "host=db password=hunter2 dbname=plant",
        "host=db password = 'hun\\'ter2 hunter2' dbname=plant",
        "opc.tcp://operator:hunter2@device:4840/wells",
    ],
)
def test_passwords_in_urls_and_connection_strings_are_hidden(text: str) -> None:
    assert "hunter2" not in redact(text)
    assert "[redacted]" in redact(text)


@pytest.mark.parametrize(
    "text", ["opc.tcp://device:4840/a@b", "postgresql://db/plant", "mail to a@b.c: done", "retry=3 of 5", "ns=2;s=Key"]
)
def test_what_holds_no_secret_stays_as_it_is(text: str) -> None:
    assert redact(text) == text


def test_secrets_are_hidden_by_their_key_at_any_depth(stream: io.StringIO) -> None:
    structlog.get_logger().info(
        "configured",
        password="hunter2",
        ENCRYPTION_KEY=b"hunter2",
        database_url="hunter2",
        row={"api_token": "hunter2", "inner": [{"db_password": "hunter2", "name": "plant"}]},
        url=["postgresql://u:hunter2@db/x"],
        masked=SecretStr("hunter2"),
        keyboard="qwerty",
    )
    assert "hunter2" not in stream.getvalue()
    (line,) = lines(stream)
    assert line["keyboard"] == "qwerty"
    assert line["row"]["inner"][0]["name"] == "plant"


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no text")


def test_what_json_cannot_hold_does_not_break_the_line(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    without_pytest(monkeypatch)
    endless: list[object] = []
    endless.append(endless)
    structlog.get_logger().info(
        "odd", nan=float("nan"), raw=b"\xff", thing=Unprintable(), endless=endless, pairs={(1, 2): {3}}, path=Path("/x")
    )
    (line,) = lines(stream)
    assert (line["nan"], line["path"], line["pairs"]) == ("nan", "/x", {"(1, 2)": [3]})
    assert "RuntimeError" in line["thing"]


def test_a_record_with_wrong_arguments_leaves_a_line(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    without_pytest(monkeypatch)
    logging.getLogger("elsewhere").error("%d of %d", "hunter2")
    (line,) = lines(stream)
    assert (line["message"], line["logger"]) == ("a log record could not be formatted", "elsewhere")
    assert "hunter2" not in stream.getvalue()


def test_a_closed_stream_stops_nobody(stream: io.StringIO) -> None:
    stream.close()
    structlog.get_logger().info("into the void")


def test_text_for_people_shows_no_local_variables(stream: io.StringIO) -> None:
    configure_logging("INFO", "console", stream)
    local = "hunter2"
    try:
        raise ValueError(len(local))
    except ValueError:
        structlog.get_logger().exception("write failed", tenant_id="7f3a")
    printed = stream.getvalue()
    assert "write failed" in printed
    assert "tenant_id=7f3a" in printed
    assert "ValueError: 7" in printed
    assert "local = 'hunter2'" not in printed


def test_a_reader_that_leaves_does_not_end_the_process() -> None:
    program = (
        "import structlog; from scada_trio.logs import configure_logging; configure_logging('INFO')\n"
        "for number in range(20_000): structlog.get_logger().info('line', number=number)\n"
        "import sys; print('done', file=sys.stderr)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["number"] == 0
        process.stdout.close()
        assert process.stderr.read() == "done\n"
    assert process.returncode == 0
