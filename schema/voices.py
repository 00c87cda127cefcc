"""Whose voice each moment of a segment is: vectors, as the ledger keeps them for a while.

Vectors of voices are biometric data. They have a table of their own, no export, event or log has
them, and they are erased with the transcript that was made of them.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from schema.models import model_files
from schema.profile import Profile

#: A window, and the hop to the next; on a grid of hops that begins with the recording, so that
#: segments which overlap hear the same windows.
WINDOW_MS, HOP_MS = 1_200, 400

#: Raised whenever our own code changes the vectors of the same samples.
_VERSION = 1

#: In so few directions a segment's vectors are kept, in bytes: a fifteenth of their size, and the
#: same speakers. Projections at random would ruin them.
_RANK = 16
_HEADER = struct.Struct("<BBHI")
_LEVELS = 127.0

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Voices:
    """A segment's windows: when each begins, in ms from the segment's start, and its vector.

    ``starts_ms`` is int64 ``(windows,)``, in order; ``vectors`` float32 ``(windows, dimension)``,
    each of length 1.
    """

    starts_ms: npt.NDArray[np.int64]
    vectors: Vectors

    def to_bytes(self) -> bytes:
        """Return the compact form kept in the ledger; what it loses is no matter.

        A header, the starts, then of the vectors' singular value decomposition the first sixteen
        directions: int8 and a scale for each.
        """
        windows, dimension = self.vectors.shape
        left, sizes, right = np.linalg.svd(self.vectors, full_matrices=False)
        rank = min(_RANK, len(sizes))
        points, point_scales = _to_levels(left[:, :rank] * sizes[:rank], axis=0)
        axes, axis_scales = _to_levels(right[:rank], axis=1)
        return b"".join(
            (
                _HEADER.pack(_VERSION, rank, dimension, windows),
                self.starts_ms.astype("<i4").tobytes(),
                point_scales.tobytes(),
                axis_scales.tobytes(),
                points.tobytes(),
                axes.tobytes(),
            )
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Voices:
        """Rebuild them from :meth:`to_bytes`.

        Raises:
            ValueError: it is another version's, or broken.
        """
        try:
            version, rank, dimension, windows = _HEADER.unpack_from(data)
        except struct.error as error:
            raise ValueError("it has no header") from error
        sizes = (4 * windows, 4 * rank, 4 * rank, windows * rank, rank * dimension)
        if version != _VERSION or len(data) != _HEADER.size + sum(sizes):
            raise ValueError("it is another version's, or broken")
        at = _HEADER.size
        parts = []
        for size in sizes:
            parts.append(data[at : at + size])
            at += size
        starts_ms = np.frombuffer(parts[0], "<i4").astype(np.int64)
        points = np.frombuffer(parts[3], np.int8).reshape(windows, rank)
        axes = np.frombuffer(parts[4], np.int8).reshape(rank, dimension)
        point_scales, axis_scales = (np.frombuffer(part, "<f4") for part in parts[1:3])
        vectors = (points * point_scales) @ (axes * axis_scales[:, None])
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return cls(starts_ms, np.asarray(vectors / np.maximum(lengths, 1e-9), np.float32))


def _to_levels(values: Vectors, axis: int) -> tuple[npt.NDArray[np.int8], Vectors]:
    """Return values as int8, and what each column, or row, is to be multiplied with."""
    scales = np.abs(values).max(axis=axis, initial=1e-9) / _LEVELS
    spread = scales if axis == 0 else scales[:, None]
    return np.round(values / spread).astype(np.int8), scales.astype("<f4")


def voice_key(profile: Profile, pcm_digest: str, rate_hz: int) -> str:
    """Return the key of the voices of these samples, as hex: which model, where speech is heard.

    Raises BadRequest for a model that is not known.
    """
    decode = profile.decode
    parts = {
        "version": _VERSION,
        "pcm": pcm_digest,
        "rate_hz": rate_hz,
        "speech": [model_files(decode.vad).digest, decode.scene, decode.vad_precision],
        "weights": profile.render.voice_model.model_files.digest,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
