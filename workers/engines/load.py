"""How a profile's models are found and loaded.

Engines are imported when they are first asked for, and import their libraries inside their loaders:
the parent of the worker processes must stay light and without a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from schema.profile import Profile
from schema.settings import Settings
from workers.engines.base import Recognizer, SpeechDetector


def load_detector(profile: Profile, settings: Settings) -> SpeechDetector:
    """Load the profile's speech detector; another scene is another detector.

    Raises:
        Misconfigured: its weights are missing or changed, or the device is.
    """
    from workers.engines import fsmn

    return fsmn.load(profile, settings)


def load_recognizer(profile: Profile, settings: Settings) -> Recognizer:
    """Load the profile's recognizer: by engine, model and precision, and by nothing else.

    Raises:
        Misconfigured: its weights are missing or changed, or the device is.
    """
    return _RECOGNIZERS[profile.decode.engine](profile, settings)


def _load_whisper(profile: Profile, settings: Settings) -> Recognizer:
    from workers.engines import whisper

    return whisper.load(profile, settings)


_RECOGNIZERS: Mapping[str, Callable[[Profile, Settings], Recognizer]] = {"whisper": _load_whisper}
