"""Sample calls for a first run: short clips of speech, composed into telephone calls.

The clips come in a Python package, downloaded but never installed. The same calls come out, to
the byte, every time: two speakers on two channels of 8 kHz mu-law, as telephone systems record
them, a voice mail, a call in which nobody speaks, and one of two minutes.
"""

from __future__ import annotations

import csv
import hashlib
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from ops.local.bootstrap import STATE
from ops.local.console import say
from ops.local.models import ModelError, download

_PACKAGE = "pytest-audioeval==0.1.3"
_FOLDER = "pytest_audioeval/samples/audio"

#: Each clip, mono at 16 kHz, with its SHA-256.
_CLIPS: Mapping[str, str] = {
    "en/counting": "2b69b8f7894de9774e7433db6bfa1874944e25ed806826c507bed27b9e69fe15",
    "en/hello_world": "264c92e881fcc3bb7585ff666d129095fb5717c2cc333d10f253a34186be78ac",
    "en/quick_brown_fox": "adc24a9b99267932370842f0d5be866dc2cd09e65af9762469c198493e36870b",
    "es/conteo": "4080f4ca26975a4a1c1c5310ce79743c975e1dc5c1b6655ec0f2529bb3ea8a80",
    "es/hola_mundo": "ee876f57498ec0dbc0ccce2b9bc207a4df353eb1dfe47b300c3cb2c8888f95f4",
    "es/pangrama": "914d8b7fe3875262c3a68b903e0decaad251130f1ddd1237414ddb51e7651ee8",
}
_HELLO, _COUNTING, _FOX = "en/hello_world", "en/counting", "en/quick_brown_fox"

_CLIP_HZ = 16_000
_CALL_HZ = 8_000
#: All clips have one voice; read at this rate it is deeper and slower, and so a second person.
_DEEPER_HZ = 14_700
#: Hiss of a telephone line, about -66 dB: digital silence between words is not what calls have.
_HISS = 5e-4

AGENT, CUSTOMER = 0, 1

Samples = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Turn:
    """Somebody says something: when, on which channel, which clip."""

    at_s: float
    channel: int
    clip: str


@dataclass(frozen=True, slots=True)
class Call:
    """One call to compose, with what the call centre knows of it."""

    call_id: str
    seconds: float
    turns: Sequence[Turn]
    agent: str
    line: str
    direction: str = "inbound"
    channels: int = 2
    encoding: str = "ULAW"


def _long_conversation() -> Iterator[Turn]:
    """Yield a turn every six seconds for two minutes, the speakers taking turns."""
    clips = (_HELLO, _FOX, _COUNTING)
    for index in range(20):
        yield Turn(1.0 + 6.0 * index, index % 2, clips[index % 3])


CALLS: Sequence[Call] = (
    Call(
        "1001",
        18,
        (
            Turn(0.8, AGENT, _HELLO),
            Turn(2.9, CUSTOMER, _HELLO),
            Turn(5.0, AGENT, _FOX),
            Turn(9.4, CUSTOMER, _COUNTING),
            Turn(14.5, AGENT, _HELLO),
        ),
        agent="Anna",
        line="support",
    ),
    Call(
        "1002",
        13,
        (
            Turn(0.6, AGENT, _COUNTING),
            Turn(2.2, CUSTOMER, _HELLO),  # both speak at once
            Turn(6.0, CUSTOMER, _FOX),
            Turn(10.2, AGENT, _HELLO),
        ),
        agent="Ben",
        line="sales",
        direction="outbound",
    ),
    Call(
        "1003",
        11,
        (
            Turn(0.8, CUSTOMER, _HELLO),
            Turn(2.8, CUSTOMER, _COUNTING),
            Turn(7.0, CUSTOMER, _FOX),
        ),
        agent="",
        line="voice mail",
        channels=1,
        encoding="PCM_16",
    ),
    Call("1004", 8, (), agent="Ben", line="sales", direction="outbound"),
    Call("1005", 123, tuple(_long_conversation()), agent="Anna", line="support"),
    Call(
        "1006",
        14,
        (
            Turn(0.8, AGENT, "es/hola_mundo"),
            Turn(2.6, CUSTOMER, "es/pangrama"),
            Turn(8.0, AGENT, "es/conteo"),
        ),
        agent="Carla",
        line="soporte",
    ),
)


@dataclass(frozen=True, slots=True)
class SampleCalls:
    """Where the sample calls are, and the manifest that describes them."""

    directory: Path
    manifest: Path


def compose(state: Path = STATE) -> SampleCalls:
    """Write the sample calls and their manifest, fetching the clips if they are not there.

    Raises:
        ModelError: the clips cannot be had, or are others.
    """
    clips = _load_clips(state / "clips")
    unfinished, samples = state / "samples.unfinished", state / "samples"
    shutil.rmtree(unfinished, ignore_errors=True)
    (unfinished / "calls").mkdir(parents=True)
    for call in CALLS:
        audio = _mix(call, clips)
        path = unfinished / "calls" / _file_name(call)
        soundfile.write(path, audio, _CALL_HZ, format="WAV", subtype=call.encoding)
    _write_manifest(unfinished / "calls.csv")
    shutil.rmtree(samples, ignore_errors=True)
    unfinished.rename(samples)
    return SampleCalls(samples / "calls", samples / "calls.csv")


def _file_name(call: Call) -> str:
    return f"call-{call.call_id}.wav"


def _mix(call: Call, clips: Mapping[str, Samples]) -> Samples:
    """Lay each turn on its speaker's channel, over the line's hiss; silence has no line."""
    mix = np.zeros((round(call.seconds * _CALL_HZ), call.channels), np.float32)
    if call.turns:
        noise = np.random.default_rng(seed=int(call.call_id))
        mix += noise.normal(0, _HISS, mix.shape).astype(np.float32)
    for turn in call.turns:
        rate_hz = _CLIP_HZ if turn.channel == AGENT else _DEEPER_HZ
        speech = soxr.resample(clips[turn.clip], rate_hz, _CALL_HZ)
        start = round(turn.at_s * _CALL_HZ)
        mix[start : start + len(speech), turn.channel % call.channels] += speech
    return mix


def _write_manifest(path: Path) -> None:
    fields = ("file", "call_id", "started_at", "direction", "line", "agent")
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(fields)
        for minute, call in enumerate(CALLS):
            started_at = f"2026-03-02T09:{minute * 7:02}:00+01:00"
            facts = (call.call_id, started_at, call.direction, call.line, call.agent)
            rows.writerow((f"calls/{_file_name(call)}", *facts))


def _load_clips(directory: Path) -> dict[str, Samples]:
    if not all(_is_sound(directory, clip) for clip in _CLIPS):
        _fetch_clips(directory)
    return {clip: _read(directory / f"{clip}.wav") for clip in _CLIPS}


def _is_sound(directory: Path, clip: str) -> bool:
    try:
        data = (directory / f"{clip}.wav").read_bytes()
    except FileNotFoundError:
        return False
    return hashlib.sha256(data).hexdigest() == _CLIPS[clip]


def _fetch_clips(directory: Path) -> None:
    say("Fetching speech for the sample calls, 4 MB")
    wheels = directory.with_name("clips.unfinished")
    try:
        (wheel,) = download([_PACKAGE], wheels)
        with zipfile.ZipFile(wheel) as archive:
            for clip in _CLIPS:
                target = directory / f"{clip}.wav"
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(archive.read(f"{_FOLDER}/{clip}.wav"))
    finally:
        shutil.rmtree(wheels, ignore_errors=True)
    for clip in _CLIPS:
        if not _is_sound(directory, clip):
            raise ModelError(f"{_PACKAGE}: {clip}.wav is not the file that was published")


def _read(path: Path) -> Samples:
    samples: Any = soundfile.read(path, dtype="float32")[0]
    return np.asarray(samples, np.float32)
