"""Changes of the configuration are heard, and a restart of the server is lived through."""

from __future__ import annotations

from functools import partial

import pytest
import trio
from pydantic import SecretStr

from scada_trio.errors import DatabaseUnavailable
from tests.fix_postgres import PostgresServer, fetch
from tests.master_samples import SECRET_URL, TENANT, connection_spec, open_master_database


async def test_a_restart_of_the_server(own_postgres: PostgresServer) -> None:
    """Away while it is away; the first call afterwards works."""
    master = open_master_database(own_postgres.create_master())
    await master.ping()
    with own_postgres.stopped(), pytest.raises(DatabaseUnavailable):
        await master.ping()
    await master.ping()
    await trio.to_thread.run_sync(own_postgres.kill)
    await trio.to_thread.run_sync(own_postgres.start)
    await master.ping()
    master.close()


class _Changes:
    """Waits for calls of ``on_change``."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def happened(self) -> None:
        self._event.set()

    async def wait(self) -> None:
        with trio.fail_after(60):
            await self._event.wait()
        self._event = trio.Event()


async def test_changes_are_heard(master_url: SecretStr, nursery: trio.Nursery) -> None:
    """Ours, those of other programs on our tables, and a plain NOTIFY."""
    master = open_master_database(master_url)
    await master.add_tenant(TENANT, "acme", SECRET_URL)
    changes = _Changes()
    await nursery.start(master.run_listener, changes.happened)
    store = partial(master.store_connection, connection_spec(), None)
    await store()
    await changes.wait()
    fetch(master_url, "UPDATE scada_connections SET is_active = false")
    await changes.wait()
    fetch(master_url, "NOTIFY scada_config")
    await changes.wait()
    nursery.cancel_scope.cancel()
    master.close()


async def test_changes_are_heard_after_a_restart(own_postgres: PostgresServer, nursery: trio.Nursery) -> None:
    """The listener comes back by itself, and says so, since a word may have been missed."""
    url = own_postgres.create_master()
    changes = _Changes()
    await nursery.start(open_master_database(url).run_listener, changes.happened)
    await trio.to_thread.run_sync(own_postgres.kill)
    await trio.to_thread.run_sync(own_postgres.start)
    await changes.wait()
    fetch(url, "NOTIFY scada_config")
    await changes.wait()
    nursery.cancel_scope.cancel()


async def test_a_listener_starts_without_a_database(own_postgres: PostgresServer, nursery: trio.Nursery) -> None:
    """It reports itself started, and hears when the database is there."""
    url = own_postgres.create_master()
    changes = _Changes()
    with own_postgres.stopped():
        await nursery.start(open_master_database(url).run_listener, changes.happened)
    await changes.wait()
    nursery.cancel_scope.cancel()
