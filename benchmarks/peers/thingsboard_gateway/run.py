"""thingsboard-gateway into PostgreSQL: it speaks MQTT alone, so a broker takes what it sends and this process COPYs it.

    OPC UA ──► thingsboard-gateway ──► mosquitto ──► this process ──► PostgreSQL
                 a connector a well       v1/gateway/telemetry

This process starts the other two, each configured as its documentation has it, and ends them on SIGTERM. Messages are
acknowledged to the broker as they come; it keeps what waits. The gateway times a value in milliseconds.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
from paho.mqtt import client as mqtt

from benchmarks.peers.pipeline import COLUMNS, RETRY_S, Config, Row, Well, given_config, next_batch_blocking

log = logging.getLogger("pipeline")
COPY = f"COPY scada_readings ({', '.join(COLUMNS)}) FROM STDIN (FORMAT BINARY)"
TYPES = ["timestamptz", "float8", "uuid", "text", "text"]
TOPIC = "v1/gateway/telemetry"
REQUESTS = "v1/devices/me/rpc/request/"
# What ThingsBoard answers to getSessionLimits; the gateway sends nothing before it has that. No rate limits.
SESSION_LIMITS = {"maxPayloadSize": 65_536, "maxInflightMessages": 100, "rateLimits": {}, "gatewayRateLimits": {}}
BROKER = """\
listener {port} 127.0.0.1
allow_anonymous true
max_queued_messages 0
max_inflight_messages 0
"""


def main(config: Config) -> None:
    """Runs until it is told to stop."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    directory = config.directory / "thingsboard"
    directory.mkdir(parents=True, exist_ok=True)
    port = free_port()
    (directory / "mosquitto.conf").write_text(BROKER.format(port=port))
    write_gateway_configuration(directory / "config", config, port)
    with subprocess.Popen(["mosquitto", "-c", str(directory / "mosquitto.conf")]) as broker:
        rows: deque[Row] = deque()
        subscribe(port, rows)
        gateway = subprocess.Popen(
            [sys.executable, "-c", "from thingsboard_gateway.tb_gateway import daemon; daemon()"],
            cwd=directory,
            env={**os.environ, "TB_GW_CONFIG_DIR": str(directory / "config"), "TZ": "UTC", "PYTHONPATH": ""},
        )
        try:
            write_all(config, rows)
        finally:
            gateway.kill()
            broker.terminate()


def write_gateway_configuration(directory: Path, config: Config, port: int) -> None:
    """A connector for each well, subscribed, timed by the device, with none of the cloud's rate limits."""
    directory.mkdir(exist_ok=True)
    gateway = {
        "thingsboard": {
            "host": "127.0.0.1",
            "port": port,
            "remoteShell": False,
            "remoteConfiguration": False,
            "statistics": {"enable": False},
            "maxPayloadSizeBytes": 65_536,
            "minPackSendDelayMS": 50,
            "minPackSizeToSend": 500,
            "qos": 1,
            "reportStrategy": {"type": "ON_RECEIVED"},
            "security": {"type": "accessToken", "accessToken": "bench"},
            **dict.fromkeys(RATE_LIMITS, "0:0,"),
        },
        "storage": {"type": "memory", "read_records_count": 1000, "max_records_count": 1_000_000},
        "grpc": {"enabled": False},
        "connectors": [],
    }
    for number, well in enumerate(config.wells):
        name = f"opcua{number}"
        gateway["connectors"].append({"name": name, "type": "opcua", "configuration": f"{name}.json"})  # type: ignore[attr-defined]
        (directory / f"{name}.json").write_text(json.dumps(connector(well)))
    (directory / "tb_gateway.json").write_text(json.dumps(gateway))
    (directory / "logs.json").write_text(json.dumps(LOGS))


RATE_LIMITS = (
    "rateLimits",
    "dpRateLimits",
    "messagesRateLimits",
    "deviceMessagesRateLimits",
    "deviceRateLimits",
    "deviceDpRateLimits",
)
LOGS = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "%(levelname)s %(name)s %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "plain", "level": "WARNING"}},
    "loggers": {},
    "root": {"level": "WARNING", "handlers": ["console"]},
}


def connector(well: Well) -> dict[str, Any]:
    """The connector of one well: its device is named by the well's id, a value by its node id."""
    folder = well.node_ids[0].partition(";")[2].partition("=")[2].partition(".")[0]
    return {
        "logLevel": "WARNING",
        "server": {
            "url": well.endpoint_url,
            "timeoutInMillis": 10_000,
            "scanPeriodInMillis": 3_600_000,
            "enableSubscriptions": True,
            "subCheckPeriodInMillis": 100,  # its default: it asks for a queue of one value, so reports must come often
            "subDataMaxBatchSize": 1000,
            "subDataMinBatchCreationTimeMs": 200,
            "showMap": False,
            "security": "None",
            "identity": {"type": "anonymous"},
        },
        "mapping": [
            {
                "deviceNodeSource": "identifier",
                "deviceNodePattern": f"ns=2;s={folder}",
                "deviceInfo": {
                    "deviceNameExpression": str(well.well_id),
                    "deviceNameExpressionSource": "constant",
                    "deviceProfileExpression": "default",
                    "deviceProfileExpressionSource": "constant",
                },
                "attributes": [],
                "timeseries": [
                    {
                        "key": node_id,
                        "type": "identifier",
                        "value": f"${{{node_id}}}",
                        "timestampLocation": "sourceTimestamp",
                    }
                    for node_id in well.node_ids
                ],
            }
        ],
    }


def subscribe(port: int, rows: deque[Row]) -> None:
    """Put what comes into the queue of rows; returns when the broker knows that we want it, before anybody asks."""
    subscribed = threading.Event()

    def take(client: mqtt.Client, _userdata: Any, message: mqtt.MQTTMessage) -> None:
        if message.topic.startswith(REQUESTS):
            client.publish(message.topic.replace("request", "response"), json.dumps(SESSION_LIMITS))
            return
        for device, entries in json.loads(message.payload).items():
            well_id = UUID(device)
            for entry in entries:
                at = datetime.fromtimestamp(entry["ts"] / 1000, UTC)
                rows.extend((at, float(value), well_id, key, "Good") for key, value in entry["values"].items())

    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, "subscriber")
    client.on_message = take
    client.on_connect = lambda *_: client.subscribe([(TOPIC, 1), (REQUESTS + "+", 1)])
    client.on_subscribe = lambda *_: subscribed.set()
    client.connect_async("127.0.0.1", port)
    client.reconnect_delay_set(1, 1)
    thread = threading.Thread(target=lambda: client.loop_forever(retry_first_connection=True), daemon=True)
    thread.start()
    subscribed.wait()


def write_all(config: Config, rows: deque[Row]) -> None:
    """Batch after batch, each until it is there; returns never."""
    connection: psycopg.Connection[Any] | None = None
    while True:
        batch = next_batch_blocking(rows, config)
        while batch:
            try:
                connection = connection or psycopg.connect(config.database_url, autocommit=True)
                with connection.cursor() as cursor, cursor.copy(COPY) as copy:
                    copy.set_types(TYPES)
                    for row in batch:
                        copy.write_row(row)
            except psycopg.errors.UniqueViolation:
                log.warning("a batch is there already")
            except psycopg.OperationalError as error:
                log.warning("database: %s, again in %g s", str(error).strip(), RETRY_S)
                connection = None
                time.sleep(RETRY_S)
                continue
            break


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    main(given_config())
