"""What is masked in a protected call: classes of numbers, and where they were said.

A mask says when and which class, never what. Its words are gone from the ledger; a placeholder
such as ``[card]`` stands in their place.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from schema.span import Span


class MaskClass(StrEnum):
    """What a mask hides."""

    #: Of a payment card, also in parts.
    CARD = "card"
    SECURITY_CODE = "security-code"
    EXPIRY = "expiry"
    BANK_ACCOUNT = "bank-account"
    #: Seven digits and more that are none of these, such as a telephone number.
    NUMBER = "number"
    #: Words of a language in which nobody has measured how digits are said.
    LANGUAGE = "language"
    #: Speech that nobody wrote, in the audio alone: what is said there nobody knows.
    NO_WORDS = "no-words"

    @property
    def placeholder(self) -> str:
        """What stands in place of the words."""
        return f"[{self}]"


#: The texts of words that stand for what was masked.
PLACEHOLDERS = frozenset(mask_class.placeholder for mask_class in MaskClass)

#: Of two classes at one place the one that comes first is named.
CLASS_ORDER = tuple(MaskClass)

#: Languages whose digits were measured.
MEASURED_LANGUAGES = frozenset({"en"})

#: Raised whenever our own code decides otherwise which words are masked.
GRAMMAR_VERSION = 1


@dataclass(frozen=True, slots=True, order=True)
class Mask:
    """A stretch of all channels that is masked.

    ``is_doubtful`` where something there could not be understood, and was masked to be sure.
    """

    span: Span
    mask_class: MaskClass
    is_doubtful: bool = False

    def shifted(self, by_ms: int) -> Mask:
        """Return the same mask, ``by_ms`` later (earlier where negative)."""
        return Mask(self.span.shifted(by_ms), self.mask_class, self.is_doubtful)

    def to_json(self) -> list[Any]:
        """Return the compact form kept in the ledger."""
        return [self.span.start_ms, self.span.end_ms, self.mask_class, self.is_doubtful]

    @classmethod
    def from_json(cls, value: list[Any]) -> Mask:
        """Rebuild it from :meth:`to_json`."""
        start_ms, end_ms, mask_class, is_doubtful = value
        return cls(Span(start_ms, end_ms), MaskClass(mask_class), is_doubtful)


@dataclass(frozen=True, slots=True)
class Redaction:
    """What was masked in a transcript, and by which policy: the classes that it names."""

    classes: tuple[str, ...]
    masks: tuple[Mask, ...] = ()
    grammar: int = GRAMMAR_VERSION

    @property
    def number_masks(self) -> tuple[Mask, ...]:
        """Those that hide a number."""
        others = (MaskClass.LANGUAGE, MaskClass.NO_WORDS)
        return tuple(mask for mask in self.masks if mask.mask_class not in others)

    @property
    def spans(self) -> tuple[Span, ...]:
        """Where audio and words are masked, in order."""
        return tuple(mask.span for mask in self.masks)

    def to_json(self) -> dict[str, Any]:
        """Return the form kept in the ledger."""
        return {
            "classes": list(self.classes),
            "grammar": self.grammar,
            "masks": [mask.to_json() for mask in self.masks],
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Redaction:
        """Rebuild it from :meth:`to_json`."""
        masks = tuple(map(Mask.from_json, value["masks"]))
        return cls(tuple(value["classes"]), masks, value["grammar"])


def join_masks(masks: Iterable[Mask]) -> tuple[Mask, ...]:
    """Return masks in order, those that meet as one; it has the class that comes first."""
    joined: list[Mask] = []
    for mask in sorted(masks):
        last = joined[-1] if joined else None
        if last is None or mask.span.start_ms > last.span.end_ms:
            joined.append(mask)
            continue
        span = Span(last.span.start_ms, max(last.span.end_ms, mask.span.end_ms))
        mask_class = min(last.mask_class, mask.mask_class, key=CLASS_ORDER.index)
        joined[-1] = Mask(span, mask_class, last.is_doubtful or mask.is_doubtful)
    return tuple(joined)
