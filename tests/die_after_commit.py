"""A tenant with one device, killed in the moment after a transaction that accepts readings: nothing comes after it.

    python -m tests.die_after_commit '{"database", "device", "journal", "tenant", "connection", "at"}'

It writes "accepted [values]" for every transaction with readings, and is gone with the one of number ``at`` (0: never)
of those that have a remembered subscription in the file.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any
from uuid import UUID

import trio
from pydantic import SecretStr

from scada_trio.aggregator import CommitPace
from scada_trio.config import Settings
from scada_trio.desired import ConnectionSpec, TenantSpec
from scada_trio.journal.file import JournalFile, Space, Work, prepare_directory
from scada_trio.metrics import Metrics
from scada_trio.opcua.pki import Pki
from scada_trio.readings import Tag
from scada_trio.tenant import Tenant

SETTINGS: dict[str, Any] = {
    "opc_publishing_interval_ms": 50,
    "opc_sampling_interval_ms": 50,
    "opc_keep_alive_ms": 500,
    "opc_reconnect_delay_ms": 50,
    "opc_queue_size": 1000,
    "aggregation_buffer_ms": 50,
}
WELL = UUID(int=1)


def die_after(number: int) -> None:
    """SIGKILL behind the commit itself, in the thread that made it, before the loop hears of it."""
    real, seen = JournalFile.commit, 0

    def commit(self: JournalFile, work: Work) -> Space:
        nonlocal seen
        space = real(self, work)
        if work.records:
            seen += bool(self.contents().subscriptions)
            values = [value for record in work.records for value in record.block.value.tolist()]
            os.write(sys.stdout.fileno(), b"accepted %s\n" % json.dumps(values).encode())
            if number and seen == number:
                os.kill(os.getpid(), signal.SIGKILL)
        return space

    JournalFile.commit = commit  # type: ignore[method-assign]


async def main(given: dict[str, Any]) -> None:
    tenant_id, connection_id = UUID(given["tenant"]), UUID(given["connection"])
    directory = Path(given["journal"])
    prepare_directory(directory)
    tags = (Tag(UUID(int=2), WELL, "ns=1;s=a"),)
    connection = ConnectionSpec(connection_id, tenant_id, "device", given["device"], tags=tags)
    settings = Settings.load(**SETTINGS, journal_dir=directory)
    tenant = Tenant(
        TenantSpec(tenant_id, "tenant", SecretStr(given["database"]), {connection_id: connection}),
        settings=settings,
        pki=Pki(settings.pki),
        metrics=Metrics(),
        read_limiter=trio.CapacityLimiter(1),
        pace=CommitPace(),
    )
    die_after(given["at"])
    await tenant.run()


if __name__ == "__main__":
    trio.run(main, json.loads(sys.argv[1]))
