"""A source decoded once to its end, and held against its own account."""

from __future__ import annotations

import math
from collections.abc import Iterator

from producer.intake.audio_errors import break_error, empty_error, truncated_error
from producer.intake.containers.account import TOLERANCE_MS, Break, format_seconds
from producer.intake.libsndfile import read_native
from producer.intake.pieces import Piece, UndecodableError, conform
from producer.intake.probe import AudioInfo
from schema.pcm import Samples
from schema.storage.roots import unreachable_error


def read_blocks(
    path: bytes, info: AudioInfo, name: str, breaks: list[Break] | None = None
) -> Iterator[Samples]:
    """Yield all samples of a source: float32, ``(frames, channels)``, at its format's rate.

    Where ``breaks`` is given, what is missing is noted there and silent, instead of refused.

    Raises:
        BadRecording: it cannot be decoded to its end, or holds less than its own account says.
    """
    pieces = (
        info.reader.pieces(path)
        if info.reader
        else read_native(path, info.format, big_endian=info.big_endian)
    )
    reported_breaks: list[Break] = []
    rate_hz, frames, lost_ms = info.format.rate_hz, 0, 0.0
    try:
        for piece in conform(pieces, rate_hz, info.format.channels):
            if isinstance(piece, Piece):
                frames += len(piece.samples)
                yield piece.samples
                continue
            lost_ms += piece.ms
            if lost_ms > TOLERANCE_MS or piece.ms == math.inf:
                cause = f"what it holds there cannot be decoded ({piece.cause})"
                _add_break(reported_breaks, breaks, Break(_to_ms(frames, rate_hz), cause), name)
    except UndecodableError as error:
        at_ms = _to_ms(frames, rate_hz)
        if not frames and breaks is None:
            raise truncated_error(name, f"decoding fails: {error}") from error
        cause = f"decoding fails ({error})"
        if info.account.duration_ms is not None:
            cause += f", and its own account promises {format_seconds(info.account.duration_ms)}"
        _add_break(reported_breaks, breaks, Break(at_ms, cause), name)
    except OSError as error:  # whoever writes a copy would take it for the spool's
        raise unreachable_error(name, error) from error
    if not frames:
        raise empty_error(name, "it has a header and no samples")
    held_ms, stated_ms = _to_ms(frames, rate_hz), info.account.duration_ms
    if stated_ms is not None and stated_ms - held_ms > TOLERANCE_MS and not reported_breaks:
        held_text, stated_text = format_seconds(held_ms), format_seconds(stated_ms)
        cause = f"it holds {held_text} of the {stated_text} that its own account says"
        _add_break(reported_breaks, breaks, Break(held_ms, cause), name)


def _to_ms(frames: int, rate_hz: int) -> int:
    return frames * 1000 // rate_hz


def _add_break(
    reported_breaks: list[Break], breaks: list[Break] | None, audio_break: Break, name: str
) -> None:
    """Keep a break, or refuse the file for it."""
    if breaks is None:
        raise break_error(name, audio_break)
    # A file that is damaged throughout says so once.
    if not reported_breaks:
        breaks.append(audio_break)
    reported_breaks.append(audio_break)
