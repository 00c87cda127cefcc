"""From a file to facts: what it is, how to read it, and whether it is what it says.

Its container is parsed, and nothing is decoded but a first frame. What cannot be transcribed is
refused here, each defect by its own code; what only decoding all of it can show is found by
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
from producer.intake.audio_errors import break_error, empty_error, no_channels_error
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
from producer.intake.containers.account import TOLERANCE_MS, Account, Layout, earliest_break
from producer.intake.containers.sniff import identify
from producer.intake.libsndfile import SequenceReader, bits_of, joined_files_reader, take_reader
from producer.intake.packets import MpegReader, OggReader
from producer.intake.pieces import AudioReader, UndecodableError
from producer.intake.raw_audio import (
    RAW_AMBIGUOUS,
    RAW_ENCODINGS,
    RawFormat,
    is_interleaved,
    read_excerpts,
)
from schema.errors import BadRecording, ErrorCode
from schema.profile import TracksMode
from schema.records import RAW_CONTAINER, AudioFormat, Location
from schema.settings import Limits
from schema.span import duration_of
from schema.storage.roots import unreachable_error
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
#: Of a raw file that lasts less, samples say too little to refuse it: it is flagged.
_MIN_TELLING_S = 4
#: Of what says nothing of its length.
_EMPTY_ACCOUNT = Account()


class ReadOptions(NamedTuple):
    """What whoever submits decided of files that can be read in more than one way.

    ``tracks`` says which of several, ``accept_truncated`` that a broken file's rest is taken.
    """

    tracks: TracksMode = "auto"
    accept_truncated: bool = False


DEFAULT_OPTIONS = ReadOptions()
Flags = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """How to read a file, and what it says of itself.

    ``format.frames`` is 0 where it does not say. ``reader`` decodes it; None is libsndfile, on
    the file as it is. ``needs_copy`` files are read by workers from a copy of ``copy_bits`` bits in
    the spool. Where ``account`` has breaks the file is taken all the same;
    ``tracks_are_speakers`` says that its channels were tracks.
    """

    format: AudioFormat
    needs_copy: bool
    copy_bits: int = 16
    reader: AudioReader | None = None
    account: Account = _EMPTY_ACCOUNT
    big_endian: bool = False
    flags: Flags = ()
    tracks_are_speakers: bool = False


def probe(
    path: bytes,
    raw: Mapping[str, RawFormat],
    limits: Limits,
    location: Location | None = None,
    options: ReadOptions = DEFAULT_OPTIONS,
) -> AudioInfo:
    """Return what a file is, or refuse it.

    ``raw`` maps suffixes, in lower case with their dot, to the formats of files without header.
    ``location`` is where the file was handed in: it gives its suffix, and its name in errors.

    Raises:
        BadRecording: it cannot be transcribed; the code says why.
    """
    location = location or Location("", path)
    name, suffix = location.name, os.fsdecode(os.path.splitext(location.path)[1]).lower()
    size = _checked_size(path, limits, name)
    try:
        with open(path, "rb") as file:
            container, start = identify(file, size)
            source = _OpenFile(path, name, suffix, container, start, size, file, options, limits)
            info = _probe_source(source, raw)
    except OSError as error:
        raise unreachable_error(name, error) from error
    first_break = earliest_break(info.account.breaks)
    if first_break is not None and not options.accept_truncated:
        raise break_error(name, first_break)
    check_format(info.format, limits, name)
    if info.account.unread_bytes:
        unread_flag = f"{Flag.UNREAD_DATA}:{info.account.unread_bytes}"
        info = replace(info, flags=(*info.flags, unread_flag))
    # What is broken is read by whoever can stand it, once.
    return replace(info, needs_copy=info.needs_copy or first_break is not None)


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
        cause = f"it lasts {duration_ms // 1000} s, more than {limits.duration_s} s"
        remedy = "Split it, or raise CALLSCRIBE_MAX_DURATION_S."
        raise BadRecording(ErrorCode.AUDIO_TOO_LONG, name, cause, remedy)
    if duration_ms < limits.min_duration_ms:
        cause = f"it lasts {duration_ms} ms, less than {limits.min_duration_ms} ms"
        remedy = "No word fits into it. Leave it out."
        raise BadRecording(ErrorCode.AUDIO_TOO_SHORT, name, cause, remedy)


def check_size(size_bytes: int, limits: Limits, name: str) -> None:
    """Refuse a file by its size.

    Raises:
        BadRecording: it is empty, or beyond ``limits``.
    """
    if not size_bytes:
        raise empty_error(name, "the file has 0 bytes")
    if size_bytes > limits.bytes:
        cause = f"it has {size_bytes} bytes, more than {limits.bytes}"
        remedy = "Split it, or raise CALLSCRIBE_MAX_BYTES."
        raise BadRecording(ErrorCode.AUDIO_TOO_BIG, name, cause, remedy)


def _checked_size(path: bytes, limits: Limits, name: str) -> int:
    try:
        status = os.stat(path)
    except OSError as error:
        raise unreachable_error(name, error) from error
    if not stat.S_ISREG(status.st_mode):
        # Never opened: a pipe blocks whoever opens it, and a device may do anything.
        raise BadRecording(
            ErrorCode.AUDIO_NOT_AUDIO, name, "it is not a regular file", "Submit a regular file."
        )
    check_size(status.st_size, limits, name)
    return status.st_size


class _OpenFile(NamedTuple):
    """An open file whose first bytes were looked at; its audio begins at ``start``."""

    path: bytes
    name: str
    suffix: str
    container: str | None
    start: int
    size: int
    file: BinaryIO
    options: ReadOptions
    limits: Limits


def _check_rate(rate_hz: int, limits: Limits, name: str) -> None:
    if not limits.min_rate_hz <= rate_hz <= limits.rate_hz:
        cause = f"its sample rate is {rate_hz} Hz, not {limits.min_rate_hz} to {limits.rate_hz} Hz"
        remedy = "Check what wrote the file, or resample it."
        raise BadRecording(ErrorCode.AUDIO_BAD_RATE, name, cause, remedy)


def _probe_source(source: _OpenFile, raw: Mapping[str, RawFormat]) -> AudioInfo:
    """Return how the file is to be read, by its first bytes if they tell, else by its suffix."""
    container, suffix = source.container, source.suffix
    if container is None and suffix in raw:
        return _probe_raw(source, raw[suffix])
    if container is None and suffix in RAW_AMBIGUOUS:
        cause = f"a {suffix} file has no header that says what it holds"
        remedy = f"Name its format, e.g. --raw {suffix}=s16le:8000"
        raise BadRecording(ErrorCode.AUDIO_RAW_UNKNOWN, source.name, cause, remedy)
    try:
        return _PROBES.get(container or "", _probe_with_ffmpeg)(source)
    except UndecodableError as error:
        raise _refusal(source, f"no decoder can read it ({error})") from error


def _probe_mpeg(source: _OpenFile) -> AudioInfo:
    layout = mpeg.parse_mpeg(source.file, source.start, source.size)
    streams = tuple(stream for stream in layout.streams if stream.samples)
    if not streams:
        return _probe_with_ffmpeg(source)
    layer = "I" * streams[0].shape.layer
    has_changes = len({stream.shape[1:3] for stream in streams}) > 1
    flags = (Flag.FORMAT_CHANGES,) if has_changes else ()
    return _copy_info(MpegReader(streams), layout.account, "MP3", f"MPEG_LAYER_{layer}", flags)


def _copy_info(
    reader: AudioReader, account: Account, container: str, encoding: str, flags: Flags = ()
) -> AudioInfo:
    """Return what is decoded once, into a copy."""
    rate_hz, channels, bits = reader.copy_format
    stated_frames = (account.duration_ms or 0) * rate_hz // 1000
    audio = AudioFormat(container, encoding, rate_hz, channels, stated_frames)
    return AudioInfo(audio, True, bits, reader, account, flags=flags)


def _probe_ogg(source: _OpenFile) -> AudioInfo:
    layout = ogg.parse_ogg(source.file, source.start, source.size)
    if not layout.links:
        return _probe_with_ffmpeg(source)
    track_count = max(len(link) for link in layout.links)
    tracks_are_speakers = track_count > 1 and source.options.tracks != "first"
    reader = OggReader(layout.links, tracks_are_speakers)
    flags = _track_flags(track_count, track_count if tracks_are_speakers else 1)
    info = _copy_info(reader, layout.account, "OGG", layout.links[0][0].codec.upper(), flags)
    return replace(info, tracks_are_speakers=tracks_are_speakers)


def _track_flags(track_count: int, selected_count: int) -> Flags:
    if track_count == 1:
        return ()
    if selected_count > 1:
        return (f"{Flag.TRACKS_AS_CHANNELS}:{selected_count}",)
    return (f"{Flag.OTHER_TRACKS}:{track_count - selected_count}",)


def _probe_wav(source: _OpenFile) -> AudioInfo:
    layout = riff.parse_riff(source.file, source.start, source.size)
    if not layout.takes:
        raise _refusal(source, "it has no description of its samples (fmt)")
    first_take = layout.takes[0]
    if first_take.channels == 0:
        raise no_channels_error(source.name)
    for take in layout.takes:
        _check_rate(take.rate_hz, source.limits, source.name)
    if layout.is_empty:
        raise empty_error(source.name, "it has a header and no samples")
    if layout.is_plain and not layout.account.breaks and (info := _probe_plain_wav(source, layout)):
        return info
    readers, encodings = zip(*(take_reader(source.path, t) for t in layout.takes), strict=True)
    reader = readers[0] if len(readers) == 1 else SequenceReader(readers)
    flags = (f"{Flag.APPENDED_AUDIO}:{layout.appended_bytes}",) if layout.appended_bytes else ()
    if len({(take.rate_hz, take.channels) for take in layout.takes}) > 1:
        flags = (*flags, Flag.FORMAT_CHANGES)
    return _copy_info(reader, layout.account, "WAV", encodings[0], flags)


def _probe_plain_wav(source: _OpenFile, layout: riff.RiffLayout) -> AudioInfo | None:
    """Return how libsndfile reads a WAV as it is; None where it would not read what is there."""
    (take,) = layout.takes
    if riff.is_mpeg(source.file, take) or take.rest_frames(take.size):
        return None
    try:
        info = _open_native(source, layout.account)
    except soundfile.LibsndfileError:
        return None
    frames = take.frames_in(take.size)
    decoded_frames = info.format.frames
    is_header_right = frames in {None, decoded_frames} or _is_block_rest(take, decoded_frames)
    return info if decoded_frames and is_header_right else None


def _is_block_rest(take: riff.WavTake, frames: int) -> bool:
    """Tell whether a header may count less than its last block of ADPCM or GSM holds."""
    all_frames = take.frames_in(take.size) or 0
    block_frames = take.frames_in(take.align) or 0
    return block_frames > 1 and all_frames - block_frames < frames <= all_frames


def _probe_flac(source: _OpenFile) -> AudioInfo:
    layout = flac.parse_flac(source.file, source.start, source.size)
    if source.options.accept_truncated and len(layout.files) == 1:
        # Where a frame is damaged libsndfile gives up, and FFmpeg goes on with the next.
        return _probe_with_ffmpeg(source, account=layout.account)
    if layout.files != ((0, source.size),) and (len(layout.files) > 1 or layout.is_header_right):
        reader = joined_files_reader(source.path, layout.files)
        return _copy_info(reader, layout.account, "FLAC", "FLAC")
    if not layout.is_header_right:
        # libsndfile believes the header; FFmpeg reads frames.
        return _probe_with_ffmpeg(source, account=layout.account)
    try:
        return _open_native(source, layout.account)
    except soundfile.LibsndfileError:
        return _probe_with_ffmpeg(source, account=layout.account)


def _probe_chunked(source: _OpenFile) -> AudioInfo:
    container = source.container or ""
    layout = chunked.parse_chunked(source.file, container, source.size)
    if layout.channels == 0 and container in {"W64", "CAF"}:
        raise no_channels_error(source.name)
    if layout.rate_hz is not None and container in {"W64", "CAF", "AU"}:
        _check_rate(layout.rate_hz, source.limits, source.name)
    if layout.is_empty:
        raise empty_error(source.name, "it has a header and no samples")
    if layout.header is None and layout.files == ((0, source.size),):
        return _probe_native(source, layout.account)
    # Of a length that is left open, libsndfile believes in 0 frames, FFmpeg in no such file.
    files, header = (
        (layout.files, b"") if layout.header is None else ((layout.samples,), layout.header)
    )
    reader = joined_files_reader(source.path, files, header)
    account = replace(layout.account, duration_ms=reader.duration_ms)
    return _copy_info(reader, account, container, container)


def _probe_sized(source: _OpenFile) -> AudioInfo:
    parse_container = sizes.parse_voc if source.container == "VOC" else sizes.parse_nist
    return _probe_native(source, parse_container(source.file, source.start, source.size).account)


def _probe_native(source: _OpenFile, account: Account) -> AudioInfo:
    """Return how libsndfile reads a file, or FFmpeg where it cannot."""
    try:
        info = _open_native(source, account)
    except soundfile.LibsndfileError:
        return _probe_with_ffmpeg(source, account=account)
    if info.format.frames:
        return info
    raise empty_error(source.name, "it has a header and no samples")


def _open_native(source: _OpenFile, account: Account) -> AudioInfo:
    # By descriptor: soundfile would take whatever is called .raw for a file without header.
    source.file.seek(0)
    with soundfile.SoundFile(source.file.fileno(), closefd=False) as file:
        return _native_info(file, account)


def _native_info(file: soundfile.SoundFile, account: Account) -> AudioInfo:
    frames = file.frames if 0 < file.frames < _UNKNOWN_FRAMES else 0
    audio = AudioFormat(file.format, file.subtype, file.samplerate, file.channels, frames)
    return AudioInfo(
        audio,
        needs_copy=not (frames and file.seekable()) or file.subtype in _INEXACT,
        copy_bits=bits_of(file.subtype),
        account=account,
    )


def _probe_raw(source: _OpenFile, raw: RawFormat) -> AudioInfo:
    if raw.encoding.islower():
        return _probe_with_ffmpeg(source, raw.encoding)
    try:
        with soundfile.SoundFile(
            source.path, "r", raw.rate_hz, raw.channels, raw.encoding, format=RAW_CONTAINER
        ) as file:
            info = _native_info(file, _EMPTY_ACCOUNT)
            has_two_channels = raw.channels == 1 and is_interleaved(read_excerpts(file))
    except soundfile.LibsndfileError as error:
        raise _refusal(source, f"it is no raw {raw.encoding}: {error}") from error
    if not info.format.frames:
        raise empty_error(source.name, "it is shorter than one frame")
    is_long_enough = info.format.frames >= _MIN_TELLING_S * raw.rate_hz
    if has_two_channels and raw.is_assumed and is_long_enough:
        raise _interleaved_error(source, raw)
    # AudioFormat knows no byte order: what is not in the usual one, workers read from a copy.
    return replace(
        info,
        needs_copy=info.needs_copy or raw.big_endian,
        big_endian=raw.big_endian,
        flags=(Flag.TWO_CHANNELS_SUSPECTED,) if has_two_channels else (),
    )


def _interleaved_error(source: _OpenFile, raw: RawFormat) -> BadRecording:
    encoding = next(
        name for name, code in RAW_ENCODINGS.items() if code == (raw.encoding, raw.big_endian)
    )
    stereo = f"--raw {source.suffix}={encoding}:{raw.rate_hz}:2"
    mono = f"--raw {source.suffix}={encoding}:{raw.rate_hz}"
    cause = "its samples alternate between two channels, and its suffix means one"
    remedy = f"Use {stereo}; or {mono}, if it has one channel."
    return BadRecording(ErrorCode.AUDIO_RAW_UNKNOWN, source.name, cause, remedy)


def _probe_with_ffmpeg(
    source: _OpenFile, demuxer: str | None = None, account: Account | None = None
) -> AudioInfo:
    parse_container = _FFMPEG_PARSERS.get(source.container or "", _parse_unknown)
    layout = parse_container(source.file, source.start, source.size)
    account = layout.account if account is None else account
    try:
        facts = pyav.describe_tracks(source.path, demuxer)
    except pyav.NoAudioError as error:
        raise _refusal(source, str(error), ErrorCode.AUDIO_NOT_AUDIO) from error
    except pyav.UnknownEncodingError as error:
        raise _refusal(source, str(error)) from error
    except UndecodableError as error:
        first_break = earliest_break(account.breaks)
        if first_break is not None:
            remedy = "Submit the complete file. No decoder can read what is there."
            raise BadRecording(
                ErrorCode.AUDIO_TRUNCATED, source.name, first_break.cause, remedy
            ) from error
        container = source.container or demuxer
        code = ErrorCode.AUDIO_BAD_HEADER if container else ErrorCode.AUDIO_NOT_AUDIO
        raise _refusal(source, f"no decoder can read it ({error})", code) from error
    return _track_info(source, facts, replace(layout, account=account), demuxer)


def _parse_unknown(_file: BinaryIO, _start: int, size: int) -> Layout:
    return Layout(((0, size),), _EMPTY_ACCOUNT)


#: Of what FFmpeg reads, by container.
_FFMPEG_PARSERS: Mapping[str, Callable[[BinaryIO, int, int], Layout]] = {
    "ISO": iso.parse_iso,
    "MATROSKA": matroska.parse_matroska,
    "ADTS": elementary.parse_adts,
    "AMR": elementary.parse_amr,
    "ASF": sizes.parse_asf,
    "AVI": sizes.parse_avi,
    "FLV": broadcast.parse_flv,
    "TS": broadcast.parse_ts,
}


def _track_info(
    source: _OpenFile, facts: pyav.TrackFacts, layout: Layout, demuxer: str | None
) -> AudioInfo:
    tracks, mode = facts.tracks, source.options.tracks
    splits_tracks = mode == "speakers" or (mode == "auto" and facts.are_speakers)
    tracks_are_speakers = len(tracks) > 1 and splits_tracks
    selected = tracks if tracks_are_speakers else tracks[:1]
    flags = _track_flags(len(tracks), len(selected))
    start_offset_ms = min(track.start_offset_ms for track in selected)
    if start_offset_ms > TOLERANCE_MS:
        flags = (*flags, f"{Flag.LATE_START}:{start_offset_ms}")
    first_track = selected[0]
    channels = layout.channels
    if len(selected) == 1 and channels and channels != first_track.channels:
        flags = (*flags, Flag.FORMAT_CHANGES)
        selected = (replace(first_track, channels=max(channels, first_track.channels)),)
    reader = pyav.TrackReader(layout.files, selected, facts.bits, demuxer)
    info = _copy_info(reader, layout.account, facts.container, facts.encoding, flags)
    return replace(info, tracks_are_speakers=tracks_are_speakers)


#: By container. Of any other FFmpeg is asked.
_PROBES: Mapping[str, Callable[[_OpenFile], AudioInfo]] = {
    "MP3": _probe_mpeg,
    "OGG": _probe_ogg,
    "WAV": _probe_wav,
    "FLAC": _probe_flac,
    **dict.fromkeys(chunked.CONTAINERS, _probe_chunked),
    **dict.fromkeys(("NIST", "VOC"), _probe_sized),
}


def _refusal(
    source: _OpenFile, cause: str, code: ErrorCode = ErrorCode.AUDIO_BAD_HEADER
) -> BadRecording:
    remedy = "Convert it to WAV or FLAC, or leave it out if it is no recording."
    return BadRecording(code, source.name, cause, remedy)
