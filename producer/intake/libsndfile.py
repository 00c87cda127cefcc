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
from producer.intake.containers.riff import Take, is_mpeg
from producer.intake.file_spans import open_spans
from producer.intake.packets import MpegReader
from producer.intake.pieces import AudioReader, LostAudio, Piece, Pieces, UndecodableError
from schema.records import HEADLESS, AudioFormat

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
    """Open a file, by descriptor or as an object, to be read once; ``audio`` tells a headless one.

    Raises:
        UndecodableError: libsndfile cannot read it.
    """
    options: dict[str, Any] = {}
    if audio is not None and audio.container == HEADLESS:
        options = {
            "format": HEADLESS,
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


@dataclass(frozen=True, slots=True)
class NativeReader:
    """A file as libsndfile reads it."""

    audio: AudioFormat
    big_endian: bool = False

    @property
    def rate_hz(self) -> int:
        """The file's."""
        return self.audio.rate_hz

    @property
    def channels(self) -> int:
        """The file's."""
        return self.audio.channels

    @property
    def bits(self) -> int:
        """What its samples need."""
        return bits_of(self.audio.encoding)

    def pieces(self, path: bytes) -> Pieces:
        """Yield all of the file."""
        with (
            open(path, "rb") as handle,
            open_sound(handle.fileno(), self.audio, big_endian=self.big_endian) as file,
        ):
            yield from read_pieces(file)


@dataclass(frozen=True, slots=True)
class JoinedFilesReader:
    """Whole files that were joined to one, each as libsndfile reads it."""

    files: tuple[tuple[int, int], ...]
    rate_hz: int
    channels: int
    bits: int
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
    file_shapes, duration_ms = [], 0
    for span in files:
        with open_spans(path, header, (span,)) as source, open_sound(source) as file:
            file_shapes.append((file.samplerate, file.channels, bits_of(file.subtype)))
            duration_ms += file.frames * 1000 // file.samplerate
    rate_hz, channels, bits = (max(values) for values in zip(*file_shapes, strict=True))
    return JoinedFilesReader(files, rate_hz, channels, bits, duration_ms, header)


@dataclass(frozen=True, slots=True)
class _TakeReader:
    """One take of a WAV, behind a header that is true."""

    take: Take
    rate_hz: int
    channels: int
    bits: int
    is_native: bool

    def pieces(self, path: bytes) -> Pieces:
        """Yield the take."""
        with open_spans(path, self.take.header(), self.take.spans) as source:
            frames = self.take.frames_in(self.take.size)
            if not self.is_native:
                yield from _limit_frames(pyav.read_track(source), frames)
                return
            with open_sound(source) as file:
                yield from _limit_frames(read_pieces(file), frames)


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
    def rate_hz(self) -> int:
        """The highest of all."""
        return max(reader.rate_hz for reader in self.readers)

    @property
    def channels(self) -> int:
        """The most of all."""
        return max(reader.channels for reader in self.readers)

    @property
    def bits(self) -> int:
        """The most of all."""
        return max(reader.bits for reader in self.readers)

    def pieces(self, path: bytes) -> Pieces:
        """Yield all of them."""
        for reader in self.readers:
            yield from reader.pieces(path)


def take_reader(path: bytes, take: Take) -> tuple[AudioReader, str]:
    """Return what reads a take, and its encoding: libsndfile, where it knows that, or FFmpeg.

    Raises:
        UndecodableError: neither knows it.
    """
    with open(path, "rb") as file:
        streams: list[MpegStream] = []
        for start, end in take.spans if is_mpeg(file, take) else ():
            streams += mpeg.walk_mpeg(file, start, end).streams
        if streams:
            return MpegReader(tuple(streams)), f"MPEG_LAYER_{'I' * streams[0].shape.layer}"
    with open_spans(path, take.header(), take.spans) as source:
        if (native := _native_take_reader(source, take)) is not None:
            return native
        facts = pyav.describe_tracks(source)
        reader = _TakeReader(take, facts.rate_hz, facts.channels, facts.bits, is_native=False)
        return reader, facts.encoding


def _native_take_reader(source: Any, take: Take) -> tuple[AudioReader, str] | None:
    """Return how libsndfile reads a take; None where it does not, or not all of it."""
    if take.rest_frames(take.size):
        return None
    try:
        with open_sound(source) as file:
            bits = bits_of(file.subtype)
            reader = _TakeReader(take, file.samplerate, file.channels, bits, is_native=True)
            return reader, file.subtype
    except UndecodableError:
        return None
