"""One table with what it was measured on: our versions, theirs, the machine."""

from __future__ import annotations

from collections.abc import Sequence

from ops import tables
from schema.profile import DECODE_VERSION, Profile

_PACKAGES = ("faster-whisper", "ctranslate2", "funasr", "torch", "jiwer")
_WIDTH = 140


def print_table(
    profile: Profile, title: str, headings: Sequence[str], rows: Sequence[Sequence[str]], note: str
) -> None:
    """Print a measurement's one table; below it a note, and what it was measured with."""
    caption = f"{note}\n{_measured_with(profile)}"
    tables.print_table(title, headings, rows, caption, width=_WIDTH)


def _measured_with(profile: Profile) -> str:
    decode = profile.decode
    return (
        f"{tables.measured_now()}, {decode.model} {decode.precision}, scene {decode.scene}, "
        f"language {decode.language}, decode version {DECODE_VERSION}; "
        f"{tables.versions_of(_PACKAGES)}; {tables.cores()}"
    )
