"""Loads a profile's models.

Each engine is imported by its loader: the parent of the worker processes must stay light, and must
not open a GPU. What is raised is Misconfigured: weights are missing or changed, or the device is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from schema.profile import Profile
from schema.settings import Settings
from workers.engines.base import Recognizer, SpeechDetector, VoiceEmbedder

if TYPE_CHECKING:
    from workers.engines.features import FilterBank


def load_detector(profile: Profile, settings: Settings, bank: FilterBank) -> SpeechDetector:
    """Load the profile's speech detector; another scene is another detector.

    A detector and a recognizer with the same ``bank`` share its features.
    """
    from workers.engines.vad.fsmn import load_fsmn

    return load_fsmn(profile, settings, bank)


def load_filter_bank(settings: Settings) -> FilterBank:
    """Return a filter bank on the device of this host."""
    from workers.engines.features import open_filter_bank

    return open_filter_bank(settings.device)


def load_recognizer(profile: Profile, settings: Settings, bank: FilterBank) -> Recognizer:
    """Load the profile's recognizer; only engine, model and precision choose it."""
    match profile.decode.engine:
        case "whisper":
            # Whisper computes features of its own.
            from workers.engines.whisper import load_whisper

            return load_whisper(profile, settings)
        case "funasr":
            from workers.engines.funasr.recognizer import load_funasr

            return load_funasr(profile, settings, bank)
        case engine:
            assert_never(engine)


def load_embedder(profile: Profile, settings: Settings, bank: FilterBank) -> VoiceEmbedder:
    """Load what tells the profile's voices apart."""
    model = profile.render.voice_model.model_files
    if model.name == "resemblyzer":
        from workers.engines.voices.ge2e import load_ge2e

        return load_ge2e(model, settings, bank)
    from workers.engines.voices.campplus import load_campplus

    return load_campplus(model, settings, bank)
