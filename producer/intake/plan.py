"""Where a recording is cut, and which of its channels are decoded: values in, values out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from producer.intake.scan import SILENCE_DB, Envelope, Scan
from schema.errors import BadRecording, ErrorCode
from schema.pcm import span_digest
from schema.profile import ChannelMode, PlanSettings
from schema.records import PlannedSegment
from schema.settings import Limits
from schema.span import GRID_MS, Span

#: A boundary's quietness is that of 200 ms on both sides: a pause between words, which the stop
#: inside one is too short to pass for.
_QUIET_STEPS = 2

DUAL_MONO = "dual-mono"
SILENT_CHANNEL = "silent-channel"
SILENT_MIX = "silent-mix"


def plan_spans(duration_ms: int, envelope_db: Envelope, settings: PlanSettings) -> tuple[Span, ...]:
    """Cut a signal into overlapping spans that cover it from 0 to ``duration_ms`` exactly.

    A signal that is longer than ``segment_s`` by no more than ``min_tail_s`` is one span. Any other
    has as many equal shares as make none longer than ``segment_s``, an even number of them: two
    workers end with it together. A boundary lies where shares meet, or up to ``search_s`` to either
    side where it is quietest (all that is silent is equally quiet; of equals, the nearest wins).
    Neighbours overlap by ``overlap_s``, half of it on each side of their boundary. Every span
    starts on the grid, and lasts at most ``segment_s + search_s + overlap_s``, but for one alone.

    ``envelope_db`` has the level of each 100 ms of the signal.
    """
    half_ms = settings.overlap_s * 1000 // 2
    cuts = _boundaries(duration_ms, envelope_db, settings)
    starts = [0, *(cut - half_ms for cut in cuts)]
    ends = [*(cut + half_ms for cut in cuts), duration_ms]
    return tuple(map(Span, starts, ends))


def plan_segments(
    scan: Scan, channels: tuple[int | None, ...], settings: PlanSettings
) -> tuple[PlannedSegment, ...]:
    """Return the segments of the channels to decode, each with the digest of its samples."""
    return tuple(
        PlannedSegment(channel, index, span, span_digest(scan.signals[channel].digests, span))
        for channel in channels
        for index, span in enumerate(
            plan_spans(scan.duration_ms, scan.signals[channel].envelope_db, settings)
        )
    )


def check_channels(channels: int, mode: ChannelMode, limits: Limits, name: str) -> None:
    """Refuse a recording whose channels nobody said what to do with, before it is read.

    Raises:
        BadRecording: more than 2 channels in mode "auto", or more than the limit in "split".
    """
    max_channels = {"auto": 2, "split": limits.channels, "mix": channels}[mode]
    if channels <= max_channels:
        return
    remedy = "Submit it with --channels mix, which decodes their mean"
    remedy += (
        ", or with --channels split, which takes each for a speaker."
        if mode == "auto"
        else ", or raise CALLSCRIBE_MAX_CHANNELS."
    )
    cause = f"it has {channels} channels, and --channels {mode} takes {max_channels}"
    raise BadRecording(ErrorCode.AUDIO_TOO_MANY_CHANNELS, name, cause, remedy)


def choose_channels(
    scan: Scan, mode: ChannelMode, limits: Limits, name: str
) -> tuple[tuple[int | None, ...], tuple[str, ...]]:
    """Return the channels to decode (None is the mean of all), and flags.

    Silent channels are left out and flagged. Of two that are one signal, "auto" takes the first
    that is not silent; "split" was asked for, and takes both.

    Raises:
        BadRecording: as :func:`check_channels`.
    """
    check_channels(scan.format.channels, mode, limits, name)
    audible_channels = [channel for channel, signal in scan.signals.items() if not signal.is_silent]
    flags = [
        SILENT_MIX if channel is None else f"{SILENT_CHANNEL}:{channel}"
        for channel in scan.signals
        if channel not in audible_channels
    ]
    if mode == "auto" and scan.dual_mono and len(audible_channels) == 2:
        return (audible_channels[0],), (DUAL_MONO,)
    return tuple(audible_channels), tuple(flags)


def _boundaries(duration_ms: int, envelope_db: Envelope, settings: PlanSettings) -> list[int]:
    segment_ms, overlap_ms = settings.segment_s * 1000, settings.overlap_s * 1000
    if duration_ms <= segment_ms + 1000 * max(settings.min_tail_s, settings.overlap_s):
        return []
    count = -(-duration_ms // segment_ms)
    count += count % 2
    # Shares may be half a segment: where two boundaries move to each other, overlaps must not meet.
    search_ms = min(settings.search_s * 1000, (duration_ms // count - overlap_ms) // 4)
    cuts = [0]
    for share in range(1, count):
        nominal_ms = duration_ms * share // count
        latest_ms = min(nominal_ms, cuts[-1] + segment_ms) + search_ms
        cuts.append(_quietest(envelope_db, nominal_ms - search_ms, latest_ms, nominal_ms))
    return cuts[1:]


def _quietest(envelope_db: Envelope, first_ms: int, last_ms: int, nominal_ms: int) -> int:
    """Return the quietest grid point in ``first_ms..last_ms``, the nearest to nominal of equals."""
    steps = np.arange(first_ms // GRID_MS, last_ms // GRID_MS + 1)
    levels = np.maximum(_levels_around(envelope_db, int(steps[0]), int(steps[-1])), SILENCE_DB)
    quietest = steps[levels == levels.min()]
    nearest = quietest[np.argmin(np.abs(quietest - nominal_ms // GRID_MS))]
    return int(nearest) * GRID_MS


def _levels_around(envelope_db: Envelope, start: int, end: int) -> npt.NDArray[np.float64]:
    """Return the mean power around the starts of the steps ``start..end``, in dBFS."""
    levels_db = envelope_db[start - _QUIET_STEPS : end + _QUIET_STEPS].astype(np.float64)
    windows = np.lib.stride_tricks.sliding_window_view(10 ** (levels_db / 10), 2 * _QUIET_STEPS)
    return np.asarray(10 * np.log10(windows.mean(axis=1)))
