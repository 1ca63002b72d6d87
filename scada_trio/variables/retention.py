"""How long readings are kept, and which are taken."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings

from scada_trio.variables.about import About, Days, RollupDays


class RetentionVariables(BaseSettings):
    """Readings kept."""

    raw_retention_days: Annotated[
        Days,
        About(
            "days",
            "Readings older than this are dropped, whole chunks or days at a time. 0: never. Without TimescaleDB "
            "the service drops them, as its own variable says.",
        ),
    ] = 730
    compress_after_days: Annotated[
        Days,
        About(
            "days",
            "Age at which TimescaleDB compresses a chunk. 0: never.",
        ),
    ] = 7
    chunk_interval_hours: Annotated[
        int,
        Field(ge=1, le=744),
        About(
            "hours",
            "What one chunk of TimescaleDB spans; those that exist stay as they are. Native partitions are always "
            "days.",
        ),
    ] = 24
    hourly_retention_days: Annotated[
        RollupDays,
        About(
            "days",
            "How long TimescaleDB keeps `scada_readings_hourly`. 0: for good.",
            range="0, 180 to 36,500",
        ),
    ] = 0
    daily_retention_days: Annotated[
        RollupDays,
        About(
            "days",
            "The same of `scada_readings_daily`.",
            range="0, 180 to 36,500",
        ),
    ] = 0
    monthly_retention_days: Annotated[
        RollupDays,
        About(
            "days",
            "The same of `scada_readings_monthly`.",
            range="0, 180 to 36,500",
        ),
    ] = 0
    reading_max_age_days: Annotated[
        Days,
        About(
            "days",
            "A reading that is older when it is written goes to the quarantine. 0: what `RAW_RETENTION_DAYS` "
            "says, which is the bound in any case; times before 2000 are always refused.",
        ),
    ] = 0
    heartbeat_interval_ms: Annotated[
        int,
        Field(ge=0, le=86_400_000),
        About(
            "milliseconds",
            "How often the last reading of every tag is stored again in `scada_heartbeats`, with whether its "
            "device is connected and when it was last heard; see [heartbeats](storage.md#heartbeats). 0: never.",
        ),
    ] = 0
    heartbeat_retention_days: Annotated[
        int,
        Field(ge=1, le=36_500),
        About(
            "days",
            "How long heartbeats are kept.",
        ),
    ] = 7
    reading_max_ahead_hours: Annotated[
        int,
        Field(ge=1, le=8760),
        About(
            "hours",
            "A reading that is farther ahead of both the service's and the database's clock goes to the quarantine.",
        ),
    ] = 168
    quarantine_max_rows: Annotated[
        int,
        Field(ge=0, le=1_000_000_000),
        About(
            "rows",
            "How many refused readings a tenant's `scada_quarantine` keeps. What is refused when it is full is "
            "lost: counted, and a row of `scada_loss` with reason `quarantine_full`.",
        ),
    ] = 100_000
