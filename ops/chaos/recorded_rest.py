"""FLAC, bare AAC, Windows Media, AVI, Flash and transport streams: pieces, joins, clocks, cuts."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ops.chaos.recorded_boxes import aac_late, picture
from ops.chaos.recorded_mpeg import id3v1, tag
from ops.chaos.recorders import (
    ANY,
    BROKEN,
    NO_SILENCE,
    NO_TRUST,
    SPEAKERS,
    TAKE,
    WHOLE,
    Bytes,
    Case,
    Edit,
    Expected,
    Recipe,
    edited,
    encoded,
    ffmpeg,
    joined,
    kept,
    patched,
    piped,
)
from ops.chaos.tones import Truth, spoken

A, B, C = spoken(0), spoken(1), spoken(2)
AB = spoken(0, 1)

_AAC = ("-c:a", "aac", "-b:a", "48k")
_TRACKS = "tracks are speakers, and what is not read is named"
_TWO = ("-map", "0", "-map", "1")
_PACKET = 188
#: A transport stream's clock has 33 bits of 90 kHz: it begins anew after 26.5 hours.
_WRAP_S = 2**33 / 90_000


def rest() -> Iterator[Case]:
    """Yield all cases."""
    for family, found in (
        ("flac", _flac()),
        ("flac", _flac_lengths()),
        ("adts", _adts()),
        ("asf", _asf()),
        ("avi", _avi()),
        ("flv", _flv()),
        ("ts", _ts()),
        ("ts", _ts_damage()),
    ):
        for name, make, truth, expected, more in found:
            yield Case(family, name, make, truth, expected, **more)


Row = tuple[str, Recipe, Truth, frozenset[Expected], dict[str, Any]]


def _row(
    name: str, make: Recipe, truth: Truth, expected: frozenset[Expected] = WHOLE, **more: Any
) -> Row:
    return name, make, truth, expected, more


def _flac_file(truth: Truth, rate: int, *options: str) -> Bytes:
    words = ("flac", "--silent", *options, "-o", "{out}", "{in}")
    return encoded(truth, rate, *words, to=".flac")


def _counted(change: Callable[[int], int]) -> Edit:
    """Return an edit of the number of samples that a FLAC's first block states."""

    def edit(data: bytes) -> bytes:
        (packed,) = struct.unpack_from(">Q", data, 18)
        low = 2**36 - 1
        packed = packed & ~low | change(packed & low)
        return data[:18] + struct.pack(">Q", packed) + data[26:]

    return edit


def _flac() -> Iterator[Row]:
    for rate in (8000, 16000, 44100):
        yield _row(f"mono-{rate}.flac", _flac_file(A, rate), A)
        yield _row(f"stereo-{rate}.flac", _flac_file(AB, rate), AB)
    yield _row("ffmpeg-24.flac", ffmpeg(A, 44100, "-sample_fmt", "s32", to=".flac"), A)
    yield _row("small-blocks.flac", _flac_file(A, 8000, "--blocksize", "192"), A)
    yield _row("no-seektable.flac", _flac_file(A, 8000, "--no-seektable"), A)
    yield _row("padding.flac", _flac_file(A, 8000, "--padding", "200000"), A)
    yield _row("pipe-ffmpeg.flac", ffmpeg(A, 8000, "-f", "flac", to="", piped=True), A)
    yield _row(
        "pipe-flac.flac", piped(A, 8000, "flac", "--silent", "--ignore-chunk-sizes", "-c", "-"), A
    )
    plain = _flac_file(A, 8000)
    yield _row("no-digest.flac", edited(plain, patched(26, bytes(16))), A)
    yield _row("id3v2.flac", joined(tag(), plain), A)
    yield _row("id3v2-large.flac", joined(tag(body=bytes(70_000)), plain), A)
    yield _row("id3v1.flac", joined(plain, id3v1()), A)
    yield _row("zeros-behind.flac", joined(plain, bytes(4000)), A)
    yield _row("text-behind.flac", joined(plain, b"end of call\r\n" * 20), A)
    yield _row("called-wav.wav", plain, A)


def _flac_lengths() -> Iterator[Row]:
    plain = _flac_file(A, 8000, "--blocksize", "800", "--no-seektable")
    second = _flac_file(B, 8000, "--blocksize", "800", "--no-seektable")
    unlike = "what lies behind its stated length was recorded all the same"
    yield _row("length-0.flac", edited(plain, _counted(lambda _: 0)), A)
    yield _row(
        "length-half.flac",
        edited(plain, _counted(lambda n: n // 2)),
        A,
        NO_SILENCE,
        unlike_ffmpeg=unlike,
    )
    yield _row("length-double.flac", edited(plain, _counted(lambda n: 2 * n)), A, BROKEN)
    yield _row("joined.flac", joined(plain, second), A.then(B), NO_SILENCE, unlike_ffmpeg=unlike)
    bare = joined(edited(plain, _counted(lambda _: 0)), edited(second, _counted(lambda _: 0)))
    yield _row(
        "joined-length-0.flac",
        bare,
        A.then(B),
        NO_SILENCE,
        unlike_ffmpeg="a frame before the second recording's header is no less whole",
    )
    rates = joined(plain, _flac_file(B, 16000))
    yield _row("joined-rate.flac", rates, A.then(B), NO_SILENCE, unlike_ffmpeg=unlike)
    stereo = spoken(1, 2)
    mixed = joined(plain, _flac_file(stereo, 8000))
    yield _row("joined-stereo.flac", mixed, A.then(stereo), NO_SILENCE, unlike_ffmpeg=unlike)
    held = A.at_least(5000)
    yield _row("cut.flac", edited(plain, kept(0.6)), held, BROKEN)
    cut = edited(plain, _counted(lambda _: 0), kept(0.6))
    yield _row("cut-length-0.flac", cut, held, NO_TRUST)
    yield _row("take.flac", edited(plain, kept(0.6)), held, flag="truncated", plan=TAKE)
    yield _row("take-length-0.flac", cut, held, flag="truncated", plan=TAKE)
    yield _row("hole.flac", edited(plain, _hole), A, NO_TRUST)
    yield _row(
        "flipped-bit.flac",
        edited(plain, _flipped),
        A,
        NO_TRUST | NO_SILENCE,
        why="a frame's checksum shows that it is damaged",
    )


def _hole(data: bytes) -> bytes:
    """Return a file with three twelfths of it zeros."""
    first, last = len(data) // 2, len(data) * 3 // 4
    return data[:first] + bytes(last - first) + data[last:]


def _flipped(data: bytes) -> bytes:
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :]


def _adts_starts(data: bytes) -> list[int]:
    starts, at = [], 0
    while at + 7 <= len(data) and data[at] == 0xFF and data[at + 1] & 0xF6 == 0xF0:
        starts.append(at)
        at += (data[at + 3] & 3) << 11 | data[at + 4] << 3 | data[at + 5] >> 5
    return starts


def _adts() -> Iterator[Row]:
    def bare(truth: Truth, rate: int) -> Bytes:
        return ffmpeg(truth, rate, "-c:a", "aac", "-b:a", "48k", "-f", "adts", to=".aac")

    def cut(first: int | None, last: int | None, extra: int = 0) -> Edit:
        def edit(data: bytes) -> bytes:
            starts = _adts_starts(data)
            start = 0 if first is None else starts[first] + extra
            return data[start:] if last is None else data[start : starts[last] + extra]

        return edit

    for rate in (8000, 11025, 16000, 44100, 48000):
        yield _row(f"mono-{rate}.aac", bare(A, rate), aac_late(A, rate))
    yield _row(
        "stereo.aac",
        ffmpeg(AB, 44100, "-c:a", "aac", "-b:a", "96k", to=".aac"),
        aac_late(AB, 44100),
    )
    rate = 16000
    a, b = aac_late(A, rate), aac_late(B, rate)
    plain = bare(A, rate)
    yield _row("joined.aac", joined(plain, bare(B, rate)), a.then(b))
    yield _row(
        "joined-rate.aac", joined(plain, bare(B, 8000)), a.then(aac_late(B, 8000)), NO_SILENCE
    )
    stereo = spoken(1, 2)
    mixed = joined(plain, ffmpeg(stereo, rate, "-c:a", "aac", "-b:a", "64k", to=".aac"))
    yield _row("joined-stereo.aac", mixed, a.then(aac_late(stereo, rate)), NO_SILENCE)
    yield _row("id3v2.aac", joined(tag(), plain), a)
    yield _row("id3v1.aac", joined(plain, id3v1()), a)
    yield _row("joined-id3v2.aac", joined(tag(), plain, tag(), bare(B, rate)), a.then(b))
    number = 7 * rate // 1024
    held = aac_late(A.part(0, 1000 * number * 1024 / rate), rate)
    yield _row("cut-amid.aac", edited(plain, cut(None, number, 40)), held, NO_TRUST)
    yield _row(
        "cut-between.aac",
        edited(plain, cut(None, number)),
        held,
        why="between two frames, nothing shows that more was to come",
    )
    yield _row("take.aac", edited(plain, cut(None, number, 40)), held, flag="truncated", plan=TAKE)
    first = 3 * rate // 1024
    later = aac_late(A.part(1000 * first * 1024 / rate), rate).delayed(150)
    yield _row("begins-amid.aac", edited(plain, cut(first, None, 30)), later, NO_SILENCE)
    yield _row("zeros-behind.aac", joined(plain, bytes(2000)), a, NO_SILENCE)

    def junk(data: bytes) -> bytes:
        at = _adts_starts(data)[80]
        return data[:at] + b"lost connection\r\n" * 30 + data[at:]

    yield _row("junk-between.aac", edited(plain, junk), a, NO_SILENCE)
    latm = ffmpeg(A, rate, *_AAC, "-f", "latm", to=".aac")
    yield _row(
        "latm.aac",
        latm,
        a,
        ANY,
        codes=("audio.not-audio", "audio.bad-header"),
        why="no recorder is known to write it into files",
    )


def _asf() -> Iterator[Row]:
    for codec in ("wmav1", "wmav2"):
        for rate in (8000, 16000, 44100):
            late = 4096 * 1000 / rate
            recipe = ffmpeg(A, rate, "-c:a", codec, "-b:a", "32k", to=".wma")
            yield _row(f"{codec}-{rate}.wma", recipe, A.delayed(late, late))
    late = 4096 * 1000 / 44100
    stereo = AB.delayed(late, late)
    yield _row("stereo.wma", ffmpeg(AB, 44100, "-c:a", "wmav2", "-b:a", "128k", to=".wma"), stereo)
    words = ("-c:a", "wmav2", "-b:a", "64k")
    plain, truth = ffmpeg(A, 44100, *words, to=".wma"), A.delayed(late, late)
    yield _row("pipe.asf", ffmpeg(A, 44100, *words, "-f", "asf", to="", piped=True), truth)
    yield _row("pcm.asf", ffmpeg(A, 8000, "-c:a", "pcm_s16le", to=".asf"), A)
    yield _row("mp3.asf", ffmpeg(A, 44100, "-c:a", "libmp3lame", to=".asf"), A.delayed(90, 90))
    pair = ffmpeg((A, B), 44100, *_TWO, *words, to=".asf")
    both = A.beside(B).delayed(late, late)
    yield _row("two-streams.asf", pair, both, NO_SILENCE, unlike_ffmpeg=_TRACKS)
    yield _row("two-streams-speakers.asf", pair, both, plan=SPEAKERS, unlike_ffmpeg=_TRACKS)
    video = ffmpeg(
        A, 44100, "-c:v", "wmv2", *words, to=".wmv", before=picture(20, "-itsoffset", "4")
    )
    yield _row(
        "late.wmv",
        video,
        A.after(4000).delayed(late, 4200),
        unlike_ffmpeg="words keep their time on the recording's clock",
    )
    yield _row("cut.wma", edited(plain, kept(0.6)), truth.at_least(5000), BROKEN)
    yield _row(
        "take.wma", edited(plain, kept(0.6)), truth.at_least(5000), flag="truncated", plan=TAKE
    )


def _avi() -> Iterator[Row]:
    encodings: Sequence[tuple[str, int, Sequence[str], float]] = (
        ("pcm", 8000, ("-c:a", "pcm_s16le"), 0),
        ("mulaw", 8000, ("-c:a", "pcm_mulaw"), 0),
        ("mp3", 44100, ("-c:a", "libmp3lame", "-b:a", "64k"), 90),
        ("mp2", 44100, ("-c:a", "mp2", "-b:a", "64k"), 90),
        ("ima", 8000, ("-c:a", "adpcm_ima_wav"), 130),
        ("ac3", 48000, ("-c:a", "ac3"), 60),
    )
    for name, rate, options, late in encodings:
        yield _row(f"{name}.avi", ffmpeg(A, rate, *options, to=".avi"), A.delayed(late, late))
    words = ("-c:v", "mpeg4", "-c:a", "pcm_s16le")
    yield _row("beside-picture.avi", ffmpeg(A, 8000, *words, to=".avi", before=picture(12)), A)
    early = ffmpeg(A, 8000, *words, to=".avi", before=picture(20))
    yield _row("ends-early.avi", early, A.delayed(0, 8200))
    pair = ffmpeg((A, B), 8000, *_TWO, "-c:a", "pcm_s16le", to=".avi")
    yield _row("two-streams.avi", pair, A.beside(B), NO_SILENCE, unlike_ffmpeg=_TRACKS)
    plain = ffmpeg(A, 8000, "-c:a", "pcm_s16le", to=".avi")
    yield _row("cut.avi", edited(plain, kept(0.6)), A.at_least(5000), NO_TRUST)
    yield _row("take.avi", edited(plain, kept(0.6)), A.at_least(5000), flag="truncated", plan=TAKE)
    yield _row("riff-size-0.avi", edited(plain, patched(4, bytes(4))), A)


def _flv() -> Iterator[Row]:
    encodings: Sequence[tuple[str, int, Sequence[str], float]] = (
        ("aac", 16000, _AAC, 264),
        ("mp3", 44100, ("-c:a", "libmp3lame", "-b:a", "64k"), 90),
        ("pcm", 44100, ("-c:a", "pcm_s16le"), 0),
        ("speex", 16000, ("-c:a", "libspeex"), 60),
        ("nellymoser", 8000, ("-c:a", "nellymoser"), 100),
    )
    for name, rate, options, late in encodings:
        recipe = ffmpeg(A, rate, *options, to=".flv")
        yield _row(f"{name}.flv", recipe, A.delayed(late, late))
    before = picture(20, "-itsoffset", "4")
    video = ffmpeg(A, 44100, "-c:v", "flv1", "-c:a", "pcm_s16le", to=".flv", before=before)
    yield _row(
        "late.flv",
        video,
        A.after(4000).delayed(0, 4200),
        unlike_ffmpeg="words keep their time on the recording's clock",
    )
    plain = ffmpeg(A, 44100, "-c:a", "libmp3lame", "-b:a", "64k", to=".flv")
    cut = edited(plain, kept(0.6))
    yield _row("cut.flv", cut, A.delayed(90, 90).at_least(5000), NO_TRUST)
    yield _row("take.flv", cut, A.delayed(90, 90).at_least(5000), flag="truncated", plan=TAKE)


_TS: Sequence[tuple[str, int, Sequence[str]]] = (
    ("aac", 16000, _AAC),
    ("mp2", 44100, ("-c:a", "mp2", "-b:a", "64k")),
    ("mp3", 44100, ("-c:a", "libmp3lame", "-b:a", "64k")),
    (
        "opus",
        48000,
        (
            "-c:a",
            "libopus",
        ),
    ),
    ("ac3", 48000, ("-c:a", "ac3")),
)


def _ts_truth(truth: Truth, codec: str, rate: int) -> Truth:
    return aac_late(truth, rate) if codec == "aac" else truth.delayed(60, 60)


def _ts() -> Iterator[Row]:
    for codec, rate, options in _TS:
        truth = _ts_truth(A, codec, rate)
        yield _row(f"{codec}.ts", ffmpeg(A, rate, *options, to=".ts"), truth)
        hours = ffmpeg(A, rate, *options, "-output_ts_offset", "36000", to=".ts")
        yield _row(f"{codec}-from-10-h.ts", hours, truth)
        wraps = ffmpeg(A, rate, *options, "-output_ts_offset", f"{_WRAP_S - 6:.3f}", to=".ts")
        yield _row(f"{codec}-clock-begins-anew.ts", wraps, truth)
    m2ts = ffmpeg(A, 44100, *_TS[1][2], "-mpegts_m2ts_mode", "1", "-f", "mpegts", to=".m2ts")
    yield _row("mp2.m2ts", m2ts, _ts_truth(A, "mp2", 44100))
    pair = ffmpeg((A, B), 44100, *_TWO, *_TS[1][2], to=".ts")
    both = _ts_truth(A.beside(B), "mp2", 44100)
    yield _row("two-streams.ts", pair, both, NO_SILENCE, unlike_ffmpeg=_TRACKS)
    yield _row("two-streams-speakers.ts", pair, both, plan=SPEAKERS, unlike_ffmpeg=_TRACKS)
    late = picture(20, "-itsoffset", "4")
    video = ffmpeg(A, 44100, "-c:v", "mpeg2video", *_TS[1][2], to=".ts", before=late)
    truth = _ts_truth(A.after(4000), "mp2", 44100).delayed(0, 4200)
    yield _row(
        "late.ts", video, truth, unlike_ffmpeg="words keep their time on the recording's clock"
    )
    first, second = (ffmpeg(each, 44100, *_TS[1][2], to=".ts") for each in (A, B))
    a, b = _ts_truth(A, "mp2", 44100), _ts_truth(B, "mp2", 44100)
    yield _row("joined.ts", joined(first, second), a.then(b), NO_SILENCE)


def _ts_damage() -> Iterator[Row]:
    codec, rate, options = _TS[1]
    plain = ffmpeg(A, rate, *options, to=".ts")
    truth = _ts_truth(A, codec, rate)

    def packets(first: float, last: float) -> Edit:
        """Return an edit that takes packets out, between two shares of the file."""

        def edit(data: bytes) -> bytes:
            start, end = (int(len(data) // _PACKET * share) * _PACKET for share in (first, last))
            return data[:start] + data[end:]

        return edit

    lost = edited(plain, packets(0.4, 0.6))
    yield _row(
        "lost-packets.ts",
        lost,
        truth,
        ANY,
        why="counters and clock show it: refused, flagged, or silence in their place",
    )
    headless = edited(plain, lambda data: data[100:])
    yield _row(
        "begins-amid-packet.ts",
        headless,
        truth,
        ANY,
        why="the first tables are lost, and come again",
    )
    yield _row("cut.ts", edited(plain, kept(0.6)), truth.at_least(5000), ANY)
    take = edited(plain, lambda data: data[: len(data) * 6 // 10 // _PACKET * _PACKET + 77])
    yield _row("take.ts", take, truth.at_least(5000), flag="truncated", plan=TAKE)
    yield _row("zeros-behind.ts", joined(plain, bytes(3000)), truth, NO_SILENCE)
