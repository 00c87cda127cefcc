"""What a recording's file is made with: encoders that are installed, and edits of their bytes.

A recipe makes a file's bytes, given a shop to work in. Recipes are put together: what one made,
another cuts or joins. A case is a recipe with the truth of what it makes, and with what must become
of the file at the door.
"""

from __future__ import annotations

import io
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile

from ops.chaos.tones import Truth, render

#: An encoder that takes longer hangs.
_TOOL_S = 60


class MissingToolError(Exception):
    """This machine has no such tool, or it no such encoder."""


class Expected(StrEnum):
    """What may become of a file at the door."""

    #: Every second of it is read, each in its place.
    WHOLE = "whole"
    #: It may be read in part, and a flag must say so.
    FLAG = "flag"
    #: It is refused, with one of the case's codes.
    BROKEN = "broken"


WHOLE = frozenset({Expected.WHOLE})
BROKEN = frozenset({Expected.BROKEN})
FLAG = frozenset({Expected.FLAG})
#: Whole, if it can be done; what is not read is named.
NO_SILENCE = WHOLE | FLAG
#: Damage: nothing is lost without a word.
NO_TRUST = FLAG | BROKEN
ANY = WHOLE | FLAG | BROKEN

TRUNCATED = "audio.truncated"


@dataclass(frozen=True, slots=True)
class Written:
    """A file, and its truth where only who made it knows that."""

    data: bytes
    truth: Truth


class Shop:
    """A directory of its own, in which tools are run."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._files = 0

    def path(self, suffix: str) -> Path:
        """Return a name that no file has yet."""
        self._files += 1
        return self.directory / f"{self._files}{suffix}"

    def wave(self, truth: Truth, rate_hz: int) -> Path:
        """Return a WAV of 16 bits of what is to be encoded."""
        path = self.path(".wav")
        soundfile.write(path, render(truth, rate_hz), rate_hz, subtype="PCM_16")
        return path

    def run(self, *command: str | Path, stdin: bytes = b"") -> bytes:
        """Run a tool, and return what it wrote to its standard output.

        Raises:
            MissingToolError: it is not installed, or has no such encoder.
        """
        tool = str(command[0])
        if shutil.which(tool) is None:
            raise MissingToolError(tool)
        done = subprocess.run(
            [str(word) for word in command],
            input=stdin,
            capture_output=True,
            cwd=self.directory,
            timeout=_TOOL_S,
            check=False,
        )
        if done.returncode:
            told = done.stderr.decode(errors="replace")
            if "Unknown encoder" in told or "Requested output format" in told:
                raise MissingToolError(f"{tool}: {told.strip().splitlines()[-1]}")
            raise RuntimeError(f"{' '.join(map(str, command))}: {told[-500:]}")
        return done.stdout


Recipe = Callable[[Shop], bytes | Written]
#: Makes bytes, and nothing beside: what is edited, or is a piece of something.
Bytes = Callable[[Shop], bytes]
Edit = Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True)
class Case:
    """A file to be: how it is made, what it truly holds and what may become of it.

    ``flag`` is the beginning of a flag that it must carry, ``message`` what its refusal must say.
    ``hints`` tell FFmpeg what it cannot know, as ``raw`` tells the product. ``unlike_ffmpeg`` says
    why the right answer is not FFmpeg's.
    """

    family: str
    name: str
    make: Recipe
    truth: Truth
    expected: frozenset[Expected] = WHOLE
    why: str = ""
    codes: tuple[str, ...] = (TRUNCATED,)
    flag: str = ""
    message: str = ""
    plan: Mapping[str, Any] = field(default_factory=dict)
    raw: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()
    unlike_ffmpeg: str = ""


#: Whoever asks for it gets what is left of a damaged file, with a flag that says where it breaks.
TAKE: Mapping[str, Any] = {"truncated": "take"}
SPEAKERS: Mapping[str, Any] = {"tracks": "speakers"}
FIRST: Mapping[str, Any] = {"tracks": "first"}


def edited(recipe: Bytes, *edits: Edit) -> Bytes:
    """Return a recipe of what another makes, with its bytes edited."""

    def make(shop: Shop) -> bytes:
        data = recipe(shop)
        for edit in edits:
            data = edit(data)
        return data

    return make


def joined(*pieces: Bytes | bytes) -> Bytes:
    """Return a recipe of pieces end to end."""

    def make(shop: Shop) -> bytes:
        return b"".join(piece if isinstance(piece, bytes) else piece(shop) for piece in pieces)

    return make


def kept(share: float) -> Edit:
    """Return an edit that keeps so much of a file's beginning."""
    return lambda data: data[: int(len(data) * share)]


def patched(at: int, value: bytes) -> Edit:
    """Return an edit that writes over the bytes from an offset on; from the end, if negative."""

    def edit(data: bytes) -> bytes:
        start = at % len(data)
        return data[:start] + value + data[start + len(value) :]

    return edit


def replaced(old: bytes, new: bytes) -> Edit:
    """Return an edit that writes over what it must find."""

    def edit(data: bytes) -> bytes:
        at = data.index(old)
        return data[:at] + new + data[at + len(old) :]

    return edit


def ffmpeg(
    truth: Truth | Sequence[Truth],
    rate_hz: int,
    *options: str,
    to: str,
    piped: bool = False,
    before: Sequence[str] = (),
) -> Bytes:
    """Return a recipe: FFmpeg encodes one or more sounds into a file that ends with ``to``.

    ``piped`` is the name of no file: it cannot go back to fill in a length. ``before`` are
    options and inputs that stand before the sounds.
    """
    truths = [truth] if isinstance(truth, Truth) else truth

    def make(shop: Shop) -> bytes:
        inputs = [("-i", str(shop.wave(each, rate_hz))) for each in truths]
        words = ["ffmpeg", "-v", "error", "-y", *before, *(w for each in inputs for w in each)]
        out = shop.path(to)
        if piped:
            return shop.run(*words, *options, "pipe:1")
        shop.run(*words, *options, out)
        return out.read_bytes()

    return make


def remuxed(recipe: Bytes, suffix: str, *options: str, to: str, piped: bool = False) -> Bytes:
    """Return a recipe: FFmpeg writes what another made into another file, packets as they are."""

    def make(shop: Shop) -> bytes:
        source = shop.path(suffix)
        source.write_bytes(recipe(shop))
        out = shop.path(to)
        words = ["ffmpeg", "-v", "error", "-y", "-i", str(source), "-c", "copy", *options]
        if piped:
            return shop.run(*words, "pipe:1")
        shop.run(*words, out)
        return out.read_bytes()

    return make


def encoded(truth: Truth, rate_hz: int, *command: str, to: str) -> Bytes:
    """Return a recipe of another encoder's; ``{in}`` and ``{out}`` stand for its files."""

    def make(shop: Shop) -> bytes:
        files = {"{in}": shop.wave(truth, rate_hz), "{out}": shop.path(to)}
        shop.run(*(files.get(word, word) for word in command))
        return files["{out}"].read_bytes()

    return make


def piped(truth: Truth, rate_hz: int, *command: str) -> Bytes:
    """Return a recipe of an encoder that reads a WAV from a pipe, and writes to one."""

    def make(shop: Shop) -> bytes:
        return shop.run(*command, stdin=shop.wave(truth, rate_hz).read_bytes())

    return make


def lame(truth: Truth, rate_hz: int, *options: str) -> Bytes:
    """Return a recipe of LAME's, which says in a tag of its own how long the sound is."""
    return encoded(
        truth,
        rate_hz,
        "lame",
        "--quiet",
        "--resample",
        f"{rate_hz / 1000:g}",
        *options,
        "{in}",
        "{out}",
        to=".mp3",
    )


def sndfile(truth: Truth, rate_hz: int, container: str, encoding: str, endian: str = "") -> Bytes:
    """Return a recipe of libsndfile's."""

    def make(_: Shop) -> bytes:
        file = io.BytesIO()
        how = {"endian": endian} if endian else {}
        samples = render(truth, rate_hz)
        soundfile.write(file, samples, rate_hz, format=container, subtype=encoding, **how)
        return file.getvalue()

    return make


def headless(truth: Truth, rate_hz: int, encoding: str) -> Bytes:
    """Return a recipe of bare samples, in an encoding of libsndfile's."""
    return sndfile(truth, rate_hz, "RAW", encoding)


def pcm16(truth: Truth, rate_hz: int) -> bytes:
    """Return bare samples of 16 bits, little-endian."""
    return np.rint(render(truth, rate_hz) * 32767).astype("<i2").tobytes()


def pyav(truth: Truth, rate_hz: int, codec: str, container: str, bit_rate: int = 0) -> Bytes:
    """Return a recipe of the FFmpeg that comes with PyAV, which has encoders of its own.

    Raises:
        MissingToolError: when it is made, if that FFmpeg has no such encoder.
    """

    def make(_: Shop) -> bytes:
        if codec not in av.codecs_available:
            raise MissingToolError(f"PyAV: {codec}")
        return _encoded(truth, rate_hz, codec, container, bit_rate)

    return make


def _encoded(truth: Truth, rate_hz: int, codec: str, form: str, bit_rate: int) -> bytes:
    file = io.BytesIO()
    layout = "mono" if len(truth.channels) == 1 else "stereo"
    samples = np.ascontiguousarray(render(truth, rate_hz).T)
    frame = av.AudioFrame.from_ndarray(samples, "fltp", layout)
    frame.sample_rate, frame.pts = rate_hz, 0
    with av.open(file, "w", format=form) as container:
        track: Any = container.add_stream(codec, rate=rate_hz)
        context = track.codec_context
        context.layout = layout
        if bit_rate:
            context.bit_rate = bit_rate
        context.open()
        resampler = av.AudioResampler(
            context.format, layout, rate_hz, frame_size=context.frame_size or None
        )
        for piece in (*resampler.resample(frame), *resampler.resample(None)):
            container.mux(track.encode(piece))
        container.mux(track.encode(None))
    return file.getvalue()
