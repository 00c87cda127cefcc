"""A source decoded once to its end, and held against its own account."""

from __future__ import annotations

import math
from collections.abc import Iterator

from producer.intake.containers.account import TOLERANCE_MS, Break, seconds
from producer.intake.libsndfile import NativeReader
from producer.intake.pieces import Lost, Piece, UndecodableError, conformed
from producer.intake.probe import Probed
from producer.intake.refusals import empty, truncated, truncated_at
from schema.pcm import Samples
from schema.storage.roots import unreachable


def read_blocks(
    path: bytes, probed: Probed, name: str, breaks: list[Break] | None = None
) -> Iterator[Samples]:
    """Yield all samples of a source: float32, ``(frames, channels)``, at its format's rate.

    Where ``breaks`` is given, what is missing is noted there and silent, instead of refused.

    Raises:
        BadRecording: it cannot be decoded to its end, or holds less than its own account says.
    """
    reader = probed.reader or NativeReader(probed.format, big_endian=probed.big_endian)
    noted: list[Break] = []
    rate_hz, frames, lost_ms = probed.format.rate_hz, 0, 0.0
    try:
        for piece in conformed(reader.pieces(path), rate_hz, probed.format.channels):
            if isinstance(piece, Piece):
                frames += len(piece.samples)
                yield piece.samples
                continue
            lost_ms += piece.ms
            if lost_ms > TOLERANCE_MS or piece.ms == math.inf:
                _note(noted, breaks, Break(_ms(frames, rate_hz), _cause(piece)), name)
    except UndecodableError as error:
        at_ms = _ms(frames, rate_hz)
        if not frames and breaks is None:
            raise truncated(name, f"decoding fails: {error}") from error
        stated = probed.account.duration_ms
        promised = "" if stated is None else f", and its own account promises {seconds(stated)}"
        cause = f"decoding fails ({error}){promised}"
        _note(noted, breaks, Break(at_ms, cause), name)
    except OSError as error:  # whoever writes a copy would take it for the spool's
        raise unreachable(name, error) from error
    if not frames:
        raise empty(name, "it has a header and no samples")
    held_ms, stated_ms = _ms(frames, rate_hz), probed.account.duration_ms
    if stated_ms is not None and stated_ms - held_ms > TOLERANCE_MS and not noted:
        cause = f"it holds {seconds(held_ms)} of the {seconds(stated_ms)} that its own account says"
        _note(noted, breaks, Break(held_ms, cause), name)


def _ms(frames: int, rate_hz: int) -> int:
    return frames * 1000 // rate_hz


def _cause(lost: Lost) -> str:
    return f"what it holds there cannot be decoded ({lost.cause})"


def _note(noted: list[Break], breaks: list[Break] | None, broken: Break, name: str) -> None:
    """Keep a break, or refuse the file for it."""
    if breaks is None:
        raise truncated_at(name, broken)
    # A file that is damaged throughout says so once.
    if not noted:
        breaks.append(broken)
    noted.append(broken)
