"""From a file to facts: what it is, how to read it, and whether it is what it says.

Only the header and the last bytes are read. What cannot be transcribed is refused here, each
defect by its own code; what only reading all of it can show is found by ``producer/scan``.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace

import soundfile

from producer import foreign
from producer.containers import HEAD_BYTES, Promise, read_promise, sniff
from schema.errors import BadRecording, BadRequest, ErrorCode
from schema.records import AudioFormat, Location
from schema.settings import Limits
from schema.span import duration_of


@dataclass(frozen=True, slots=True)
class RawFormat:
    """How to read a file without header.

    ``encoding`` is a sub format of libsndfile ("ULAW"), or a headless format of FFmpeg in lower
    case ("g729").
    """

    encoding: str
    rate_hz: int
    channels: int = 1
    big_endian: bool = False


_RAW_ENCODINGS: Mapping[str, tuple[str, bool]] = {
    "mulaw": ("ULAW", False),
    "ulaw": ("ULAW", False),
    "alaw": ("ALAW", False),
    "u8": ("PCM_U8", False),
    "s8": ("PCM_S8", False),
    "s16le": ("PCM_16", False),
    "s16be": ("PCM_16", True),
    "s24le": ("PCM_24", False),
    "s32le": ("PCM_32", False),
    "f32le": ("FLOAT", False),
    "vox": ("VOX_ADPCM", False),
    "gsm": ("GSM610", False),
    "g722": ("g722", False),
    "g729": ("g729", False),
}

#: Suffixes that mean one thing only. ``.vox`` also exists at 6000 Hz, so it can be overruled.
RAW_DEFAULTS: Mapping[str, RawFormat] = {
    **dict.fromkeys((".ulaw", ".ul", ".mulaw", ".mu", ".pcmu"), RawFormat("ULAW", 8000)),
    **dict.fromkeys((".alaw", ".al", ".pcma"), RawFormat("ALAW", 8000)),
    **dict.fromkeys((".sln", ".slin", ".sln8", ".slin8"), RawFormat("PCM_16", 8000)),
    ".sln12": RawFormat("PCM_16", 12000),
    **dict.fromkeys((".sln16", ".slin16"), RawFormat("PCM_16", 16000)),
    ".sln24": RawFormat("PCM_16", 24000),
    ".sln32": RawFormat("PCM_16", 32000),
    ".sln44": RawFormat("PCM_16", 44100),
    ".sln48": RawFormat("PCM_16", 48000),
    ".vox": RawFormat("VOX_ADPCM", 8000),
    ".gsm": RawFormat("GSM610", 8000),
    ".g722": RawFormat("g722", 16000),
    ".g729": RawFormat("g729", 8000),
}
#: Suffixes of files without header that could hold anything.
_RAW_AMBIGUOUS = frozenset({".pcm", ".raw", ".lin", ".sw", ".dvox"})

#: Encodings whose samples depend on where reading begins, measured with libsndfile 1.2.2 by
#: reading whole files and comparing 150 reads after a seek, bit for bit. PCM, mu-law, A-law,
#: IMA and MS ADPCM and FLAC came out the same every time. Opus differed in up to 9 of 10 reads
#: (by up to 0.004); MPEG layer III in up to 8 of 10 (by up to 0.47 right after the seek), and in
#: its last bits even without one, depending on the length of the reads. Vorbis and ALAC are
#: exact until a file is damaged: then a worker hears, after its seek, something else than was
#: heard here, and a seek in Vorbis may crash it (``ops/chaos/fuzz``). A worker verifies the digest
#: of its span, so these are copied once, as is what libsndfile cannot seek in at all (GSM 6.10,
#: G.721, G.723, NMS and VOX ADPCM).
_INEXACT = frozenset(
    {"OPUS", "VORBIS", "MPEG_LAYER_I", "MPEG_LAYER_II", "MPEG_LAYER_III"}
    | {f"ALAC_{bits}" for bits in (16, 20, 24, 32)}
)
#: Containers that libsndfile has no reader for; asking it first would only cost time.
_FOREIGN = frozenset({"ISO", "MATROSKA", "ASF", "AMR"})
_DEEP = frozenset({"PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ALAC_20", "ALAC_24", "ALAC_32"})
#: libsndfile says this for a length that the header leaves open.
_UNKNOWN_FRAMES = 2**62
#: The first of several audio streams is taken, and the recording says so.
FIRST_STREAM = "first-audio-stream"


@dataclass(frozen=True, slots=True)
class Probed:
    """How to read a file, and what its header says.

    ``format.frames`` is 0 where the header does not say. ``foreign`` files are decoded by PyAV,
    with ``demuxer`` where they have no header. ``copied`` files are read by workers from a copy
    of ``copy_bits`` bits in the spool.
    """

    format: AudioFormat
    copied: bool
    copy_bits: int = 16
    foreign: bool = False
    demuxer: str | None = None
    big_endian: bool = False
    flags: tuple[str, ...] = ()


def parse_raw_option(text: str) -> tuple[str, RawFormat]:
    """Return the suffix and format of ``.ulaw=mulaw:8000`` or ``.pcm=s16le:8000:2``.

    Raises:
        BadRequest: it cannot be understood.
    """
    suffix, _, described = text.partition("=")
    encoding, *numbers = described.split(":")
    known = encoding in _RAW_ENCODINGS and len(numbers) in {1, 2}
    if not (suffix.startswith(".") and known and all(n.isdecimal() and int(n) for n in numbers)):
        raise BadRequest(
            ErrorCode.OPTION_INVALID,
            f"--raw {text}",
            "it is not .suffix=encoding:rate or .suffix=encoding:rate:channels",
            f"Write for instance .ulaw=mulaw:8000; encodings are {', '.join(_RAW_ENCODINGS)}.",
        )
    subtype, big_endian = _RAW_ENCODINGS[encoding]
    rate_hz, channels = (*map(int, numbers), 1)[:2]
    return suffix.lower(), RawFormat(subtype, rate_hz, channels, big_endian)


def probe(
    path: bytes,
    raw: Mapping[str, RawFormat],
    limits: Limits,
    name: str | None = None,
    suffix: bytes | None = None,
) -> Probed:
    """Return what a file is, or refuse it.

    ``raw`` maps suffixes, in lower case with their dot, to the formats of files without header.
    ``name`` is what errors call the file, and ``suffix`` the one that it was handed in with; both
    are its path's unless given.

    Raises:
        BadRecording: it cannot be transcribed; the code says why.
    """
    name = Location("", path).name if name is None else name
    suffix = os.path.splitext(path)[1] if suffix is None else suffix
    source = _first_look(path, _size(path, limits, name), name, os.fsdecode(suffix).lower())
    _check_promise(source.promise, limits, name)
    probed = _identify(source, raw)
    check_format(probed.format, limits, name)
    return probed


def check_format(audio: AudioFormat, limits: Limits, name: str) -> None:
    """Refuse what is beyond ``limits``; a length of 0 frames is one not known yet.

    Raises:
        BadRecording: its rate or duration is out of bounds.
    """
    _check_rate(audio.rate_hz, limits, name)
    if not audio.frames:
        return
    duration_ms = duration_of(audio.frames, audio.rate_hz)
    if duration_ms > limits.duration_s * 1000:
        raise BadRecording(
            ErrorCode.AUDIO_TOO_LONG,
            name,
            f"it lasts {duration_ms // 1000} s, more than {limits.duration_s} s",
            "Split it, or raise CALLSCRIBE_MAX_DURATION_S.",
        )
    if duration_ms < limits.min_duration_ms:
        raise BadRecording(
            ErrorCode.AUDIO_TOO_SHORT,
            name,
            f"it lasts {duration_ms} ms, less than {limits.min_duration_ms} ms",
            "Nothing can be heard in it; leave it out.",
        )


def check_size(size_bytes: int, limits: Limits, name: str) -> None:
    """Refuse a file by its size.

    Raises:
        BadRecording: it is empty, or beyond ``limits``.
    """
    if not size_bytes:
        raise empty(name, "the file has 0 bytes")
    if size_bytes > limits.bytes:
        raise BadRecording(
            ErrorCode.AUDIO_TOO_BIG,
            name,
            f"it has {size_bytes} bytes, more than {limits.bytes}",
            "Split it, or raise CALLSCRIBE_MAX_BYTES.",
        )


def truncated(name: str, cause: str) -> BadRecording:
    """Return the error of a file that ends before its audio does."""
    return BadRecording(
        ErrorCode.AUDIO_TRUNCATED,
        name,
        cause,
        "Hand in the complete file; to transcribe what is left, let FFmpeg or SoX rewrite it.",
    )


def empty(name: str, cause: str) -> BadRecording:
    """Return the error of a file without a sample."""
    return BadRecording(ErrorCode.AUDIO_EMPTY, name, cause, "Look why the recorder wrote nothing.")


def _size(path: bytes, limits: Limits, name: str) -> int:
    try:
        status = os.stat(path)
    except OSError as error:
        raise unreachable(name, error) from error
    if not stat.S_ISREG(status.st_mode):
        # Never opened: a pipe blocks whoever opens it, and a device may do anything.
        raise BadRecording(
            ErrorCode.AUDIO_NOT_AUDIO, name, "it is no regular file", "Hand in a regular file."
        )
    check_size(status.st_size, limits, name)
    return status.st_size


def unreachable(name: str, error: OSError) -> BadRecording:
    """Return the error of a file that is gone or must not be read."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        remedy = "Submit again if it was moved."
        return BadRecording(ErrorCode.FILE_VANISHED, name, "there is no such file", remedy)
    remedy = "Let this user read it."
    return BadRecording(ErrorCode.FILE_UNREADABLE, name, error.strerror or str(error), remedy)


@dataclass(frozen=True, slots=True)
class _Source:
    """A file whose first and last bytes were looked at."""

    path: bytes
    name: str
    suffix: str
    container: str | None
    promise: Promise


def _first_look(path: bytes, size: int, name: str, suffix: str) -> _Source:
    try:
        with open(path, "rb") as file:
            container = sniff(file.read(HEAD_BYTES))
            return _Source(path, name, suffix, container, read_promise(file, container, size))
    except OSError as error:
        raise unreachable(name, error) from error


def _check_promise(promise: Promise, limits: Limits, name: str) -> None:
    if promise.channels == 0:
        raise BadRecording(
            ErrorCode.AUDIO_NO_CHANNELS,
            name,
            "its header says 0 channels",
            "Look at what wrote the file.",
        )
    if promise.rate_hz is not None:
        _check_rate(promise.rate_hz, limits, name)
    if promise.missing_bytes > 0:
        missing = promise.missing_bytes
        raise truncated(name, f"its header promises {missing} bytes more than it holds")


def _check_rate(rate_hz: int, limits: Limits, name: str) -> None:
    if not limits.min_rate_hz <= rate_hz <= limits.rate_hz:
        raise BadRecording(
            ErrorCode.AUDIO_BAD_RATE,
            name,
            f"its sample rate is {rate_hz} Hz, not {limits.min_rate_hz} to {limits.rate_hz} Hz",
            "Look at what wrote the file, or resample it.",
        )


def _identify(source: _Source, raw: Mapping[str, RawFormat]) -> Probed:
    """Return how the file is to be read, by its first bytes if they tell, else by its suffix."""
    suffix = source.suffix
    if source.container in _FOREIGN:
        return _foreign(source)
    if source.container is None and suffix in raw:
        return _raw(source, raw[suffix])
    if source.container is None and suffix in _RAW_AMBIGUOUS:
        raise BadRecording(
            ErrorCode.AUDIO_RAW_UNKNOWN,
            source.name,
            f"a {suffix} file has no header that says what it holds",
            f"Say it, for instance --raw {suffix}=s16le:8000",
        )
    try:
        # By descriptor: soundfile would take whatever is called .raw for a file without header.
        with (
            open(source.path, "rb") as opened,
            soundfile.SoundFile(opened.fileno(), closefd=False) as file,
        ):
            probed = _native(file)
    except soundfile.LibsndfileError:
        return _foreign(source)
    if probed.format.frames or source.container == "FLAC":
        return probed
    if source.promise.open_ended:
        # Written to a pipe, and nobody filled in the length: libsndfile believes in 0 frames,
        # FFmpeg reads until the end.
        return _foreign(source)
    raise empty(source.name, "it has a header and no samples")


def _native(file: soundfile.SoundFile) -> Probed:
    frames = file.frames if 0 < file.frames < _UNKNOWN_FRAMES else 0
    return Probed(
        AudioFormat(file.format, file.subtype, file.samplerate, file.channels, frames),
        copied=not (frames and file.seekable()) or file.subtype in _INEXACT,
        copy_bits=24 if file.subtype in _DEEP else 16,
    )


def _raw(source: _Source, raw: RawFormat) -> Probed:
    if raw.encoding.islower():
        return _foreign(source, raw.encoding)
    try:
        with soundfile.SoundFile(
            source.path,
            format="RAW",
            subtype=raw.encoding,
            samplerate=raw.rate_hz,
            channels=raw.channels,
        ) as file:
            probed = _native(file)
    except soundfile.LibsndfileError as error:
        raise _refused(source, f"it is no raw {raw.encoding}: {error}") from error
    if not probed.format.frames:
        raise empty(source.name, "it is shorter than one frame")
    # AudioFormat knows no byte order: what is not in the usual one, workers read from a copy.
    return replace(probed, copied=probed.copied or raw.big_endian, big_endian=raw.big_endian)


def _foreign(source: _Source, demuxer: str | None = None) -> Probed:
    try:
        facts = foreign.describe(source.path, demuxer)
    except foreign.NoAudioError as error:
        raise _refused(source, str(error), ErrorCode.AUDIO_NOT_AUDIO) from error
    except foreign.UnknownEncodingError as error:
        raise _refused(source, str(error)) from error
    except foreign.UndecodableError as error:
        known = source.container or demuxer
        code = ErrorCode.AUDIO_BAD_HEADER if known else ErrorCode.AUDIO_NOT_AUDIO
        raise _refused(source, f"no decoder can read it ({error})", code) from error
    frames = (facts.duration_ms or 0) * facts.rate_hz // 1000
    return Probed(
        AudioFormat(facts.container, facts.encoding, facts.rate_hz, facts.channels, frames),
        copied=True,
        copy_bits=facts.bits,
        foreign=True,
        demuxer=demuxer,
        flags=(FIRST_STREAM,) if facts.audio_streams > 1 else (),
    )


def _refused(
    source: _Source, cause: str, code: ErrorCode = ErrorCode.AUDIO_BAD_HEADER
) -> BadRecording:
    remedy = "Convert it to WAV or FLAC, or leave it out if it is no recording."
    return BadRecording(code, source.name, cause, remedy)
