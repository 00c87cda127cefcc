"""Frames and packets that were found by our own parsers, through FFmpeg's decoders.

FFmpeg's demuxers of MP3 and Ogg believe the first header they see, lose what was joined behind, and
cut lengths they have estimated. Decoders get here exactly the frames that
:mod:`producer.intake.containers` found, in their order, so that what is decoded is what was
accounted for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import av
import av.error
import numpy as np

from producer.intake.containers import mpeg, ogg
from producer.intake.containers.account import TOLERANCE_MS
from producer.intake.containers.mpeg import MpegStream
from producer.intake.containers.ogg import OggStream
from producer.intake.containers.window import Window
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
from schema.pcm import Samples

#: What a packet of speech lasts where it does not say so itself.
_PACKET_MS = 20
_MPEG_DECODERS = {2: "mp2float", 3: "mp3float"}


@dataclass(frozen=True, slots=True)
class MpegReader:
    """Streams of MPEG audio, one behind the other."""

    streams: tuple[MpegStream, ...]

    @property
    def copy_format(self) -> CopyFormat:
        """What a copy needs; a lossy codec left out more than what the 17th bit holds."""
        shapes = [stream.shape for stream in self.streams]
        return CopyFormat(max(s.rate_hz for s in shapes), max(s.channels for s in shapes), bits=16)

    def pieces(self, path: bytes) -> Pieces:
        """Yield all streams of a file."""
        for stream in self.streams:
            yield from _mpeg_pieces(path, stream)


def _mpeg_pieces(path: bytes, stream: MpegStream) -> Pieces:
    shape = stream.shape
    decoder = av.CodecContext.create(_MPEG_DECODERS[shape.layer], "r")
    remaining_skip = stream.skipped_samples
    remaining_samples = stream.kept_samples
    for piece in _mpeg_frames(path, stream, decoder):
        if isinstance(piece, LostAudio):
            yield piece
            continue
        samples = piece[remaining_skip:]
        remaining_skip -= min(remaining_skip, len(piece))
        if remaining_samples is not None:
            samples = samples[:remaining_samples]
            remaining_samples -= len(samples)
        if len(samples):
            yield Piece(samples, shape.rate_hz)


def _mpeg_frames(path: bytes, stream: MpegStream, decoder: Any) -> Iterator[Samples | LostAudio]:
    """Yield what each frame decodes to; as many samples for each, whatever becomes of it."""
    shape, number = stream.shape, 0
    frame_ms = shape.samples * 1000 / shape.rate_hz
    with open(path, "rb") as file:
        for run in stream.runs:
            for data in mpeg.read_frames(Window(file, run.start, run.end), run):
                number += 1
                samples = _decode_packet(decoder, data)
                if isinstance(samples, str) and number > mpeg.RESERVOIR_FRAMES:
                    yield LostAudio(frame_ms, samples)
                if isinstance(samples, str) or not len(samples):
                    yield np.zeros((shape.samples, shape.channels), np.float32)
                else:
                    yield samples


def _decode_packet(decoder: Any, data: bytes | None) -> Samples | str:
    """Return what a packet decodes to, ``(frames, channels)``, or why it cannot be decoded."""
    try:
        frames = decoder.decode(None if data is None else av.Packet(data))
    except (av.error.FFmpegError, ValueError) as error:
        return getattr(error, "strerror", None) or str(error)
    parts = [samples_of(frame) for frame in frames]
    return np.concatenate(parts) if parts else np.zeros((0, 1), np.float32)


@dataclass(frozen=True, slots=True)
class OggReader:
    """Links of an Ogg chain; with ``streams_are_speakers`` each stream of a link is a channel."""

    links: tuple[tuple[OggStream, ...], ...]
    streams_are_speakers: bool = False

    @property
    def copy_format(self) -> CopyFormat:
        """What a copy needs; FLAC alone may hold more than 16 bits."""
        bits = 24 if any(_is_deep(stream) for link in self.links for stream in link) else 16
        if self.streams_are_speakers:
            rate_hz = max(stream.rate_hz for link in self.links for stream in link)
            return CopyFormat(rate_hz, max(len(link) for link in self.links), bits)
        streams = [link[0] for link in self.links]
        return CopyFormat(max(s.rate_hz for s in streams), max(s.channels for s in streams), bits)

    def pieces(self, path: bytes) -> Pieces:
        """Yield all links of a file."""
        for link in self.links:
            if self.streams_are_speakers and len(link) > 1:
                tracks = [_ogg_pieces(path, stream) for stream in link]
                yield from side_by_side(tracks, self.copy_format.rate_hz)
            else:
                yield from _ogg_pieces(path, link[0])


def _is_deep(stream: OggStream) -> bool:
    """Tell whether FLAC has more than 16 bits, by its first header."""
    fields = int.from_bytes(stream.headers[0][27:35], "big") if stream.codec == "flac" else 0
    return (fields >> 36 & 31) + 1 > 16


def _ogg_pieces(path: bytes, stream: OggStream) -> Pieces:
    """Yield a stream's samples at the rate that its decoder has, and silence where its clock jumps.

    Granules are placed against what was decoded: time that no packet fills is silence before the
    page that shows it, and what a last page says is too much is cut off.
    """
    decoder = _ogg_decoder(stream)
    clock = _GranuleClock(stream)
    with open(path, "rb") as file:
        for page, packets in ogg.read_packets(file, stream):
            blocks: list[Samples] = []
            for packet in packets:
                samples = _decode_packet(decoder, packet)
                if isinstance(samples, str):
                    lost_samples = _packet_samples(stream, packet)
                    yield LostAudio(lost_samples * 1000 / stream.clock_hz, samples)
                    samples = np.zeros((lost_samples, stream.channels), np.float32)
                if len(samples):
                    blocks.append(samples)
            if not blocks:
                continue
            silent_samples, page_samples = clock.place(page, np.concatenate(blocks))
            yield from silent_pieces(silent_samples, page_samples.shape[1], stream.clock_hz)
            if len(page_samples):
                yield Piece(page_samples, stream.clock_hz)


def _packet_samples(stream: OggStream, packet: bytes) -> int:
    """Return how many samples a packet that cannot be decoded stands for."""
    stated_samples = ogg.opus_samples(packet) if stream.codec == "opus" else 0
    return stated_samples or stream.clock_hz * _PACKET_MS // 1000


def _ogg_decoder(stream: OggStream) -> Any:
    decoder = av.CodecContext.create(stream.codec, "r")
    first_header = stream.headers[0]
    if stream.codec == "vorbis":
        sizes = b"".join(_lace(len(header)) for header in stream.headers[:2])
        decoder.extradata = b"\x02" + sizes + b"".join(stream.headers[:3])
    elif stream.codec == "flac":
        decoder.extradata = first_header[17:51]
    else:
        decoder.extradata = first_header
    try:
        decoder.open()
    except (av.error.FFmpegError, ValueError) as error:
        raise UndecodableError(f"its {stream.codec} header makes no sense ({error})") from error
    return decoder


def _lace(length: int) -> bytes:
    return b"\xff" * (length // 255) + bytes([length % 255])


class _GranuleClock:
    """A stream's granules against the samples that were decoded."""

    def __init__(self, stream: OggStream) -> None:
        self._clock_hz = stream.clock_hz
        self._origin: int | None = None
        #: What comes before the call, FFmpeg's decoder takes off by itself.
        self._samples = stream.skipped_samples
        self._silent_samples = 0
        self._granule = -1

    def place(self, page: ogg.Page, samples: Samples) -> tuple[int, Samples]:
        """Return how much silence comes before a page's samples, and those of them to keep.

        Raises:
            UndecodableError: it would be next to nothing but silence.
        """
        decoded_samples, silent_samples = len(samples), 0
        is_forward = page.granule >= max(self._granule, 0)
        if is_forward and self._origin is None:
            self._origin = max(page.granule - self._samples - decoded_samples, 0)
        elif is_forward and self._origin is not None:
            late_samples = page.granule - self._origin - self._samples - decoded_samples
            is_gap = late_samples * 1000 > TOLERANCE_MS * self._clock_hz
            silent_samples = late_samples if is_gap else 0
        self._samples += silent_samples + decoded_samples
        self._silent_samples += silent_samples
        check_gaps(self._silent_samples / self._clock_hz, self._samples / self._clock_hz)
        if is_forward and page.is_last and self._origin is not None:
            surplus = self._samples - (page.granule - self._origin)
            if 0 < surplus < decoded_samples:
                samples = samples[: decoded_samples - surplus]
        if is_forward:
            self._granule = page.granule
        return silent_samples, samples
