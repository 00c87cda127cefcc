"""Sealed results made readable, by a host that has the keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from uuid import UUID

from cryptography.exceptions import InvalidTag

from schema.errors import ErrorCode, Misconfigured
from schema.seal import KeyDestroyed, KeyDirectory, unseal
from schema.store.work.reduces import EndedSegment


def unseal_segments(
    segments: Sequence[EndedSegment], keys: KeyDirectory
) -> tuple[tuple[EndedSegment, ...], list[UUID]]:
    """Return segments with their results, and the ids of those that nobody can unseal any more.

    Raises:
        Misconfigured: this host lacks a key, or has another than the one it is called.
    """
    unsealed_segments, lost_ids = [], []
    for segment in segments:
        try:
            unsealed_segments.append(_unseal(segment, keys))
        except KeyDestroyed:
            if segment.id is not None:
                lost_ids.append(segment.id)
    return tuple(unsealed_segments), lost_ids


def _unseal(segment: EndedSegment, keys: KeyDirectory) -> EndedSegment:
    sealed = segment.sealed
    if sealed is None:
        return segment
    if not sealed.blob:
        raise KeyDestroyed(sealed.key_id)
    key = keys.private_key(sealed.key_id)
    try:
        return replace(segment, result=unseal(sealed, segment.result_key or "", key))
    except InvalidTag as error:
        raise Misconfigured(
            ErrorCode.SEAL_KEY_MISSING,
            "keys of protected calls",
            f"{sealed.key_id}.private.pem does not open what was sealed to that key",
            "Copy the file anew from where python -m workers keys made it.",
        ) from error
