"""The digest of a span's samples: what makes two stretches of audio the same content.

A producer reads a file once, before it knows where segments will lie, and a worker reads only its
segment; both must arrive at the same digest. So samples are digested in blocks of one grid step
(:data:`schema.span.GRID_MS`), and the digest of a span is the digest of its blocks' digests.
Spans start on the grid and end on it or at the end of the recording.

A repair's span is chosen when no one knows the blocks' digests any more: the ledger keeps those of
whole segments alone. Its digest is made of those of the planned segments that it lies in, and of
where it lies in them (:func:`excerpt_digest`): it stands for the samples as surely, and a worker
verifies it by reading those segments whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from schema.span import GRID_MS, Span, frame_at

Samples = npt.NDArray[np.float32]
#: Digests of blocks, in order: each as bytes, or as a row of them.
BlockRows = Sequence[bytes] | npt.NDArray[np.uint8]

#: What models hear.
SAMPLE_RATE_HZ = 16_000
SAMPLES_PER_MS = SAMPLE_RATE_HZ // 1000

_BLOCK_DIGEST_BYTES = 16


def downmix(samples: Samples) -> Samples:
    """Return the mean of all channels: float32 ``(frames, channels)`` to ``(frames,)``.

    Bit exact wherever it is computed: the channels are added in their order, in float32, and the
    sum is divided once.
    """
    total = samples[:, 0].copy()
    for channel in range(1, samples.shape[1]):
        total += samples[:, channel]
    return total / np.float32(samples.shape[1])


class BlockDigests:
    """Digests of one signal's blocks, fed in pieces of any length.

    ``first_ms`` is where on the recording's clock the first sample lies; it must be on the grid.
    """

    def __init__(self, rate_hz: int, first_ms: int = 0) -> None:
        if first_ms % GRID_MS:
            raise ValueError(f"{first_ms} ms is not on the grid of {GRID_MS} ms")
        self._rate_hz = rate_hz
        self._block = first_ms // GRID_MS
        self._frame = frame_at(first_ms, rate_hz)
        self._hash = hashlib.blake2b(digest_size=_BLOCK_DIGEST_BYTES)
        self._hashed_frames = 0
        self._digests: list[bytes] = []

    def update(self, samples: Samples) -> None:
        """Add samples: float32, one channel, shape ``(frames,)``."""
        data = np.ascontiguousarray(samples, dtype="<f4")
        at = 0
        while at < len(data):
            until = frame_at((self._block + 1) * GRID_MS, self._rate_hz)
            length = min(until - self._frame, len(data) - at)
            self._hash.update(data[at : at + length].data)
            self._hashed_frames += length
            self._frame += length
            at += length
            if self._frame == until:
                self._close()

    def _close(self) -> None:
        self._digests.append(self._hash.digest())
        self._hash = hashlib.blake2b(digest_size=_BLOCK_DIGEST_BYTES)
        self._hashed_frames = 0
        self._block += 1

    def finish(self) -> list[bytes]:
        """Close the last, shorter block and return every block's digest, in order."""
        if self._hashed_frames:
            self._close()
        return self._digests


def span_digest(blocks: BlockRows, span: Span) -> str:
    """Return the digest of ``span``, given the digests of all blocks of the signal, as hex."""
    start, end = span.start_ms // GRID_MS, -(-span.end_ms // GRID_MS)
    return join_digests(blocks[start:end])


def join_digests(blocks: BlockRows) -> str:
    """Return the digest of consecutive blocks, as hex."""
    hasher = hashlib.blake2b(digest_size=32)
    for block in blocks:
        hasher.update(block)
    return hasher.hexdigest()


@dataclass(frozen=True, slots=True)
class PlannedSlice:
    """A planned segment that a repair lies in, or a part of it does: its span and its digest."""

    span: Span
    pcm_digest: str


def excerpt_digest(slices: Sequence[PlannedSlice], span: Span) -> str:
    """Return the digest of a span within planned segments, as hex.

    Two spans of equal digest hold equal samples: those of equal ``slices``, at the same place in
    them. Where on its recording's clock that is makes no difference.

    Raises:
        ValueError: the slices, in order of their starts, do not cover the span.
    """
    at_ms = span.start_ms
    hasher = hashlib.blake2b(f"excerpt {span.duration_ms}".encode(), digest_size=32)
    for planned_slice in slices:
        if planned_slice.span.start_ms > at_ms:
            break
        at_ms = max(at_ms, planned_slice.span.end_ms)
        offset_ms, length_ms = (
            planned_slice.span.start_ms - span.start_ms,
            planned_slice.span.duration_ms,
        )
        hasher.update(f"\n{offset_ms} {length_ms} {planned_slice.pcm_digest}".encode())
    if at_ms < span.end_ms:
        raise ValueError(f"planned segments end at {at_ms} ms and do not cover {span}")
    return hasher.hexdigest()


def samples_digest(samples: Samples, rate_hz: int, start_ms: int) -> str:
    """Return the digest of ``samples``, float32, ``(frames,)``, that start at ``start_ms``."""
    blocks = BlockDigests(rate_hz, start_ms)
    blocks.update(samples)
    return join_digests(blocks.finish())
