"""Losses in a tenant's database: each once, and found again."""

from __future__ import annotations

from uuid import UUID

import trio
from pydantic import SecretStr

from scada_trio.losses import Loss, LossReason
from scada_trio.storage.query import open_reader
from scada_trio.storage.tenant_db import open_tenant_writer
from tests.fix_postgres import fetch
from tests.storage_samples import BUFFER, NOON_US, tag_table

LINK = UUID("66666666-6666-4666-8666-666666666666")
GAP = Loss(LossReason.SEQUENCE_GAP, LINK, NOON_US, NOON_US + 1, None, "numbers 7 to 9")
OVERFLOW = Loss(LossReason.QUEUE_OVERFLOW, LINK, NOON_US + 5, NOON_US + 6, 12)
FULL = Loss(LossReason.JOURNAL_FULL, None, -(2**63), 2**63 - 1, 1_000_000, "a\0b \ud800")
FULL_STORED = Loss(
    LossReason.JOURNAL_FULL,
    None,
    -62_135_596_800_000_000,
    253_402_300_799_999_999,
    1_000_000,
    "a\\x00b \\ud800",
)


async def test_losses_are_stored_once(tenant_url: SecretStr) -> None:
    """Told again, as after a commit in doubt, they are there already; a time too far away is as far as it goes."""
    async with open_tenant_writer(tenant_url, tag_table(), connect_timeout_s=5, statement_timeout_s=30) as writer:
        await writer.write_losses([], BUFFER)
        await writer.write_losses([(1, GAP), (2, OVERFLOW)], BUFFER)
        await writer.write_losses([(2, OVERFLOW), (3, FULL)], BUFFER)
        await writer.write_losses([(1, GAP)], LINK)  # of another journal
    assert fetch(tenant_url, "SELECT count(*) FROM scada_loss") == [(4,)]
    async with open_reader(
        tenant_url, limiter=trio.CapacityLimiter(1), connect_timeout_s=5, statement_timeout_s=30
    ) as reader:
        assert [row.loss for row in await reader.read_losses()] == [GAP, FULL_STORED, OVERFLOW, GAP]
        assert [row.loss for row in await reader.read_losses(LINK)] == [GAP, OVERFLOW, GAP]
        assert [row.loss for row in await reader.read_losses(LINK, NOON_US + 5)] == [OVERFLOW]
        assert [row.loss for row in await reader.read_losses(limit=2)] == [GAP, FULL_STORED]
