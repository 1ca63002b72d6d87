"""Times as µs and as datetimes."""

from __future__ import annotations

import pytest

from scada_trio.times import FIRST_US, LAST_US, iso, microseconds, moment


@pytest.mark.parametrize("time_us", [FIRST_US, -1, 0, 1, 1_764_000_000_000_001, LAST_US])
def test_there_and_back_is_exact(time_us: int) -> None:
    """To the µs, over all that a datetime can be."""
    assert microseconds(moment(time_us)) == time_us


def test_what_no_calendar_has_is_its_end() -> None:
    """A device may say anything that fits 64 bits."""
    assert iso(-(2**63)) == "0001-01-01T00:00:00.000000+00:00"
    assert iso(2**63 - 1) == "9999-12-31T23:59:59.999999+00:00"
