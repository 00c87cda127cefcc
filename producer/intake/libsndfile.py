"""What libsndfile reads: whole files, files within files, and WAV whose header is set right."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import soundfile

from producer.intake import pyav
from producer.intake.containers import mpeg
from producer.intake.containers.mpeg import MpegStream
from producer.intake.containers.riff import WavTake, is_mpeg
from producer.intake.file_spans import open_spans
from producer.intake.packets import MpegReader
from producer.intake.pieces import (
    AudioReader,
    CopyFormat,
    LostAudio,
    Piece,
    Pieces,
    UndecodableError,
)
from schema.records import RAW_CONTAINER, AudioFormat

#: Frames read at a time: of a block that cannot be decoded to its end, nothing is known.
_BLOCK_FRAMES = 1 << 13
_DEEP_SUBTYPES = frozenset({"PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ALAC_20", "ALAC_24", "ALAC_32"})


def bits_of(subtype: str) -> int:
    """Return how many bits a copy needs of what is so encoded: 16 or 24."""
    return 24 if subtype in _DEEP_SUBTYPES else 16


class SequentialFile(soundfile.SoundFile):  # type: ignore[misc]
    """A file read from its start to its end.

    ``SoundFile.read`` seeks to where it already is after every block of a seekable file, which
    costs time and, in MPEG audio, samples.
    """

    def seekable(self) -> bool:
        """Say that it cannot be sought in."""
        return False


def read_pieces(file: soundfile.SoundFile) -> Pieces:
    """Yield what is left of an open file.

    Raises:
        UndecodableError: it cannot be read on.
    """
    try:
        while True:
            block = file.read(_BLOCK_FRAMES, dtype="float32", always_2d=True)
            if not len(block):
                return
            yield Piece(block, file.samplerate)
    except soundfile.LibsndfileError as error:
        raise UndecodableError(str(error)) from error


def frames_before_damage(path: bytes, audio: AudioFormat) -> int:
    """Return how many frames of a file can be decoded, to within a tenth of a second."""
    frames, step = 0, max(audio.rate_hz // 10, 1)
    try:
        with open(path, "rb") as handle, open_sound(handle.fileno(), audio) as file:
            while count := len(file.read(step, dtype="float32", always_2d=True)):
                frames += count
    except (soundfile.LibsndfileError, UndecodableError):
        pass
    return frames


@contextmanager
def open_sound(
    source: Any, audio: AudioFormat | None = None, *, big_endian: bool = False
) -> Iterator[Any]:
    """Open a file, by descriptor or as an object, to be read once; ``audio`` tells a raw one.

    Raises:
        UndecodableError: libsndfile cannot read it.
    """
    options: dict[str, Any] = {}
    if audio is not None and audio.container == RAW_CONTAINER:
        options = {
            "format": RAW_CONTAINER,
            "subtype": audio.encoding,
            "samplerate": audio.rate_hz,
            "channels": audio.channels,
            "endian": "BIG" if big_endian else "FILE",
        }
    try:
        file = SequentialFile(source, closefd=False, **options)
    except soundfile.LibsndfileError as error:
        raise UndecodableError(str(error)) from error
    with file:
        yield file


def read_native(path: bytes, audio: AudioFormat, *, big_endian: bool) -> Pieces:
    """Yield all of a file that libsndfile reads as it is.

    Raises:
        UndecodableError: it cannot be read on.
    """
    with (
        open(path, "rb") as handle,
        open_sound(handle.fileno(), audio, big_endian=big_endian) as file,
    ):
        yield from read_pieces(file)


@dataclass(frozen=True, slots=True)
class JoinedFilesReader:
    """Whole files that were joined to one, each as libsndfile reads it."""

    files: tuple[tuple[int, int], ...]
    copy_format: CopyFormat
    #: By their headers, in milliseconds.
    duration_ms: int
    #: What is put before each.
    header: bytes = b""

    def pieces(self, path: bytes) -> Pieces:
        """Yield all of them."""
        for span in self.files:
            with open_spans(path, self.header, (span,)) as source, open_sound(source) as file:
                yield from read_pieces(file)


def joined_files_reader(
    path: bytes, files: tuple[tuple[int, int], ...], header: bytes = b""
) -> JoinedFilesReader:
    """Return the reader of files that were joined, each behind ``header``.

    Raises:
        UndecodableError: libsndfile cannot open one of them.
    """
    formats, duration_ms = [], 0
    for span in files:
        with open_spans(path, header, (span,)) as source, open_sound(source) as file:
            formats.append((file.samplerate, file.channels, bits_of(file.subtype)))
            duration_ms += file.frames * 1000 // file.samplerate
    copy_format = CopyFormat(*map(max, zip(*formats, strict=True)))
    return JoinedFilesReader(files, copy_format, duration_ms, header)


@dataclass(frozen=True, slots=True)
class _TakeReader:
    """One take of a WAV, behind a header that is true."""

    take: WavTake
    copy_format: CopyFormat
    is_native: bool

    def pieces(self, path: bytes) -> Pieces:
        with open_spans(path, self.take.header(), self.take.spans) as source:
            frames = self.take.frames_in(self.take.size)
            if self.is_native:
                with open_sound(source) as file:
                    yield from _limit_frames(read_pieces(file), frames)
            else:
                yield from _limit_frames(pyav.read_track(source), frames)


def _limit_frames(pieces: Pieces, frames: int | None) -> Pieces:
    """Yield so many frames: decoders make up what a last block lacks."""
    for piece in pieces:
        if isinstance(piece, LostAudio):
            yield piece
            continue
        if frames is None or len(piece.samples) <= frames:
            yield piece
        elif frames:
            yield Piece(piece.samples[:frames], piece.rate_hz)
        if frames is not None:
            frames = max(frames - len(piece.samples), 0)


@dataclass(frozen=True, slots=True)
class SequenceReader:
    """Readers of one file, one behind the other."""

    readers: tuple[AudioReader, ...]

    @property
    def copy_format(self) -> CopyFormat:
        """The most of all."""
        formats = [reader.copy_format for reader in self.readers]
        return CopyFormat(*map(max, zip(*formats, strict=True)))

    def pieces(self, path: bytes) -> Pieces:
        """Yield all of them."""
        for reader in self.readers:
            yield from reader.pieces(path)


def take_reader(path: bytes, take: WavTake) -> tuple[AudioReader, str]:
    """Return what reads a take, and its encoding: libsndfile, where it knows that, or FFmpeg.

    Raises:
        UndecodableError: neither knows it.
    """
    with open(path, "rb") as file:
        streams: list[MpegStream] = []
        for start, end in take.spans if is_mpeg(file, take) else ():
            streams += mpeg.parse_mpeg(file, start, end).streams
        if streams:
            return MpegReader(tuple(streams)), f"MPEG_LAYER_{'I' * streams[0].shape.layer}"
    with open_spans(path, take.header(), take.spans) as source:
        if (native := _native_take_reader(source, take)) is not None:
            return native
        facts = pyav.describe_tracks(source)
        copy_format = CopyFormat(facts.tracks[0].rate_hz, facts.tracks[0].channels, facts.bits)
        return _TakeReader(take, copy_format, is_native=False), facts.encoding


def _native_take_reader(source: Any, take: WavTake) -> tuple[AudioReader, str] | None:
    """Return how libsndfile reads a take; None where it does not, or not all of it."""
    if take.rest_frames(take.size):
        return None
    try:
        with open_sound(source) as file:
            copy_format = CopyFormat(file.samplerate, file.channels, bits_of(file.subtype))
            return _TakeReader(take, copy_format, is_native=True), file.subtype
    except UndecodableError:
        return None
