"""The account of a file: how long its audio is, where some is missing, what nobody reads."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

#: How much less than a file's own account may be decoded, or be missing at one place, before it
#: counts as a loss: no word fits in so little (:class:`schema.settings.Limits` refuses recordings
#: that are shorter), and encoders' delays, padding of blocks, rounded clocks and sizes that count
#: a header all stay below. It is a time and no share, so that it is the same in the longest call.
TOLERANCE_MS = 100

#: Who joins later than this joined another recording, of which this is a part: its clock is that
#: of a broadcast, or of an epoch, and what lies before its start was never recorded.
LATEST_START_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class Break:
    """A place where audio is missing: when on the recording's clock, and how that shows.

    ``at_ms`` is None where decoding alone tells: where it ends.
    """

    at_ms: int | None
    cause: str


@dataclass(frozen=True, slots=True)
class Account:
    """What a file's own structure says that it holds.

    ``duration_ms`` is what decoding it to its end must yield, within :data:`TOLERANCE_MS`; None
    where the format does not tell. ``unread_bytes`` is how much is neither audio nor a tag.
    """

    duration_ms: int | None = None
    breaks: tuple[Break, ...] = ()
    unread_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Layout:
    """What was met in a file: where each of the files lies that were joined to it.

    ``channels`` and ``rate_hz`` are the most of any part, None where its first frame tells.
    """

    files: tuple[tuple[int, int], ...]
    account: Account
    channels: int | None = None
    rate_hz: int | None = None


#: A size that a recorder leaves behind when it cannot go back and fill in the real one: 0, all
#: ones or a little less (FFmpeg), 2 GiB or a little less (SoX). It means "until the end".
_OPEN_SLACK = 65536
_OPEN_SIZES = (0x7F000000, 2**31, 2**32, 2**63, 2**64)


def is_open_ended(size: int) -> bool:
    """Tell whether a stated size leaves the length to the file's end."""
    return size <= 0 or any(limit - _OPEN_SLACK <= size <= limit for limit in _OPEN_SIZES)


def is_overcounted(missing_bytes: int, header_bytes: int) -> bool:
    """Tell whether a size only counts too much: the header, or what every chunk begins with."""
    return missing_bytes in {0, 1, 8, header_bytes, header_bytes - 8}


def format_seconds(ms: int) -> str:
    """Return a time as people read it in a message."""
    return f"{ms / 1000:.2f} s"


def shortfall(promised_ms: int, held_ms: int, source: str = "header") -> str:
    """Return the cause of a break where a file holds less than it states."""
    stated_text, held_text = format_seconds(promised_ms), format_seconds(held_ms)
    return f"its {source} promises {stated_text} and it holds {held_text}"


def earliest_break(breaks: Iterable[Break]) -> Break | None:
    """Return the first break on the recording's clock."""
    return min(breaks, key=lambda b: math.inf if b.at_ms is None else b.at_ms, default=None)
