"""Multi-tenant SCADA ingestion on Trio: OPC UA subscriptions in, TimescaleDB out."""

# grpclib binds asyncio.current_task when it is imported; trio_asyncio replaces it. The order decides
# whether any call works at all on Python 3.12 and later, so it is settled here, before anything else.
import trio_asyncio as _trio_asyncio

__version__ = "0.1.0"
__all__ = ["__version__"]
_ = _trio_asyncio
