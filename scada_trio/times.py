"""Times as µs since 1970, UTC, and as datetimes: the way from one to the other, whatever a device says.

Pure functions; starts nothing. A datetime goes from year 1 to 9999, int64 µs go 290,000 years either way.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

FIRST_US: Final = -62_135_596_800_000_000
"""0001-01-01, the first moment that a datetime can be."""
LAST_US: Final = 253_402_300_799_999_999
"""The last one, at the end of 9999."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def moment(time_us: int) -> datetime:
    """The datetime, in UTC; what no datetime can be is the first or the last one."""
    return _EPOCH + timedelta(microseconds=min(max(time_us, FIRST_US), LAST_US))


def microseconds(at: datetime) -> int:
    """µs since 1970, exactly; ``at`` has a time zone."""
    return (at - _EPOCH) // timedelta(microseconds=1)


def iso(time_us: int) -> str:
    """ISO 8601 with µs, UTC, of `moment`."""
    return moment(time_us).isoformat(timespec="microseconds")
