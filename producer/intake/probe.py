"""From a file to facts: what it is, how to read it, and whether it is what it says.

Its container is walked, and nothing is decoded but a first frame. What cannot be transcribed is
refused here, each defect by its own code; what only decoding all of it can show is walk by
``producer/intake/full_decode`` and ``producer/intake/scan``.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import BinaryIO, NamedTuple

import soundfile

from producer.intake import pyav
from producer.intake.containers import (
    broadcast,
    chunked,
    elementary,
    flac,
    iso,
    matroska,
    mpeg,
    ogg,
    riff,
    sizes,
)
from producer.intake.containers.account import TOLERANCE_MS, Account, Break, Walk, earliest
from producer.intake.containers.sniff import identify
from producer.intake.headless import (
    RAW_AMBIGUOUS,
    RAW_ENCODINGS,
    RawFormat,
    excerpts,
    takes_turns,
)
from producer.intake.libsndfile import (
    NativeReader,
    SequenceReader,
    bits_of,
    joined_files,
    take_reader,
)
from producer.intake.packets import MpegReader, OggReader
from producer.intake.pieces import Reader, UndecodableError
from producer.intake.refusals import empty, no_channels, truncated_at
from schema.errors import BadRecording, ErrorCode
from schema.profile import TracksMode
from schema.records import HEADLESS, AudioFormat, Location
from schema.settings import Limits
from schema.span import duration_of
from schema.storage.roots import unreachable
from schema.transcript import Flag

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
#: libsndfile says this for a length that the header leaves open.
_UNKNOWN_FRAMES = 2**62
#: Of a headless file that lasts less, samples say too little to refuse it: it is flagged.
_TELLING_S = 4
#: Of what says nothing of its length.
_NO_ACCOUNT = Account()


class Choices(NamedTuple):
    """What whoever submits decided of files that can be read in more than one way.

    ``tracks`` is which of several tracks are read, ``take`` whether a broken file's rest is.
    """

    tracks: TracksMode = "auto"
    take: bool = False


AUTOMATIC = Choices()


@dataclass(frozen=True, slots=True)
class Probed:
    """How to read a file, and what it says of itself.

    ``format.frames`` is 0 where it does not say. ``reader`` decodes it; None is libsndfile, on
    the file as it is. ``copied`` files are read by workers from a copy of ``copy_bits`` bits in
    the spool. ``breaks`` are where audio is missing, in a file that is taken all the same;
    ``speakers`` says that its channels were tracks.
    """

    format: AudioFormat
    copied: bool
    copy_bits: int = 16
    reader: Reader | None = None
    account: Account = _NO_ACCOUNT
    big_endian: bool = False
    flags: tuple[str, ...] = ()
    speakers: bool = False

    @property
    def breaks(self) -> tuple[Break, ...]:
        """Where its own account says that audio is missing."""
        return self.account.breaks


def probe(
    path: bytes,
    raw: Mapping[str, RawFormat],
    limits: Limits,
    name: str | None = None,
    suffix: bytes | None = None,
    choices: Choices = AUTOMATIC,
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
    size = _size(path, limits, name)
    try:
        with open(path, "rb") as file:
            container, start = identify(file, size)
            source = _Source(
                path, name, os.fsdecode(suffix).lower(), container, start, size, file, choices
            )
            probed = _identify(source, raw, limits)
    except OSError as error:
        raise unreachable(name, error) from error
    broken = earliest(probed.breaks)
    if broken is not None and not choices.take:
        raise truncated_at(name, broken)
    check_format(probed.format, limits, name)
    if probed.account.unread_bytes:
        unread = f"{Flag.UNREAD_DATA}:{probed.account.unread_bytes}"
        probed = replace(probed, flags=(*probed.flags, unread))
    # What is broken is read by whoever can stand it, once.
    return replace(probed, copied=probed.copied or broken is not None)


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


class _Source(NamedTuple):
    """An open file whose first bytes were looked at; its audio begins at ``start``."""

    path: bytes
    name: str
    suffix: str
    container: str | None
    start: int
    size: int
    file: BinaryIO
    choices: Choices


def _check_rate(rate_hz: int, limits: Limits, name: str) -> None:
    if not limits.min_rate_hz <= rate_hz <= limits.rate_hz:
        raise BadRecording(
            ErrorCode.AUDIO_BAD_RATE,
            name,
            f"its sample rate is {rate_hz} Hz, not {limits.min_rate_hz} to {limits.rate_hz} Hz",
            "Look at what wrote the file, or resample it.",
        )


def _identify(source: _Source, raw: Mapping[str, RawFormat], limits: Limits) -> Probed:
    """Return how the file is to be read, by its first bytes if they tell, else by its suffix."""
    container, suffix = source.container, source.suffix
    if container is None and suffix in raw:
        return _raw(source, raw[suffix])
    if container is None and suffix in RAW_AMBIGUOUS:
        raise BadRecording(
            ErrorCode.AUDIO_RAW_UNKNOWN,
            source.name,
            f"a {suffix} file has no header that says what it holds",
            f"Say it, for instance --raw {suffix}=s16le:8000",
        )
    try:
        return _PROBES.get(container or "", _foreign_alone)(source, limits)
    except UndecodableError as error:
        raise _refused(source, f"no decoder can read it ({error})") from error


def _foreign_alone(source: _Source, _: Limits) -> Probed:
    return _foreign(source)


def _mpeg(source: _Source, _: Limits) -> Probed:
    walk = mpeg.walk(source.file, source.start, source.size)
    streams = tuple(stream for stream in walk.streams if stream.samples)
    if not streams:
        return _foreign(source)
    layer = "I" * streams[0].shape.layer
    reader = MpegReader(streams)
    changes = len({stream.shape[1:3] for stream in streams}) > 1
    flags = (Flag.FORMAT_CHANGES,) if changes else ()
    return _copied(reader, walk.account, "MP3", f"MPEG_LAYER_{layer}", flags)


def _copied(
    reader: Reader, account: Account, container: str, encoding: str, flags: tuple[str, ...] = ()
) -> Probed:
    """Return what is decoded once, into a copy."""
    frames = (account.duration_ms or 0) * reader.rate_hz // 1000
    audio = AudioFormat(container, encoding, reader.rate_hz, reader.channels, frames)
    return Probed(audio, True, reader.bits, reader, account, flags=flags)


def _ogg(source: _Source, _: Limits) -> Probed:
    walk = ogg.walk(source.file, source.start, source.size)
    if not walk.links:
        return _foreign(source)
    most = max(len(link) for link in walk.links)
    beside = most > 1 and source.choices.tracks != "first"
    reader = OggReader(walk.links, beside)
    flags = _track_flags(most, most if beside else 1)
    probed = _copied(reader, walk.account, "OGG", walk.links[0][0].codec.upper(), flags)
    return replace(probed, speakers=beside)


def _track_flags(tracks: int, taken: int) -> tuple[str, ...]:
    if tracks == 1:
        return ()
    if taken > 1:
        return (f"{Flag.TRACKS_AS_CHANNELS}:{taken}",)
    return (f"{Flag.OTHER_TRACKS}:{tracks - taken}",)


def _wav(source: _Source, limits: Limits) -> Probed:
    walk = riff.walk(source.file, source.start, source.size)
    if not walk.takes:
        raise _refused(source, "it has no description of its samples (fmt)")
    first = walk.takes[0]
    if first.channels == 0:
        raise no_channels(source.name)
    for take in walk.takes:
        _check_rate(take.rate_hz, limits, source.name)
    if walk.is_empty:
        raise empty(source.name, "it has a header and no samples")
    if walk.is_plain and not walk.account.breaks and (probed := _plain_wav(source, walk)):
        return probed
    readers, encodings = zip(*(take_reader(source.path, take) for take in walk.takes), strict=True)
    reader = readers[0] if len(readers) == 1 else SequenceReader(readers)
    flags = (f"{Flag.APPENDED_AUDIO}:{walk.appended_bytes}",) if walk.appended_bytes else ()
    if len({(take.rate_hz, take.channels) for take in walk.takes}) > 1:
        flags = (*flags, Flag.FORMAT_CHANGES)
    return _copied(reader, walk.account, "WAV", encodings[0], flags)


def _plain_wav(source: _Source, walk: riff.RiffWalk) -> Probed | None:
    """Return how libsndfile reads a WAV as it is; None where it would not read what is there."""
    (take,) = walk.takes
    if riff.is_mpeg(source.file, take) or take.rest_frames(take.size):
        return None
    try:
        probed = _open_native(source, walk.account)
    except soundfile.LibsndfileError:
        return None
    frames = take.frames_in(take.size)
    held = probed.format.frames
    if not held or (frames is not None and held != frames and not _is_block_rest(take, held)):
        return None
    return probed


def _is_block_rest(take: riff.Take, frames: int) -> bool:
    """Tell whether a header may count less than its last block of ADPCM or GSM holds."""
    last = take.frames_in(take.size) or 0
    block = take.frames_in(take.align) or 0
    return block > 1 and last - block < frames <= last


def _flac(source: _Source, _: Limits) -> Probed:
    walk = flac.walk(source.file, source.start, source.size)
    if source.choices.take and len(walk.files) == 1:
        # Where a frame is damaged libsndfile gives up, and FFmpeg goes on with the next.
        return _foreign(source, account=walk.account)
    if walk.files != ((0, source.size),) and (len(walk.files) > 1 or walk.is_true):
        reader = joined_files(source.path, walk.files)
        return _copied(reader, walk.account, "FLAC", "FLAC")
    if not walk.is_true:
        # libsndfile believes the header; FFmpeg reads frames.
        return _foreign(source, account=walk.account)
    try:
        return _open_native(source, walk.account)
    except soundfile.LibsndfileError:
        return _foreign(source, account=walk.account)


def _chunked(source: _Source, limits: Limits) -> Probed:
    container = source.container or ""
    walk = chunked.walk(source.file, container, source.size)
    if walk.channels == 0 and container in {"W64", "CAF"}:
        raise no_channels(source.name)
    if walk.rate_hz is not None and container in {"W64", "CAF", "AU"}:
        _check_rate(walk.rate_hz, limits, source.name)
    if walk.is_empty:
        raise empty(source.name, "it has a header and no samples")
    if walk.header is not None:
        # libsndfile believes in 0 frames, FFmpeg in no such file.
        reader = joined_files(source.path, (walk.samples,), walk.header)
        account = replace(walk.account, duration_ms=reader.duration_ms)
        return _copied(reader, account, container, container)
    if walk.files != ((0, source.size),):
        reader = joined_files(source.path, walk.files)
        account = replace(walk.account, duration_ms=reader.duration_ms)
        return _copied(reader, account, container, container)
    return _native(source, walk.account)


def _native_alone(source: _Source, _: Limits) -> Probed:
    walk = sizes.walk_voc if source.container == "VOC" else sizes.walk_nist
    return _native(source, walk(source.file, source.start, source.size).account)


def _native(source: _Source, account: Account) -> Probed:
    """Return how libsndfile reads a file, or FFmpeg where it cannot."""
    try:
        probed = _open_native(source, account)
    except soundfile.LibsndfileError:
        return _foreign(source, account=account)
    if probed.format.frames:
        return probed
    raise empty(source.name, "it has a header and no samples")


def _open_native(source: _Source, account: Account) -> Probed:
    # By descriptor: soundfile would take whatever is called .raw for a file without header.
    source.file.seek(0)
    with soundfile.SoundFile(source.file.fileno(), closefd=False) as file:
        return _native_format(file, account)


def _native_format(file: soundfile.SoundFile, account: Account) -> Probed:
    frames = file.frames if 0 < file.frames < _UNKNOWN_FRAMES else 0
    audio = AudioFormat(file.format, file.subtype, file.samplerate, file.channels, frames)
    return Probed(
        audio,
        copied=not (frames and file.seekable()) or file.subtype in _INEXACT,
        copy_bits=bits_of(file.subtype),
        account=account,
    )


def _raw(source: _Source, raw: RawFormat) -> Probed:
    if raw.encoding.islower():
        return _foreign(source, raw.encoding)
    audio = AudioFormat(HEADLESS, raw.encoding, raw.rate_hz, raw.channels, 0)
    try:
        with soundfile.SoundFile(
            source.path,
            format=HEADLESS,
            subtype=raw.encoding,
            samplerate=raw.rate_hz,
            channels=raw.channels,
        ) as file:
            probed = _native_format(file, _NO_ACCOUNT)
            turns = raw.channels == 1 and takes_turns(excerpts(file))
    except soundfile.LibsndfileError as error:
        raise _refused(source, f"it is no raw {raw.encoding}: {error}") from error
    if not probed.format.frames:
        raise empty(source.name, "it is shorter than one frame")
    if turns and raw.assumed and probed.format.frames >= _TELLING_S * raw.rate_hz:
        raise _two_channels(source, raw)
    # AudioFormat knows no byte order: what is not in the usual one, workers read from a copy.
    return replace(
        probed,
        copied=probed.copied or raw.big_endian,
        reader=NativeReader(audio, big_endian=True) if raw.big_endian else None,
        big_endian=raw.big_endian,
        flags=(Flag.TWO_CHANNELS_SUSPECTED,) if turns else (),
    )


def _two_channels(source: _Source, raw: RawFormat) -> BadRecording:
    encoding = next(
        name for name, of in RAW_ENCODINGS.items() if of == (raw.encoding, raw.big_endian)
    )
    stereo = f"--raw {source.suffix}={encoding}:{raw.rate_hz}:2"
    mono = f"--raw {source.suffix}={encoding}:{raw.rate_hz}"
    return BadRecording(
        ErrorCode.AUDIO_RAW_UNKNOWN,
        source.name,
        "its samples are those of two channels in turn, and its suffix alone would mean one",
        f"Say {stereo}; or {mono}, if one channel it is.",
    )


def _foreign(source: _Source, demuxer: str | None = None, account: Account | None = None) -> Probed:
    walk = _WALKS.get(source.container or "", _walk_nothing)
    walked = walk(source.file, source.start, source.size)
    account = walked.account if account is None else account
    try:
        facts = pyav.describe(source.path, demuxer)
    except pyav.NoAudioError as error:
        raise _refused(source, str(error), ErrorCode.AUDIO_NOT_AUDIO) from error
    except pyav.UnknownEncodingError as error:
        raise _refused(source, str(error)) from error
    except UndecodableError as error:
        broken = earliest(account.breaks)
        if broken is not None:
            remedy = "Hand in the complete file; what there is of it, no decoder can read."
            raise BadRecording(
                ErrorCode.AUDIO_TRUNCATED, source.name, broken.cause, remedy
            ) from error
        known = source.container or demuxer
        code = ErrorCode.AUDIO_BAD_HEADER if known else ErrorCode.AUDIO_NOT_AUDIO
        raise _refused(source, f"no decoder can read it ({error})", code) from error
    return _foreign_probed(source, facts, replace(walked, account=account), demuxer)


def _walk_nothing(_file: BinaryIO, _start: int, size: int) -> Walk:
    return Walk(((0, size),), _NO_ACCOUNT)


#: Of what FFmpeg reads, by container.
_WALKS: Mapping[str, Callable[[BinaryIO, int, int], Walk]] = {
    "ISO": iso.walk,
    "MATROSKA": matroska.walk,
    "ADTS": elementary.walk_adts,
    "AMR": elementary.walk_amr,
    "ASF": sizes.walk_asf,
    "AVI": sizes.walk_avi,
    "FLV": broadcast.walk_flv,
    "TS": broadcast.walk_ts,
}


def _foreign_probed(
    source: _Source,
    facts: pyav.ForeignFacts,
    walked: Walk,
    demuxer: str | None,
) -> Probed:
    tracks, mode = facts.tracks, source.choices.tracks
    beside = len(tracks) > 1 and (mode == "speakers" or (mode == "auto" and facts.are_speakers))
    taken = tracks if beside else tracks[:1]
    flags = _track_flags(len(tracks), len(taken))
    late_ms = min(track.late_ms for track in taken)
    if late_ms > TOLERANCE_MS:
        flags = (*flags, f"{Flag.LATE_START}:{late_ms}")
    first = taken[0]
    if len(taken) == 1 and walked.channels and walked.channels != first.channels:
        flags = (*flags, Flag.FORMAT_CHANGES)
        taken = (replace(first, channels=max(walked.channels, first.channels)),)
    reader = pyav.ForeignReader(walked.files, taken, facts.bits, demuxer)
    probed = _copied(reader, walked.account, facts.container, facts.encoding, flags)
    return replace(probed, speakers=beside)


#: By container. Of any other FFmpeg is asked.
_PROBES: Mapping[str, Callable[[_Source, Limits], Probed]] = {
    "MP3": _mpeg,
    "OGG": _ogg,
    "WAV": _wav,
    "FLAC": _flac,
    **dict.fromkeys(chunked.CONTAINERS, _chunked),
    **dict.fromkeys(("NIST", "VOC"), _native_alone),
}


def _refused(
    source: _Source, cause: str, code: ErrorCode = ErrorCode.AUDIO_BAD_HEADER
) -> BadRecording:
    remedy = "Convert it to WAV or FLAC, or leave it out if it is no recording."
    return BadRecording(code, source.name, cause, remedy)
