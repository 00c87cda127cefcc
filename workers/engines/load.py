"""How a profile's models are found and loaded.

Engines are imported when they are first asked for, and import their libraries inside their loaders:
the parent of the worker processes must stay light and without a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from schema.profile import Profile
from schema.settings import Settings
from workers.engines.base import Recognizer, SpeechDetector

if TYPE_CHECKING:
    from workers.engines.features import FilterBank


def load_detector(profile: Profile, settings: Settings, bank: FilterBank) -> SpeechDetector:
    """Load the profile's speech detector; another scene is another detector.

    ``bank`` computes its features, once for it and for a recognizer that is given the same.

    Raises:
        Misconfigured: its weights are missing or changed, or the device is.
    """
    from workers.engines.vad import fsmn

    return fsmn.load(profile, settings, bank)


def load_bank(settings: Settings) -> FilterBank:
    """Return what computes features on the device of this host.

    Raises:
        Misconfigured: it has no such device.
    """
    from workers.engines import features

    return features.open_bank(settings.device)


def load_recognizer(profile: Profile, settings: Settings, bank: FilterBank) -> Recognizer:
    """Load the profile's recognizer: by engine, model and precision, and by nothing else.

    Raises:
        Misconfigured: its weights are missing or changed, or the device is.
    """
    return _RECOGNIZERS[profile.decode.engine](profile, settings, bank)


def _load_whisper(profile: Profile, settings: Settings, _: FilterBank) -> Recognizer:
    # Whisper's features are of its own kind.
    from workers.engines import whisper

    return whisper.load(profile, settings)


def _load_funasr(profile: Profile, settings: Settings, bank: FilterBank) -> Recognizer:
    from workers.engines.funasr import recognizer

    return recognizer.load(profile, settings, bank)


_RECOGNIZERS: Mapping[str, Callable[[Profile, Settings, FilterBank], Recognizer]] = {
    "funasr": _load_funasr,
    "whisper": _load_whisper,
}
