"""Every setting of a run: how to cut, decode and dress the words, and what to mask.

A profile travels in the ledger, so that a worker decodes as the producer meant, whatever its own
host is set to. Only the ``decode`` part, together with the samples, decides the words: it is what
the decode key is made of. The ``render`` part is applied anew to words already known.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from schema.bounds import check_text
from schema.chinese import ChineseScript
from schema.errors import BadRequest, ErrorCode, Misconfigured
from schema.models import KNOWN_MODELS, ModelFiles, check_embedder, check_recognizer, model_files

#: Raised whenever our own code changes what words a decode yields: every cached result is then
#: another's, and nothing stale is served.
DECODE_VERSION = 5


@dataclass(frozen=True, slots=True)
class Scene:
    """FSMN-VAD's settings for a kind of recording.

    ``end_silence_ms`` of silence end a region; ``speech_noise_threshold`` is how much likelier
    than noise speech must be (higher hears less); no region lasts longer than ``max_region_ms``.
    """

    end_silence_ms: int
    speech_noise_threshold: float
    max_region_ms: int = 30_000


#: FunASR's documented settings for each kind of recording.
SCENES: Mapping[str, Scene] = {
    "call": Scene(end_silence_ms=500, speech_noise_threshold=0.5),
    "meeting": Scene(end_silence_ms=800, speech_noise_threshold=0.6),
    "lecture": Scene(end_silence_ms=1_500, speech_noise_threshold=0.7),
    "noisy": Scene(end_silence_ms=1_000, speech_noise_threshold=0.4),
}

#: What each engine can compute in.
PRECISIONS: Mapping[str, tuple[str, ...]] = {
    "funasr": ("float32", "bfloat16"),
    "whisper": ("int8", "float16", "float32"),
}

#: Names of directories and files: no path leads out of where models are.
_PLAIN_NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.\-]*$"

#: By a file's name, its hex SHA-256.
FileDigests = dict[
    Annotated[str, Field(pattern=_PLAIN_NAME)], Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
]

ChannelMode = Literal["auto", "split", "mix"]
TracksMode = Literal["auto", "speakers", "first"]
Engine = Literal["funasr", "whisper"]

#: By engine, what decodes fast, balanced or accurately. What is not known by its name
#: (:mod:`schema.models`) is found by :func:`load_profile`'s ``find``.
TIERS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "whisper": {
        "fast": {"model": "whisper-base", "windows": "trimmed"},
        "balanced": {"model": "whisper-base"},
        "accurate": {"model": "whisper-large-v3-turbo", "fallback": {"model": "whisper-base"}},
    },
    "funasr": {
        "fast": {"model": "paraformer-large", "precision": "bfloat16"},
        "balanced": {"model": "paraformer-large"},
        "accurate": {
            "model": "fun-asr-nano",
            "fallback": {"engine": "funasr", "model": "paraformer-large"},
        },
    },
}


class _ProfilePart(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PlanSettings(_ProfilePart):
    """How recordings are cut into segments."""

    #: Long enough that a GPU is filled and few seams arise, short enough to be lost cheaply.
    segment_s: int = Field(300, ge=10, le=3_600)
    #: Words within a second of a segment's edge are distrusted on both sides; 2 s overlaps proved
    #: fragile elsewhere, 8 s leave 6 s to find an agreed silence in, at 3 % more decoding.
    overlap_s: int = Field(8, ge=2, le=60)
    #: How far around its nominal place a boundary may move to where it is quietest.
    search_s: int = Field(20, ge=0, le=120)
    #: A recording that is longer than a segment by no more than this is one segment.
    min_tail_s: int = Field(60, ge=0)
    channels: ChannelMode = "auto"
    #: What becomes of a file with several tracks of audio; None is auto: tracks of one clock are
    #: the channels of a call, a speaker each, and other languages or a commentary are left out.
    tracks: TracksMode | None = None
    #: What becomes of a file from which audio is missing; None is quarantine.
    truncated: Literal["quarantine", "take"] | None = None

    @model_validator(mode="after")
    def _segments_hold_their_overlaps(self) -> PlanSettings:
        if self.segment_s < 3 * self.overlap_s + self.search_s:
            least = 3 * self.overlap_s + self.search_s
            raise ValueError(f"a segment must last 3 overlaps and a search window: {least} s")
        return self


class Recognition(_ProfilePart):
    """Which model writes the words, run by what, in which precision."""

    engine: Engine = "whisper"
    model: str = Field("whisper-base", pattern=_PLAIN_NAME)
    #: A model that is not known by its name: the hex SHA-256 of each of its files.
    files: FileDigests = Field(default_factory=dict)
    precision: Literal["int8", "float16", "bfloat16", "float32"] = "int8"

    @model_validator(mode="before")
    @classmethod
    def _precise_as_the_engine(cls, values: Any) -> Any:
        """FunASR's models have no integers; where nothing is said, they take what is exact."""
        if isinstance(values, dict) and values.get("engine") == "funasr":
            return {"precision": "float32", **values}
        return values

    @model_validator(mode="after")
    def _engine_knows_the_precision(self) -> Self:
        precisions = PRECISIONS[self.engine]
        if self.precision not in precisions:
            raise ValueError(f"{self.engine} decodes in {' or '.join(precisions)}")
        return self

    @property
    def model_files(self) -> ModelFiles:
        """The recognizer's files: those it lists, or those of a model known by its name.

        Raises BadRequest for one that is neither.
        """
        return ModelFiles(self.model, self.files) if self.files else model_files(self.model)


class DecodeSettings(Recognition):
    """Everything beside the samples that decides the words."""

    vad: str = "fsmn-vad"
    scene: Literal["call", "meeting", "lecture", "noisy"] = "call"
    #: An ISO 639-1 code, or "auto": decided by the speech of each segment.
    language: str = Field("auto", pattern=r"^(auto|[a-z]{2,3})$")
    hotwords: tuple[str, ...] = ()
    #: bfloat16 takes three quarters of the time where the processor has it, and moves six
    #: boundaries in a thousand.
    vad_precision: Literal["float32", "bfloat16"] = "float32"
    #: Whisper's. Trimmed windows are heard with little of the silence that it was trained with: a
    #: fifth faster, at 0.1 to 0.3 points of word errors where segments are short.
    windows: Literal["whole", "trimmed"] = "whole"
    #: A smaller model, for a host whose memory does not hold the other.
    fallback: Recognition | None = None


class Punctuation(_ProfilePart):
    """A model that writes the marks of words that were recognized without any (CT-Punc)."""

    model: str = Field(pattern=_PLAIN_NAME)
    #: The hex SHA-256 of each of its files.
    files: FileDigests = Field(min_length=1)

    @property
    def model_files(self) -> ModelFiles:
        """The model's files."""
        return ModelFiles(self.model, self.files)


class VoiceModel(_ProfilePart):
    """A model that tells voices apart."""

    model: str = Field("campplus", pattern=_PLAIN_NAME)
    #: A CAM++ that is not known by its name: the hex SHA-256 of its file.
    files: FileDigests = Field(default_factory=dict)

    @property
    def model_files(self) -> ModelFiles:
        """The model's files; raises BadRequest for one that is not known."""
        return ModelFiles(self.model, self.files) if self.files else model_files(self.model)


#: How many speakers a channel has that several may share: "auto" is one or two.
Diarize = Literal["auto", "off"] | Annotated[int, Field(strict=True, ge=1, le=6)]
#: Who speaks first where speakers are told by their voices; "direction": who answers the call.
FirstSpeaker = Literal["agent", "customer", "direction"]


class RenderSettings(_ProfilePart):
    """How the words are dressed; changes no word's time and costs no decoding."""

    #: None for a recognizer that writes marks itself, as Whisper and SenseVoice do.
    punctuation: Punctuation | None = None
    #: Inverse text normalisation ("twenty five" to "25"). Whisper writes digits by itself.
    itn: bool = False
    #: Names of channel 0, 1, ...; unnamed channels are "speaker 1", "speaker 2", ...
    speakers: tuple[str, ...] = ()
    #: The script of Chinese; None is simplified.
    script: ChineseScript | None = None
    #: Who speaks where several share a channel, by their voices; None is off, until all hosts of a
    #: fleet know the setting.
    diarize: Diarize | None = None
    #: Names of two speakers told by their voices; None numbers them.
    first: FirstSpeaker | None = None
    #: What tells voices apart; None is CAM++.
    voices: VoiceModel | None = None

    @property
    def tells_voices(self) -> bool:
        """Whether speakers who share a channel are told apart."""
        return self.diarize not in (None, "off", 1)

    @property
    def speaker_count(self) -> int | None:
        """How many speakers share a channel; None is one or two."""
        return self.diarize if isinstance(self.diarize, int) else None

    @property
    def voice_model(self) -> VoiceModel:
        """The model that tells voices apart."""
        return self.voices or VoiceModel()

    @property
    def chinese_script(self) -> ChineseScript:
        """The script that Chinese is written in."""
        return self.script or ChineseScript.SIMPLIFIED

    @field_validator("speakers")
    @classmethod
    def _check_speakers(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(name.strip() for name in value):
            raise ValueError("a speaker's name is blank")
        return value

    def speaker(self, channel: int | None) -> str:
        """Return the name of a channel's speaker."""
        index = channel or 0
        if index < len(self.speakers):
            return self.speakers[index]
        return f"speaker {index + 1}"


#: Classes that a policy may name.
RedactClass = Literal["card", "security-code", "expiry", "bank-account"]


class RedactSettings(_ProfilePart):
    """What is masked in a protected call, before any word of it is stored in clear.

    Seven digits and more are masked whatever they are, unless they are plainly none.
    """

    classes: tuple[RedactClass, ...] = Field(
        ("card", "security-code", "expiry", "bank-account"), min_length=1
    )
    #: Words of a language in which digits were not measured: none are kept, or all.
    other_languages: Literal["withhold", "keep"] = "withhold"


class Profile(_ProfilePart):
    """Every setting of a run."""

    name: str = "call"
    plan: PlanSettings = PlanSettings()
    decode: DecodeSettings = DecodeSettings()
    render: RenderSettings = RenderSettings()
    #: Not None for a protected call: its results are sealed until what is to be masked is gone.
    redact: RedactSettings | None = None

    @property
    def scene(self) -> Scene:
        """The VAD settings of the decode part's scene."""
        return SCENES[self.decode.scene]

    @property
    def model_files(self) -> ModelFiles:
        """The recognizer's files: those it lists, or those of a model known by its name.

        Raises BadRequest for one that is neither.
        """
        return self.decode.model_files

    @property
    def fallback_profile(self) -> Profile | None:
        """The same profile with its fallback's model; None where it has none."""
        if self.decode.fallback is None:
            return None
        changes = {**self.decode.fallback.model_dump(), "fallback": None}
        return self.model_copy(update={"decode": self.decode.model_copy(update=changes)})

    @property
    def model_settings(self) -> DecodeSettings:
        """The settings that choose models: all but language and hotwords, set to one value."""
        return self.decode.model_copy(update={"language": "auto", "hotwords": ()})

    def with_language(self, language: str | None) -> Profile:
        """Return the same profile with another language to decode as; None leaves it."""
        if language is None:
            return self
        decode = self.decode.model_copy(update={"language": language})
        return self.model_copy(update={"decode": decode})

    def decode_key(self, pcm_digest: str, rate_hz: int) -> str:
        """Return the key of the words of these samples, under these settings, as hex.

        Which channel the samples come from makes no difference; that a downmix was decoded does,
        since its samples are others. Raises BadRequest for a model that is not known.
        """
        parts = {
            "version": DECODE_VERSION,
            "pcm": pcm_digest,
            "rate_hz": rate_hz,
            # Words of the fallback have the key of a profile that names it.
            "settings": self.decode.model_dump(mode="json", exclude={"fallback"}),
            "weights": [model_files(self.decode.vad).digest, self.model_files.digest],
            # Nobody's clear words serve a protected call, nor its sealed ones anybody else.
            **({"sealed": True} if self.redact is not None else {}),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


PROFILES: Mapping[str, Profile] = {
    **{name: Profile(name=name, decode=DecodeSettings(scene=name)) for name in SCENES},
    "fast": Profile(name="fast", decode=DecodeSettings(**TIERS["whisper"]["fast"])),
}


def load_profile(
    name: str,
    changes: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    tier: str | None = None,
    find: Callable[[str], Mapping[str, str]] = lambda _: {},
) -> Profile:
    """Return a built-in profile, or one read from a TOML file, with ``changes`` laid over it.

    Args:
        name: "call", say, or a path.
        changes: for a part ("plan", "decode", "render", "redact") the settings to replace.
        tier: "fast", "balanced" or "accurate": the engine's model for it, under the changes.
        find: returns the SHA-256 of each file of a model that is not known by its name; none
            where there is no such model.

    Raises:
        BadRequest: no such profile, tier or model, or a setting is unknown or out of range.
    """
    try:
        if name in PROFILES:
            base = PROFILES[name].model_dump(exclude_unset=True)
        elif Path(name).is_file():
            settings = tomllib.loads(Path(name).read_text("utf-8-sig"))
            base = Profile(**settings).model_dump(exclude_unset=True)
        else:
            raise BadRequest(
                ErrorCode.OPTION_INVALID,
                f"profile {name}",
                "neither a built-in profile nor a file",
                f"Built in are {', '.join(PROFILES)}.",
            )
        overrides = {part: dict(settings) for part, settings in (changes or {}).items()}
        if tier is not None:
            decode = overrides.get("decode", {})
            engine = {**base.get("decode", {}), **decode}.get("engine", "whisper")
            overrides["decode"] = {**_tier_settings(engine, tier), **decode}
        for part, settings in overrides.items():
            base[part] = {**(base.get(part) or {}), **settings}
        profile = _with_files(Profile(**base), find)
        _check_texts(profile.model_dump())
    except OSError as error:
        cause = error.strerror or str(error)
        raise BadRequest(ErrorCode.OPTION_INVALID, f"profile {name}", cause) from error
    except RecursionError:
        cause = "it is nested too deeply"
        raise BadRequest(ErrorCode.OPTION_INVALID, f"profile {name}", cause) from None
    except (ValidationError, tomllib.TOMLDecodeError, TypeError, ValueError) as error:
        raise BadRequest(ErrorCode.OPTION_INVALID, f"profile {name}", _first_line(error)) from error
    model_files(profile.decode.vad)
    if profile.render.voices is not None:
        if not profile.render.voices.files:
            check_embedder(profile.render.voices.model)
        _ = profile.render.voices.model_files
    for recognition in filter(None, (profile.decode, profile.decode.fallback)):
        if not recognition.files:
            check_recognizer(recognition.model, recognition.engine)
        _ = recognition.model_files
    return profile


#: Speakers, and hotwords, at most: a network weighs fifty, and nobody has a thousand channels.
_LIST_LENGTH_MAX = 1_000


def _check_texts(value: Any) -> None:
    """Hold every text of a profile to what the ledger can hold, and every list to a length.

    Raises:
        ValueError: one is longer, or holds what is no character.
    """
    if isinstance(value, str):
        check_text(value)
    elif isinstance(value, Mapping):
        for item in value.values():
            _check_texts(item)
    elif isinstance(value, list | tuple):
        if len(value) > _LIST_LENGTH_MAX:
            raise ValueError(f"a list of {len(value):,}, and {_LIST_LENGTH_MAX:,} are the most")
        for item in value:
            _check_texts(item)


def _tier_settings(engine: str, tier: str) -> Mapping[str, Any]:
    tiers = TIERS.get(engine, {})
    if tier not in tiers:
        raise BadRequest(
            ErrorCode.OPTION_INVALID,
            f"tier {tier}",
            f"{engine} has none of this name",
            f"Choose {', '.join(TIERS['whisper'])}.",
        )
    # What a profile says of its own model is about another one.
    defaults: dict[str, Any] = {
        "files": {},
        "precision": PRECISIONS[engine][0],
        "windows": "whole",
        "fallback": None,
    }
    return {**defaults, **tiers[tier]}


def _with_files(profile: Profile, find: Callable[[str], Mapping[str, str]]) -> Profile:
    """Return a profile with the files of its models, where they are found by their names."""
    decode, render = profile.decode, profile.render
    changes = {"files": _files(decode, find)}
    if decode.fallback is not None:
        files = _files(decode.fallback, find)
        changes["fallback"] = decode.fallback.model_copy(update={"files": files})
    if render.voices is not None:
        voices = render.voices.model_copy(update={"files": _files(render.voices, find)})
        render = render.model_copy(update={"voices": voices})
    return profile.model_copy(
        update={"decode": decode.model_copy(update=changes), "render": render}
    )


def _files(model: Recognition | VoiceModel, find: Callable[[str], Mapping[str, str]]) -> Any:
    is_known = model.files or model.model in KNOWN_MODELS
    return model.files if is_known else dict(find(model.model))


def stored_profile(stored: Mapping[str, Any]) -> Profile:
    """Return a profile as the ledger has it.

    Raises:
        Misconfigured: another release wrote it, with a setting that this one does not know.
    """
    try:
        return Profile.model_validate(stored)
    except ValidationError as error:
        raise Misconfigured(
            ErrorCode.SETTING_MISSING,
            "profile",
            f"this host's release does not know it ({_first_line(error)})",
            "Update the workers of this host, or submit with the producer of their release.",
        ) from error


#: Where pydantic would quote a regular expression, or name one of several types.
_PLAIN_MESSAGES = {
    "decode.language": "neither auto nor an ISO 639-1 code, such as en",
    "render.diarize": "neither auto, off nor a number from 1 to 6",
}


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        setting = ".".join(str(part) for part in first["loc"])
        named = ".".join(str(part) for part in first["loc"][:2])
        if named in _PLAIN_MESSAGES:
            return f"{named}: {_PLAIN_MESSAGES[named]}"
        return f"{setting}: {first['msg']}"
    return str(error)
