"""When a server that failed is asked again: what the judge's client and the evaluation's share."""

from __future__ import annotations

import datetime
import email.utils
import time

_MAY_PASS = (408, 409, 425, 429)  # and from 500 on; what was not understood once, never is
_LONGEST = 60.0  # seconds that a Retry-After can stop us for


def may_pass(status: int) -> bool:
    """Whether a request that failed with this HTTP status may succeed later."""
    return status in _MAY_PASS or status >= 500


def retry_after(value: str) -> float:
    """Seconds to wait by a Retry-After header, a number or a date; bounded, 0 if unreadable."""
    try:
        if value.strip().isdecimal():
            seconds = float(value)
        else:
            date = email.utils.parsedate_to_datetime(value)
            if date.tzinfo is None:
                date = date.replace(tzinfo=datetime.UTC)
            seconds = date.timestamp() - time.time()
    except (ValueError, OverflowError, TypeError):
        return 0.0
    return min(max(seconds, 0.0), _LONGEST)
