"""Loads a profile's models.

Each engine is imported by its loader: the parent of the worker processes must stay light, and must
not open a GPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from schema.profile import Profile
from schema.settings import Settings
from workers.engines.base import Recognizer, SpeechDetector

if TYPE_CHECKING:
    from workers.engines.features import FilterBank


def load_detector(profile: Profile, settings: Settings, bank: FilterBank) -> SpeechDetector:
    """Load the profile's speech detector; another scene is another detector.

    A detector and a recognizer with the same ``bank`` share its features.

    Raises:
        Misconfigured: its weights are missing or changed, or the device is.
    """
    from workers.engines.vad import fsmn

    return fsmn.load_fsmn(profile, settings, bank)


def load_filter_bank(settings: Settings) -> FilterBank:
    """Return a filter bank on the device of this host.

    Raises:
        Misconfigured: the host has no such device.
    """
    from workers.engines import features

    return features.open_filter_bank(settings.device)


def load_recognizer(profile: Profile, settings: Settings, bank: FilterBank) -> Recognizer:
    """Load the profile's recognizer; only engine, model and precision choose it.

    Raises:
        Misconfigured: its weights are missing or changed, or the device is.
    """
    if profile.decode.engine == "whisper":
        # Whisper computes features of its own.
        from workers.engines import whisper

        return whisper.load_whisper(profile, settings)
    from workers.engines.funasr import recognizer

    return recognizer.load_funasr(profile, settings, bank)
