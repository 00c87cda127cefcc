"""What telephones write without a header, or with next to none: bare samples, GSM, AMR."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import soundfile

from ops.chaos.recorders import (
    ANY,
    BROKEN,
    NO_SILENCE,
    NO_TRUST,
    TAKE,
    WHOLE,
    Bytes,
    Case,
    Expected,
    Recipe,
    Shop,
    edited,
    ffmpeg,
    headless,
    joined,
    pyav,
)
from ops.chaos.tones import Truth, spoken
from schema.pcm import Samples

A, B = spoken(0), spoken(1)
AB = spoken(0, 1)
SECONDS = 12
_UNKNOWN = ("audio.raw-unknown",)
_NO_READER = "FFmpeg has no reader for it"

#: Bytes of an AMR frame by its type; of type 15, nothing follows: the line was silent.
_AMR_BYTES = (13, 14, 16, 18, 20, 21, 27, 32, 6)
_AMR_SILENT = b"\x7c"
_AMR_MAGIC = b"#!AMR\n"

_SENTENCES = (
    "Good morning, you are speaking to the service desk. How may I help you with your order today?"
    " I see, let me look that up for you, please hold the line for just a moment.",
    "Hello, my parcel has not arrived yet, and I have been waiting since last Thursday. The number"
    " of my order is seven four nine two, and my name is Walter Brown.",
)


def raw() -> Iterator[Case]:
    """Yield all cases."""
    for family, found in (
        ("headless", _known()),
        ("headless", _told()),
        ("headless", _voices()),
        ("headless", _ends()),
        ("amr", _amr()),
    ):
        for name, make, truth, expected, more in found:
            yield Case(family, name, make, truth, expected, **more)


Row = tuple[str, Recipe, Truth, frozenset[Expected], dict[str, Any]]


def _row(
    name: str, make: Recipe, truth: Truth, expected: frozenset[Expected] = WHOLE, **more: Any
) -> Row:
    return name, make, truth, expected, more


def _as(form: str, rate: int, channels: int = 1) -> tuple[str, ...]:
    return ("-f", form, "-ar", str(rate), "-ac", str(channels))


def _known() -> Iterator[Row]:
    kinds: Sequence[tuple[str, str, int, str]] = (
        ("ulaw", "ULAW", 8000, "mulaw"),
        ("ul", "ULAW", 8000, "mulaw"),
        ("pcmu", "ULAW", 8000, "mulaw"),
        ("alaw", "ALAW", 8000, "alaw"),
        ("al", "ALAW", 8000, "alaw"),
        ("pcma", "ALAW", 8000, "alaw"),
        ("sln", "PCM_16", 8000, "s16le"),
        ("slin", "PCM_16", 8000, "s16le"),
        ("sln16", "PCM_16", 16000, "s16le"),
        ("sln44", "PCM_16", 44100, "s16le"),
        ("sln48", "PCM_16", 48000, "s16le"),
    )
    for suffix, encoding, rate, form in kinds:
        hints = _as(form, rate)
        yield _row(f"call.{suffix}", headless(A, rate, encoding), A, hints=hints)
    for suffix, encoding, form in (
        ("ulaw", "ULAW", "mulaw"),
        ("alaw", "ALAW", "alaw"),
        ("sln", "PCM_16", "s16le"),
    ):
        silent = A.after(2000)
        recipe = headless(silent, 8000, encoding)
        yield _row(f"silent-first.{suffix}", recipe, silent, hints=_as(form, 8000))
    yield _row("call.gsm", headless(A, 8000, "GSM610"), A.delayed(30, 30))
    yield _row("call.vox", headless(A, 8000, "VOX_ADPCM"), A, unlike_ffmpeg=_NO_READER)
    yield _row("call.g722", ffmpeg(A, 16000, "-c:a", "g722", to=".g722"), A.delayed(10))
    yield _row("sox.gsm", _sox("gsm"), A.delayed(30, 30))
    yield _row("sox.vox", _sox("vox"), A, unlike_ffmpeg=_NO_READER)


def _sox(form: str) -> Bytes:
    def make(shop: Shop) -> bytes:
        return shop.run("sox", shop.wave(A, 8000), "-t", form, "-")

    return make


def _told() -> Iterator[Row]:
    """Yield what somebody described, and what nobody did."""
    told: Sequence[tuple[str, str, str, int, Truth]] = (
        ("alaw", "ALAW", "alaw", 8000, AB),
        ("ulaw", "ULAW", "mulaw", 8000, AB),
        ("sln", "PCM_16", "s16le", 8000, AB),
        ("pcm", "PCM_16", "s16le", 8000, A),
        ("raw", "PCM_16", "s16le", 16000, AB),
        ("lin", "PCM_24", "s24le", 8000, A),
        ("u8", "PCM_U8", "u8", 8000, A),
        ("f32", "FLOAT", "f32le", 16000, A),
    )
    for suffix, encoding, form, rate, truth in told:
        channels = len(truth.channels)
        option = f".{suffix}={form}:{rate}:{channels}"
        recipe = headless(truth, rate, encoding)
        hints = _as(form, rate, channels)
        yield _row(f"told-{channels}.{suffix}", recipe, truth, raw=(option,), hints=hints)
    swapped = edited(
        headless(A, 8000, "PCM_16"), lambda d: np.frombuffer(d, "<i2").astype(">i2").tobytes()
    )
    yield _row("told-big.pcm", swapped, A, raw=(".pcm=s16be:8000",), hints=_as("s16be", 8000))
    vox = headless(A, 6000, "VOX_ADPCM")
    yield _row("told-6000.vox", vox, A, raw=(".vox=vox:6000",), unlike_ffmpeg=_NO_READER)
    for suffix in ("pcm", "raw", "lin"):
        recipe = headless(A, 8000, "PCM_16")
        yield _row(
            f"untold.{suffix}", recipe, A, BROKEN, codes=_UNKNOWN, message=f"--raw .{suffix}="
        )
    codes = ("audio.not-audio", "audio.bad-header", "audio.raw-unknown")
    yield _row("mulaw-called.wav", headless(A, 8000, "ULAW"), A, BROKEN, codes=codes)


def _speech(shop: Shop, rate: int) -> list[Samples]:
    """Return two voices of 12 s: a speech synthesizer's, or noise in syllables without one."""
    voices = ("en-us+m3", "en-us+f4")
    if shutil.which("espeak-ng") and shutil.which("ffmpeg"):
        return [_said(shop, rate, *each) for each in zip(voices, _SENTENCES, strict=True)]
    return [_babble(rate, seed) for seed in (1, 2)]


def _said(shop: Shop, rate: int, voice: str, text: str) -> Samples:
    spoken_at, resampled = shop.path(".wav"), shop.path(".wav")
    shop.run("espeak-ng", "-v", voice, "-w", spoken_at, text * 2)
    shop.run("ffmpeg", "-v", "error", "-i", spoken_at, "-ar", str(rate), "-ac", "1", resampled)
    samples, _ = soundfile.read(resampled, dtype="float32")
    frames = SECONDS * rate
    return np.asarray(0.5 * np.resize(samples, frames), np.float32)


def _babble(rate: int, seed: int) -> Samples:
    dice = np.random.default_rng(seed)
    frames = SECONDS * rate
    noise = np.convolve(dice.standard_normal(frames), np.hanning(9) / 4, "same")
    syllables = np.interp(
        np.arange(frames), np.arange(0, frames, rate // 8), dice.random(frames // (rate // 8)) ** 2
    )
    return np.asarray(0.1 * noise * syllables, np.float32)


def _talk(encoding: str, rate: int, how: str) -> Bytes:
    """Return a recipe of a talk without a header, on one or two channels."""

    def make(shop: Shop) -> bytes:
        agent, caller = _speech(shop, rate)
        turns = np.arange(len(agent)) // (3 * rate) % 2 == 0
        hiss = np.random.default_rng(3).normal(0, 2e-4, (len(agent), 2))
        talks = {
            "turns": np.stack([agent * turns, caller * ~turns], axis=1) + hiss,
            "at-once": np.stack([agent, caller], axis=1) + hiss,
            "one-side": np.stack([agent, np.zeros_like(agent)], axis=1) + hiss,
            "twice": np.stack([agent, agent], axis=1),
            "mono": (agent * turns + caller * ~turns + hiss[:, 0])[:, None],
            "mono-noisy": (0.2 * agent + 60 * hiss[:, 0])[:, None],
        }
        file = shop.path(".raw")
        samples = np.clip(talks[how], -1, 1)
        soundfile.write(file, samples, rate, format="RAW", subtype=encoding)
        return file.read_bytes()

    return make


def _voices() -> Iterator[Row]:
    """Yield talks: two channels interleaved without a header must not pass for one."""
    one, two = Truth(((),), 1000 * SECONDS), Truth(((), ()), 1000 * SECONDS)
    kinds = (
        ("alaw", "ALAW", 8000, "--raw .alaw=alaw:8000:2"),
        ("ulaw", "ULAW", 8000, ":8000:2"),
        ("sln", "PCM_16", 8000, "--raw .sln=s16le:8000:2"),
        ("sln16", "PCM_16", 16000, "--raw .sln16=s16le:16000:2"),
    )
    why = "two channels read as one are speech at half its speed, and no word of it is right"
    for suffix, encoding, rate, message in kinds:
        for how in ("turns", "at-once", "one-side", "twice"):
            yield _row(
                f"two-channels-{how}.{suffix}",
                _talk(encoding, rate, how),
                two,
                NO_TRUST,
                codes=_UNKNOWN,
                message=message,
                why=why,
                hints=_as("u8", rate),
                unlike_ffmpeg="FFmpeg believes whoever hands it in",
            )
        form = {"ALAW": "alaw", "ULAW": "mulaw", "PCM_16": "s16le"}[encoding]
        for how in ("mono", "mono-noisy"):
            recipe = _talk(encoding, rate, how)
            yield _row(f"one-channel-{how}.{suffix}", recipe, one, hints=_as(form, rate))


def _ends() -> Iterator[Row]:
    """Yield bare samples cut off: nothing shows it but half a sample, or half a block."""
    half = A.part(0, 7000)
    sln = edited(headless(A, 8000, "PCM_16"), lambda d: d[:112_001])
    yield _row(
        "half-a-sample.sln",
        sln,
        half,
        ANY,
        hints=_as("s16le", 8000),
        why="a last sample of one byte is heard by nobody",
    )
    ulaw = edited(headless(A, 8000, "ULAW"), lambda d: d[:56_000])
    yield _row("cut.ulaw", ulaw, half, hints=_as("mulaw", 8000), why="nothing shows it")
    gsm = edited(headless(A, 8000, "GSM610"), lambda d: d[: 350 * 33 + 11])
    yield _row("half-a-block.gsm", gsm, half.delayed(30, 30), ANY)
    zeros = joined(headless(A, 8000, "PCM_16"), bytes(3200))
    yield _row("zeros-behind.sln", zeros, A.delayed(0, 200), hints=_as("s16le", 8000))


def _amr_frames(data: bytes) -> list[bytes]:
    frames, at = [], len(_AMR_MAGIC)
    while at < len(data):
        kind = data[at] >> 3 & 15
        size = _AMR_BYTES[kind] if kind < len(_AMR_BYTES) else 1
        frames.append(data[at : at + size])
        at += size
    return frames


def _amr() -> Iterator[Row]:
    def recipe(truth: Truth, bit_rate: int = 10_200) -> Bytes:
        return pyav(truth, 8000, "libopencore_amrnb", "amr", bit_rate)

    late = A.delayed(40, 40)
    plain = recipe(A)
    for bit_rate in (10_200, 7_950, 7_400):
        yield _row(f"{bit_rate}.amr", recipe(A, bit_rate), late)
    both = late.then(B.delayed(40, 40))
    yield _row(
        "joined.amr",
        joined(plain, recipe(B)),
        both,
        NO_SILENCE,
        why="the second recording's magic stands amid its frames",
        unlike_ffmpeg="what lies behind the first recording was recorded all the same",
    )
    bare = edited(recipe(B), lambda d: d[len(_AMR_MAGIC) :])
    yield _row("joined-bare.amr", joined(plain, bare), both)

    def silenced(data: bytes) -> bytes:
        frames = _amr_frames(data)
        return _AMR_MAGIC + b"".join([*frames[:250], *[_AMR_SILENT] * 150, *frames[250:]])

    yield _row(
        "line-silent.amr",
        edited(plain, silenced),
        late.interrupted(5000, 3000),
        unlike_ffmpeg="a frame without data lasts as long as any other",
    )

    def cut(data: bytes) -> bytes:
        return _AMR_MAGIC + b"".join(_amr_frames(data)[:350]) + data[6:17]

    yield _row("cut-amid.amr", edited(plain, cut), late.part(0, 7000), NO_TRUST)
    yield _row("take.amr", edited(plain, cut), late.part(0, 7000), flag="truncated", plan=TAKE)
    wide = pyav(A, 16000, "libvo_amrwbenc", "amr", 23_850)
    yield _row("wide.amr", wide, A.delayed(60, 60))
