"""What libsndfile cannot open, through PyAV: tracks, and samples at the file's own rate.

The files are untrusted and FFmpeg reads playlists, so it is given an open file instead of a name,
and only demuxers that read nothing else.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, BinaryIO

import av
import av.error

from producer.intake.containers.account import LATEST_START_MS
from producer.intake.file_spans import open_spans
from producer.intake.pieces import (
    CopyFormat,
    LostAudio,
    Piece,
    Pieces,
    UndecodableError,
    check_gaps,
    samples_of,
    side_by_side,
    silent_pieces,
)

_DEMUXERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,asf,amr,amrnb,amrwb,aac,g729,g722,g726,g723_1,gsm,"
    "wav,w64,mp3,ogg,flac,caf,aiff,au,avi,ilbc,mpegts,flv,voc,nistsphere"
)
#: Of these, the clock begins with the recording, wherever the audio does: the others count from
#: when a switch was started, or a broadcast.
_RECORDINGS_CLOCK = frozenset({"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"})
#: Of these, samples are counted and nobody leaves any out: a gap is damage.
_UNBROKEN = frozenset({"flac", "wav", "w64", "aiff", "au", "caf", "voc"})
#: Time stamps jitter by a packet; a gap longer than this is one: a recorder that writes nothing
#: while nobody speaks. It is filled with silence, or all that follows would be too early.
_GAP_MS = 100
#: What says that a track holds what another does, in other words or for other ears.
_ALTERNATIVES = ("comment", "dub", "karaoke", "lyrics", "visual_impaired", "hearing_impaired")
_ALTERNATIVE_TITLES = ("comment", "kommentar", "commentaire", "descri", "dubb", "original audio")


class UnknownEncodingError(UndecodableError):
    """The container is sound, and no decoder knows what is in it."""


class NoAudioError(UndecodableError):
    """The container is sound, and holds no audio."""


@dataclass(frozen=True, slots=True)
class AudioTrack:
    """One track of audio: ``start_offset_ms`` is when it begins on the recording's clock."""

    index: int
    rate_hz: int
    channels: int
    start_offset_ms: int
    language: str
    is_alternative: bool
    bits: int


@dataclass(frozen=True, slots=True)
class TrackFacts:
    """What is in a file that FFmpeg demuxes."""

    container: str
    encoding: str
    bits: int
    tracks: tuple[AudioTrack, ...]

    @property
    def are_speakers(self) -> bool:
        """Whether its tracks are the sides of a call: on one clock, and none instead of another."""
        languages = {track.language for track in self.tracks} - {"und"}
        return len(languages) <= 1 and not any(track.is_alternative for track in self.tracks)


def describe_tracks(source: bytes | BinaryIO, demuxer: str | None = None) -> TrackFacts:
    """Return the facts of a file's audio, as each track's first decoded frame has them.

    The header's rate is not trusted: HE-AAC states half of what comes out. ``demuxer`` names the
    format of a file without header.

    Raises:
        UndecodableError: FFmpeg cannot read it.
    """
    with _open_container(source, demuxer) as container:
        streams = _audio_streams(container)
        container_name = container.format.name.split(",")[0].upper()
        encoding, codec = streams[0].codec_context.name.upper(), streams[0].codec_context.codec
    candidates = [_describe_track(source, demuxer, n) for n in range(len(streams))]
    tracks = tuple(track for track in candidates if track is not None)
    if not tracks:
        raise UndecodableError("it holds no audio frame")
    # What a lossy codec left out is more than what the 17th bit holds.
    is_deep = codec.lossless and not codec.lossy and max(track.bits for track in tracks) > 16
    return TrackFacts(container_name, encoding, 24 if is_deep else 16, tracks)


def _audio_streams(container: Any) -> Sequence[Any]:
    if not container.streams.audio:
        raise NoAudioError("it holds no audio")
    known_streams = [s for s in container.streams.audio if s.codec_context is not None]
    if not known_streams:
        raise UnknownEncodingError(f"no decoder knows its encoding ({container.format.name})")
    return known_streams


def _describe_track(
    source: bytes | BinaryIO, demuxer: str | None, number: int
) -> AudioTrack | None:
    """Return a track by its first frame; None of one without any."""
    with _open_container(source, demuxer) as container:
        stream = _audio_streams(container)[number]
        frame, lead_ms = _first_frame(container, stream)
        if frame is None:
            return None
        title = stream.metadata.get("title", "").casefold()
        disposition = str(getattr(stream, "disposition", "")).casefold()
        return AudioTrack(
            index=number,
            rate_hz=frame.sample_rate,
            channels=frame.layout.nb_channels,
            start_offset_ms=_start_offset_ms(container, frame, lead_ms),
            language=stream.metadata.get("language", "und"),
            is_alternative=any(word in title for word in _ALTERNATIVE_TITLES)
            or any(word in disposition for word in _ALTERNATIVES),
            bits=frame.format.bits,
        )


#: Packets that no decoder may understand before a track is given up: a caller who says nothing
#: for a while is sent as comfort noise.
_MAX_UNDECODABLE = 3_000


def _first_frame(container: Any, stream: Any) -> tuple[Any, float]:
    """Return a track's first decoded frame, None where none comes, and what precedes it, in ms."""
    error: Exception | None = None
    lead_ms = 0.0
    for number, packet in enumerate(container.demux(stream)):
        try:
            frames = packet.decode()
        except av.error.FFmpegError as decode_error:
            error = decode_error
            lead_ms += _packet_ms(packet)
            if number > _MAX_UNDECODABLE:
                break
            continue
        if frames:
            return frames[0], lead_ms
    if error is not None:
        raise error
    return None, 0.0


def _start_offset_ms(container: Any, frame: Any, lead_ms: float) -> int:
    """Return when a track begins on the recording's clock, in milliseconds."""
    if frame.pts is None:
        return 0
    track_start_ms = round(float(frame.pts * frame.time_base) * 1000 - lead_ms)
    if container.format.name in _RECORDINGS_CLOCK:
        return max(track_start_ms, 0) if track_start_ms <= LATEST_START_MS else 0
    if len(container.streams) == 1:
        # There is nothing that it could be late for: its decoder's delay is not the call's.
        return 0
    container_start_ms = round((container.start_time or 0) * 1000 / av.time_base)
    return max(track_start_ms - container_start_ms, 0)


@dataclass(frozen=True, slots=True)
class TrackReader:
    """Tracks of a file that FFmpeg demuxes: the first, or each as a channel.

    ``files`` are where the files lie that were joined to one, ``demuxer`` what reads one without a
    header.
    """

    files: tuple[tuple[int, int], ...]
    tracks: tuple[AudioTrack, ...]
    bits: int
    demuxer: str | None = None

    @property
    def copy_format(self) -> CopyFormat:
        """The highest rate of all tracks; the first one's channels, or one for each."""
        channels = len(self.tracks) if len(self.tracks) > 1 else self.tracks[0].channels
        return CopyFormat(max(track.rate_hz for track in self.tracks), channels, self.bits)

    def pieces(self, path: bytes) -> Pieces:
        """Yield all files."""
        with open(path, "rb") as file:
            size = file.seek(0, io.SEEK_END)
        for number, span in enumerate(self.files):
            part = None if span == (0, size) else span
            if len(self.tracks) == 1:
                yield from self._decode(path, part, self.tracks[0], is_first=not number)
                continue
            tracks = [self._decode(path, part, track, is_first=not number) for track in self.tracks]
            yield from side_by_side(tracks, self.copy_format.rate_hz)

    def _decode(
        self, path: bytes, span: tuple[int, int] | None, track: AudioTrack, *, is_first: bool
    ) -> Pieces:
        if is_first and track.start_offset_ms > _GAP_MS:
            frames = track.start_offset_ms * track.rate_hz // 1000
            yield from silent_pieces(frames, track.channels, track.rate_hz)
        if span is None:
            yield from read_track(path, self.demuxer, track.index)
            return
        with open_spans(path, b"", (span,)) as source:
            yield from read_track(source, self.demuxer, track.index)


def read_track(source: bytes | BinaryIO, demuxer: str | None = None, number: int = 0) -> Pieces:
    """Yield an audio track's samples, and silence where nothing was recorded.

    Raises:
        UndecodableError: the file cannot be demuxed on.
    """
    with _open_container(source, demuxer) as container:
        streams = _audio_streams(container)
        if number >= len(streams):
            return
        stream, clock = streams[number], _TimestampClock()
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except (av.error.FFmpegError, ValueError) as error:
                lost_ms = _packet_ms(packet)
                if not _is_quiet(stream.codec_context.name, packet):
                    yield LostAudio(lost_ms, getattr(error, "strerror", "") or str(error))
                yield from clock.skip_packet(lost_ms, stream)
                continue
            for frame in frames:
                samples = samples_of(frame)
                silent_samples = clock.silent_samples_before(frame)
                if silent_samples and container.format.name in _UNBROKEN:
                    lost_ms = silent_samples * 1000 / frame.sample_rate
                    yield LostAudio(lost_ms, "frames are missing")
                yield from silent_pieces(silent_samples, samples.shape[1], frame.sample_rate)
                yield Piece(samples, frame.sample_rate)


#: By decoder, the first type of AMR's frames that holds no speech: comfort noise, or nothing.
_QUIET_TYPES = {"amrnb": 8, "amrwb": 9}


def _is_quiet(codec: str, packet: Any) -> bool:
    """Tell whether a packet of AMR says that nobody speaks, which FFmpeg cannot decode."""
    first_byte = bytes(packet)[:1]
    return bool(first_byte) and first_byte[0] >> 3 & 15 >= _QUIET_TYPES.get(codec, 16)


def _packet_ms(packet: Any) -> float:
    if not packet.duration or packet.time_base is None:
        return 0.0
    return float(packet.duration * packet.time_base * 1000)


class _TimestampClock:
    """Compares frames' time stamps with the samples decoded so far."""

    def __init__(self) -> None:
        self._origin_s: float | None = None
        self._decoded_s = 0.0
        self._silence_s = 0.0

    def skip_packet(self, ms: float, stream: Any) -> Iterator[Piece]:
        """Yield silence in place of a packet that cannot be decoded."""
        context = stream.codec_context
        if context.sample_rate and context.channels:
            frames = round(ms * context.sample_rate / 1000)
            self._decoded_s += frames / context.sample_rate
            yield from silent_pieces(frames, context.channels, context.sample_rate)

    def silent_samples_before(self, frame: Any) -> int:
        """Return how many samples of silence belong before ``frame``, and count both.

        Raises:
            UndecodableError: it would be next to nothing but silence.
        """
        rate_hz, silent_samples = frame.sample_rate, 0
        if frame.pts is not None:
            pts_s = float(frame.pts * frame.time_base)
            if self._origin_s is None:
                self._origin_s = pts_s - self._decoded_s
            late_samples = round((pts_s - self._origin_s - self._decoded_s) * rate_hz)
            silent_samples = late_samples if late_samples * 1000 > _GAP_MS * rate_hz else 0
        self._decoded_s += (silent_samples + frame.samples) / rate_hz
        self._silence_s += silent_samples / rate_hz
        check_gaps(self._silence_s, self._decoded_s)
        return silent_samples


@contextmanager
def _open_container(source: bytes | BinaryIO, demuxer: str | None) -> Iterator[Any]:
    """Open a file; FFmpeg's errors become ours."""
    options = {"format_whitelist": _DEMUXERS, "protocol_whitelist": ""}
    try:
        with open(source, "rb") if isinstance(source, bytes) else nullcontext(source) as file:
            file.seek(0)
            # Tags are nobody's business here, and many are in the code page of their day.
            with av.open(
                _NamelessFile(file), format=demuxer, options=options, metadata_errors="replace"
            ) as container:
                yield container
    except (av.error.FFmpegError, OSError) as error:
        raise UndecodableError(error.strerror or str(error)) from error


class _NamelessFile:
    """A file that FFmpeg must tell by its content: it would trust a name's suffix."""

    def __init__(self, file: Any) -> None:
        self.read = file.read
        self.seek = file.seek
        self.tell = file.tell
