"""The whole: top nursery, start order, supervision of tenants, shutdown.

    nursery of the service
      ├─ event loop lag         measured
      ├─ free memory            given back to the system
      ├─ HTTP server            first up, last down
      ├─ certificates           trust store followed, our own renewed
      ├─ denied calls           written to the audit log
      ├─ gRPC server            drains when asked to stop
      ├─ listener on NOTIFY ──┐
      └─ nursery of the tenants
           ├─ reconciliation ◄┘ every interval, after NOTIFY and after a change through the API
           └─ one supervised task a tenant

One of the two supervision points of the project is here: whatever ends a tenant is logged, counted, and the tenant is
started again with back-off; no other tenant notices.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Literal
from uuid import UUID

import structlog
import trio

from scada_trio.aggregator import CommitPace
from scada_trio.allocator import give_back
from scada_trio.answers import Answers
from scada_trio.api.access import Access
from scada_trio.api.backend import Health
from scada_trio.api.server import serve_grpc
from scada_trio.audit import Denial, DenialLog
from scada_trio.backoff import full_jitter
from scada_trio.config import Settings
from scada_trio.desired import TenantSpec
from scada_trio.errors import DatabaseError, ScadaError
from scada_trio.exploring import Explorer
from scada_trio.journal.file import prepare_directory
from scada_trio.loop_lag import measure_loop_lag
from scada_trio.master_state import MasterState
from scada_trio.metrics import Metrics
from scada_trio.opcua.pki import Pki
from scada_trio.registry import Registry
from scada_trio.secrets import SecretBox
from scada_trio.status import TenantSnapshot
from scada_trio.storage.master import MasterDatabase
from scada_trio.tenant import Tenant
from scada_trio.web.access import WebAccess
from scada_trio.web.app import create_app
from scada_trio.web.server import serve_http
from scada_trio.web.status import StatusBoard

log = structlog.get_logger()

_HARD_STOP_S = 3.0  # after the grace, for what does not obey its deadline


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the service listens, as (host, port)."""

    grpc: tuple[str, int]
    http: tuple[str, int]


class Service:
    """One process's tenants. ``master`` and ``settings`` are the caller's; `run` owns everything else."""

    def __init__(self, settings: Settings, master: MasterDatabase, secrets: SecretBox, metrics: Metrics) -> None:
        self._settings = settings
        self._master = master
        self._secrets = secrets
        self._metrics = metrics
        self._pki = Pki(settings.pki)
        self._registry = Registry(master, secrets)
        self._tenants: dict[UUID, Tenant] = {}
        self._unusable: dict[UUID, TenantSpec] = {}
        self._read_limiter = trio.CapacityLimiter(settings.db_max_connections)
        self._pace = CommitPace()
        self._wake = trio.Event()
        self._waiters: list[trio.Event] = []
        self._stopping = False
        self._master_state = MasterState(master)
        self._denials = DenialLog(master.record_denials)
        self._access = Access(settings.grpc_access, self._note_denied)
        self._web_access = WebAccess(settings.web_access)
        metrics.watch_certificates(self._certificate_ends)
        self._board = StatusBoard(self.snapshots)
        self._explorer = Explorer(settings.device, self._pki)
        self._answers = Answers(
            self._tenants,
            master,
            secrets,
            reconcile=self._reconcile_now,
            snapshots=self.snapshots,
            health=self.health,
            explorer=self._explorer,
        )

    async def run(
        self,
        *,
        stop: trio.Event,
        task_status: trio.TaskStatus[Addresses] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until ``stop`` is set, then drain within the grace and return; ``started`` passes the `Addresses`.

        Raises `ConfigError` where a port is taken, the journals' directory cannot be written or a certificate or the
        rights file cannot be used, `DatabaseError` where the configuration cannot be read at first.
        """
        settings = self._settings
        await trio.to_thread.run_sync(prepare_directory, settings.journal.directory)
        await trio.to_thread.run_sync(self._pki.prepare)
        await trio.to_thread.run_sync(self._access.load)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(measure_loop_lag, self._metrics.observe_loop_lag, name="event loop lag")
            nursery.start_soon(give_back, name="free memory")
            web = self._web_access
            app = create_app(self._metrics, self.readiness, self._board, web)
            serve = partial(serve_http, app, host=settings.metrics_host, port=settings.metrics_port, access=web)
            http = await nursery.start(serve, name="HTTP server")
            nursery.start_soon(self._pki.run, name="certificates")
            nursery.start_soon(self._explorer.run, name="walks")
            nursery.start_soon(self._denials.run, name="denied calls")
            # before the first reading: what changes in between is heard of
            await nursery.start(self._master.run_listener, self._wake_up, name="configuration listener")
            async with trio.open_nursery() as tenants:
                self._apply(await self._registry.load(), tenants)
                grpc_stop, grpc_done = trio.Event(), trio.Event()
                grpc = await nursery.start(self._run_grpc, grpc_stop, grpc_done, name="gRPC server")
                reconciliation = trio.CancelScope()
                tenants.start_soon(self._run_reconciliation, reconciliation, tenants, name="reconciliation")
                log.info("service started", tenants=len(self._tenants), grpc_port=grpc[1], metrics_port=http[1])
                task_status.started(Addresses(grpc, http))
                await stop.wait()
                log.info("service stopping", grace_ms=settings.shutdown_grace_ms)
                grace_s = settings.shutdown_grace_ms / 1000
                self._stopping = True
                self._board.close()
                reconciliation.cancel()
                self._release_waiters()
                grpc_stop.set()
                for tenant in self._tenants.values():
                    tenant.stop(grace_s)
                tenants.cancel_scope.deadline = trio.current_time() + grace_s + _HARD_STOP_S
            with trio.move_on_after(_HARD_STOP_S):
                await grpc_done.wait()
            await self._denials.finish()
            nursery.cancel_scope.cancel()
        log.info("service stopped")

    # --- how it is

    async def health(self, tenants: frozenset[UUID] | None = None) -> Health:
        """See `Backend`; the master database is asked at most once a second."""
        await self._master_state.ping()
        seen = {id_: tenant for id_, tenant in self._tenants.items() if tenants is None or id_ in tenants}
        unusable = [tenant_id for tenant_id in self._unusable if tenants is None or tenant_id in tenants]
        running = [tenant for tenant in seen.values() if tenant.state == "running"]
        status: Literal["healthy", "degraded", "unhealthy"] = "healthy"
        if self._master_state.error is not None or not running:
            status = "unhealthy"
        elif unusable or not all(tenant.healthy for tenant in seen.values()):
            status = "degraded"
        return Health(status, sum(tenant.connected for tenant in running), len(running))

    async def readiness(self) -> tuple[bool, Mapping[str, str]]:
        """Whether traffic should come here, and what speaks against it, by part."""
        await self._master_state.ping()
        reasons: dict[str, str] = {}
        if self._stopping:
            reasons["service"] = "stopping"
        if self._master_state.error is not None:
            reasons["master database"] = self._master_state.error
        for tenant_id, tenant in self._tenants.items():
            if tenant.state != "running":
                reasons[f"tenant {tenant_id}"] = tenant.state
        return not reasons, reasons

    def snapshots(self) -> Sequence[TenantSnapshot]:
        """Every tenant as it is now, those that cannot run included, by name."""
        unusable = [
            TenantSnapshot(spec.tenant_id, spec.name, "refused", {}, None, spec.problem)
            for spec in self._unusable.values()
        ]
        running = [tenant.snapshot() for tenant in self._tenants.values()]
        return sorted([*running, *unusable], key=lambda snapshot: snapshot.name)

    # --- tasks

    async def _run_grpc(
        self,
        stop: trio.Event,
        done: trio.Event,
        *,
        task_status: trio.TaskStatus[tuple[str, int]],
    ) -> None:
        settings = self._settings
        try:
            await serve_grpc(
                self._answers,
                host=settings.grpc_host,
                port=settings.grpc_port,
                max_message_bytes=settings.grpc_max_message_bytes,
                drain_s=settings.shutdown_grace_ms / 1000,
                stop=stop,
                token_key=self._secrets.derive_key("page tokens"),
                access=self._access,
                task_status=task_status,
            )
        finally:
            done.set()

    async def _run_reconciliation(self, scope: trio.CancelScope, tenants: trio.Nursery) -> None:
        """Apply the master database's state whenever something says that it changed, and every interval."""
        with scope:
            while True:
                with trio.move_on_after(self._settings.registry_interval_ms / 1000):
                    await self._wake.wait()
                self._wake = trio.Event()  # from here on a change is one for the next turn
                waiters, self._waiters = self._waiters, []
                try:
                    desired = await self._registry.load()
                except DatabaseError as error:
                    self._master_state.lost(str(error))
                else:
                    self._master_state.found()
                    self._apply(desired, tenants)
                for waiter in waiters:
                    waiter.set()

    async def _supervise(self, tenant: Tenant) -> None:
        structlog.contextvars.bind_contextvars(tenant_id=str(tenant.spec.tenant_id))
        for delay in full_jitter(1.0):
            try:
                await tenant.run()
            except Exception:  # supervision point: a tenant's failure stays its own
                log.exception("tenant failed, starting it again", retry_in_s=round(delay, 1))
                tenant.count_restart()
            if tenant.stopping:
                break
            await trio.sleep(delay)
        del self._tenants[tenant.spec.tenant_id]
        if not self._stopping:
            self._metrics.forget_tenant(tenant.spec.tenant_id)
            self._wake_up()  # it may be wanted again, with another database

    # --- state

    def _certificate_ends(self) -> Iterable[tuple[str, str, float]]:
        return chain(self._pki.expiries(), self._access.tls.expiries(), self._web_access.tls.expiries())

    def _note_denied(self, denial: Denial) -> None:
        self._metrics.grpc_denied(denial.reason).inc()
        self._denials.add(denial)

    def _apply(self, desired: Mapping[UUID, TenantSpec], tenants: trio.Nursery) -> None:
        """Start, change and stop tenants so that ``desired`` runs; what does not differ is left alone."""
        grace_s = self._settings.shutdown_grace_ms / 1000
        self._note_unusable({tenant_id: spec for tenant_id, spec in desired.items() if spec.problem})
        for tenant_id, tenant in self._tenants.items():
            spec = desired.get(tenant_id)
            if tenant.stopping:
                continue
            if spec is None or spec.problem or spec.database_url != tenant.spec.database_url:
                log.info("tenant stopping", tenant_id=str(tenant_id), reason=_stop_reason(spec))
                tenant.stop(grace_s)
            else:
                tenant.apply(spec)
        for tenant_id, spec in desired.items():
            if tenant_id not in self._tenants and not spec.problem:
                tenant = Tenant(
                    spec,
                    settings=self._settings,
                    pki=self._pki,
                    metrics=self._metrics,
                    read_limiter=self._read_limiter,
                    pace=self._pace,
                )
                self._tenants[tenant_id] = tenant
                tenants.start_soon(self._supervise, tenant, name=f"tenant {tenant_id}")
        self._pace.tenants = len(self._tenants)

    def _note_unusable(self, unusable: dict[UUID, TenantSpec]) -> None:
        for tenant_id, spec in unusable.items():
            known = self._unusable.get(tenant_id)
            if known is None or known.problem != spec.problem:
                log.error("tenant cannot run", tenant_id=str(tenant_id), tenant=spec.name, error=spec.problem)
        self._unusable = unusable

    def _wake_up(self) -> None:
        self._wake.set()

    async def _reconcile_now(self) -> None:
        if self._stopping:
            raise ScadaError("the service is stopping")
        done = trio.Event()
        self._waiters.append(done)
        self._wake_up()
        await done.wait()

    def _release_waiters(self) -> None:
        for waiter in self._waiters:
            waiter.set()


def _stop_reason(spec: TenantSpec | None) -> str:
    if spec is None:
        return "suspended, deleted or gone"
    return spec.problem or "its database changed"
