"""How connections treat their devices."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings

from scada_trio.variables.about import About, Milliseconds


class DeviceVariables(BaseSettings):
    """Devices."""

    opc_connection_timeout_ms: Annotated[
        Milliseconds,
        About(
            "milliseconds",
            "Time for a device to accept a connection, and to answer each request.",
        ),
    ] = 10_000
    opc_session_timeout_ms: Annotated[
        Milliseconds,
        About(
            "milliseconds",
            "How long a device is asked to keep a session without a sign of life from us.",
        ),
    ] = 60_000
    opc_max_reconnect_attempts: Annotated[
        int,
        Field(ge=0, le=1_000_000),
        About(
            "attempts",
            "Failures in a row after which a connection is `failed` and tried every 5 minutes. 0: it never is, "
            "and goes on at the usual pace.",
        ),
    ] = 5
    opc_reconnect_delay_ms: Annotated[
        Milliseconds,
        About(
            "milliseconds",
            "Bound of the first delay between attempts. The bound doubles up to 60 s; each delay is drawn between "
            "0 and the bound, so that a thousand devices do not come back in the same moment.",
        ),
    ] = 5_000
    opc_publishing_interval_ms: Annotated[
        Milliseconds,
        About(
            "milliseconds",
            "How often a device is asked to report.",
        ),
    ] = 1_000
    opc_sampling_interval_ms: Annotated[
        int,
        Field(ge=0, le=86_400_000),
        About(
            "milliseconds",
            "How often a device is asked to look at each value. Below the publishing interval several values of a "
            "tag come in one report, as many as `OPC_QUEUE_SIZE`. 0: as often as the device can.",
        ),
    ] = 1_000
    opc_keep_alive_ms: Annotated[
        Milliseconds,
        About(
            "milliseconds",
            "A device without news is asked to say so this often. One that is silent for two and a half times as "
            "long is taken for gone, and connected anew.",
        ),
    ] = 5_000
    opc_queue_size: Annotated[
        int,
        Field(ge=1, le=1_000_000),
        About(
            "values",
            "What a device is asked to keep of each tag while we hold it back or are away. Devices may keep less.",
        ),
    ] = 10
    opc_discard_oldest: Annotated[
        bool,
        About(
            "one of",
            "What a full queue throws away: `true` the oldest value; `false` the last one queued, whose place the "
            "new one takes.",
        ),
    ] = True
