"""MP4, MOV and 3GP, Matroska and WebM: tracks, pictures, late starts, gaps, and ends cut off."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from ops.chaos.recorders import (
    ANY,
    BROKEN,
    FIRST,
    FLAG,
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
    Shop,
    edited,
    encoded,
    ffmpeg,
    joined,
    kept,
    pyav,
    remuxed,
)
from ops.chaos.tones import Truth, spoken

A, B, C = spoken(0), spoken(1), spoken(2)
AB = spoken(0, 1)

_AAC = ("-c:a", "aac", "-b:a", "48k")
_LATE_S = 4
_TRACKS = "tracks are speakers, and what is not read is named"
_SILENCE = "words keep their time on the recording's clock"
_MANY = "audio.too-many-channels"
_BROKEN_CODES = ("audio.truncated", "audio.bad-header")


def top_boxes(data: bytes) -> list[tuple[bytes, int, int]]:
    """Return name, start and end of each box at the top of an MP4."""
    found, at = [], 0
    while at + 8 <= len(data):
        size, name = struct.unpack_from(">I4s", data, at)
        end = at + size if size else len(data)
        found.append((name, at, end))
        at = max(end, at + 8)
    return found


def without_box(name: bytes) -> Edit:
    """Return an edit that takes the boxes of a name out."""

    def edit(data: bytes) -> bytes:
        return b"".join(data[a:b] for each, a, b in top_boxes(data) if each != name)

    return edit


def _open_ended(data: bytes) -> bytes:
    """Return an MP4 whose last box has a size of 0: until the end."""
    start = top_boxes(data)[-1][1]
    return data[:start] + bytes(4) + data[start + 4 :]


def _fragments(keep: int, extra: int = 0) -> Edit:
    """Return an edit that keeps so many fragments, and some bytes of the next."""

    def edit(data: bytes) -> bytes:
        starts = [start for name, start, _ in top_boxes(data) if name == b"moof"]
        return data[: starts[keep] + extra]

    return edit


def aac_late(truth: Truth, rate_hz: int) -> Truth:
    """Return the truth of AAC where nothing states the encoder's delay."""
    return truth.delayed(2112 * 1000 / rate_hz, 2048 * 1000 / rate_hz)


def _padded(truth: Truth, rate_hz: int) -> Truth:
    return truth.delayed(0, 1024 * 1000 / rate_hz)


def picture(seconds: float, *then: str) -> Sequence[str]:
    """Return options: a picture as FFmpeg's first input, and what stands before the sounds."""
    return ("-f", "lavfi", "-i", f"testsrc=d={seconds}:s=64x64:r=5", *then)


def boxes() -> Iterator[Case]:
    """Yield all cases."""
    yield from _iso()
    yield from _iso_fragments()
    yield from _iso_tracks()
    yield from _iso_broken()
    yield from _matroska()
    yield from _matroska_tracks()
    yield from _matroska_clocks()
    yield from _matroska_broken()


def _mp4(
    name: str, make: Recipe, truth: Truth, expected: frozenset[Expected] = WHOLE, **more: Any
) -> Case:
    return Case("mp4", name, make, truth, expected, **more)


def _mkv(
    name: str, make: Recipe, truth: Truth, expected: frozenset[Expected] = WHOLE, **more: Any
) -> Case:
    return Case("matroska", name, make, truth, expected, **more)


def _iso() -> Iterator[Case]:
    for rate in (8000, 16000, 44100, 48000):
        yield _mp4(f"aac-{rate}.m4a", ffmpeg(A, rate, *_AAC, to=".m4a"), _padded(A, rate))
        stereo = ffmpeg(AB, rate, "-c:a", "aac", "-b:a", "96k", to=".mp4")
        yield _mp4(f"aac-stereo-{rate}.mp4", stereo, _padded(AB, rate))
        bare = ffmpeg(A, rate, *_AAC, "-use_editlist", "0", to=".m4a")
        yield _mp4(f"no-edit-list-{rate}.m4a", bare, aac_late(A, rate))
    fast = ffmpeg(A, 16000, *_AAC, "-movflags", "+faststart", to=".m4a")
    yield _mp4("faststart.m4a", fast, _padded(A, 16000))
    yield _mp4("mdat-to-the-end.m4a", edited(fast, _open_ended), _padded(A, 16000))
    free = struct.pack(">I4s", 4096, b"free") + bytes(4088)
    yield _mp4("free-behind.m4a", joined(fast, free), _padded(A, 16000))
    yield _mp4("zeros-behind.m4a", joined(fast, bytes(3000)), _padded(A, 16000))
    yield _mp4("called-3gp.3gp", ffmpeg(A, 16000, *_AAC, "-f", "3gp", to=".3gp"), _padded(A, 16000))
    encodings: Sequence[tuple[str, str, int, Sequence[str]]] = (
        ("alac-16", ".m4a", 16000, ("-c:a", "alac", "-sample_fmt", "s16p")),
        ("alac-24", ".m4a", 44100, ("-c:a", "alac", "-sample_fmt", "s32p")),
        ("mp3", ".mp4", 44100, ("-c:a", "libmp3lame", "-b:a", "64k")),
        ("mp3-16000", ".mp4", 16000, ("-c:a", "libmp3lame", "-b:a", "32k")),
        ("opus", ".mp4", 48000, ("-c:a", "libopus", "-strict", "-2")),
        ("flac", ".mp4", 16000, ("-c:a", "flac", "-strict", "-2")),
        ("ac3", ".mp4", 48000, ("-c:a", "ac3")),
        ("s16le", ".mov", 8000, ("-c:a", "pcm_s16le")),
        ("s16be", ".mov", 44100, ("-c:a", "pcm_s16be")),
        ("s24le", ".mov", 44100, ("-c:a", "pcm_s24le")),
        ("f32", ".mov", 16000, ("-c:a", "pcm_f32le")),
        ("mulaw", ".mov", 8000, ("-c:a", "pcm_mulaw")),
        ("alaw", ".mov", 8000, ("-c:a", "pcm_alaw")),
        ("ima", ".mov", 8000, ("-c:a", "adpcm_ima_qt")),
    )
    for name, suffix, rate, options in encodings:
        lossy: float = 60 if name.startswith(("mp3", "opus", "ac3", "ima")) else 0
        if name.startswith("mp3"):
            lossy = 2300 * 1000 / rate
        yield _mp4(f"{name}{suffix}", ffmpeg(A, rate, *options, to=suffix), A.delayed(lossy, lossy))
    amr = pyav(A, 8000, "libopencore_amrnb", "3gp", 10_200)
    yield _mp4("amr.3gp", amr, A.delayed(40, 40))
    source = ffmpeg(A, 16000, *_AAC, to=".m4a")
    trimmed = remuxed(source, ".m4a", "-ss", "2.5", to=".m4a")
    yield _mp4(
        "trimmed.m4a",
        trimmed,
        _padded(A.part(2500), 16000).delayed(130),
        NO_SILENCE,
        why="its edit list begins at 2.5 s; players start there, or a frame before it",
    )


def _iso_fragments() -> Iterator[Case]:
    rate = 16000
    truth = aac_late(A, rate)
    flags = "+frag_keyframe+empty_moov+default_base_moof"
    fragments = ffmpeg(A, rate, *_AAC, "-movflags", flags, "-frag_duration", "1000000", to=".mp4")
    yield _mp4("fragments.mp4", fragments, truth)
    piped = ffmpeg(
        A,
        rate,
        *_AAC,
        "-movflags",
        flags,
        "-frag_duration",
        "500000",
        "-f",
        "mp4",
        to="",
        piped=True,
    )
    yield _mp4("fragments-pipe.mp4", piped, truth)
    dash = ffmpeg(
        A, rate, *_AAC, "-movflags", "+dash+frag_keyframe", "-frag_duration", "2000000", to=".mp4"
    )
    yield _mp4("fragments-dash.mp4", dash, truth)
    kept_fragments = truth.at_least(5000)
    yield _mp4(
        "fragments-cut-amid.mp4", edited(fragments, _fragments(7, 900)), kept_fragments, BROKEN
    )
    yield _mp4(
        "fragments-cut-between.mp4",
        edited(fragments, _fragments(7)),
        kept_fragments,
        ANY,
        why="between two fragments, nothing shows that more was to come",
    )
    take = edited(fragments, _fragments(7, 900))
    yield _mp4("take-fragments.mp4", take, kept_fragments, flag="truncated", plan=TAKE)


def _iso_tracks() -> Iterator[Case]:
    rate = 16000
    late = picture(20, "-itsoffset", str(_LATE_S))
    words = ("-c:v", "mpeg4", *_AAC)
    for suffix in (".mp4", ".mov", ".m4v"):
        truth = _padded(A.after(1000 * _LATE_S), rate).delayed(0, 4200)
        recipe = ffmpeg(
            A, rate, *words, "-f", "mov" if suffix == ".mov" else "mp4", to=suffix, before=late
        )
        yield _mp4(f"late{suffix}", recipe, truth, unlike_ffmpeg=_SILENCE)
    early = ffmpeg(A, rate, *words, to=".mp4", before=picture(20))
    yield _mp4("ends-early.mp4", early, _padded(A, rate).delayed(0, 8200))
    yield _mp4(
        "beside-picture.mp4",
        ffmpeg(A, rate, *words, to=".mp4", before=picture(12)),
        _padded(A, rate),
    )
    alone = ffmpeg(A, rate, *_AAC, to=".m4a", before=("-itsoffset", str(_LATE_S)))
    yield _mp4(
        "from-4-s.m4a", alone, _padded(A.after(4000), rate), NO_SILENCE, unlike_ffmpeg=_SILENCE
    )
    two, three = ("-map", "0", "-map", "1"), ("-map", "0", "-map", "1", "-map", "2")
    pair = ffmpeg((A, B), rate, *two, *_AAC, to=".mp4")
    both = _padded(A.beside(B), rate)
    yield _mp4("two-tracks.mp4", pair, both, NO_SILENCE, unlike_ffmpeg=_TRACKS)
    yield _mp4("two-tracks-speakers.mp4", pair, both, plan=SPEAKERS, unlike_ffmpeg=_TRACKS)
    yield _mp4("two-tracks-first.mp4", pair, both, FLAG, plan=FIRST, unlike_ffmpeg=_TRACKS)
    trio = ffmpeg((A, B, C), rate, *three, *_AAC, to=".mp4")
    truth = _padded(A.beside(B).beside(C), rate)
    yield _mp4(
        "three-tracks.mp4",
        trio,
        truth,
        ANY,
        codes=(_MANY,),
        unlike_ffmpeg=_TRACKS,
        why="more than two speakers must be asked for with --channels split",
    )
    split = {**SPEAKERS, "channels": "split"}
    yield _mp4("three-tracks-split.mp4", trio, truth, plan=split, unlike_ffmpeg=_TRACKS)
    tongues = ("-metadata:s:a:0", "language=eng", "-metadata:s:a:1", "language=fra")
    dubbed = ffmpeg((A, B), rate, *two, *_AAC, *tongues, to=".mp4")
    yield _mp4("two-languages.mp4", dubbed, both, NO_SILENCE, unlike_ffmpeg=_TRACKS)
    recipe = ffmpeg(
        (A, B), rate, "-map", "0", "-map", "1", "-map", "2", *words, to=".mp4", before=picture(12)
    )
    yield _mp4("two-tracks-picture.mp4", recipe, both, NO_SILENCE, unlike_ffmpeg=_TRACKS)
    apart = ffmpeg((A, spoken(1, seconds=7)), rate, *two, *_AAC, to=".mp4")
    yield _mp4(
        "two-tracks-short.mp4",
        apart,
        _padded(A.beside(spoken(1, seconds=7)), rate),
        NO_SILENCE,
        unlike_ffmpeg=_TRACKS,
    )


def _iso_broken() -> Iterator[Case]:
    rate = 16000
    plain = ffmpeg(A, rate, *_AAC, to=".m4a")
    fast = ffmpeg(A, rate, *_AAC, "-movflags", "+faststart", to=".m4a")
    held = A.at_least(5000)
    yield _mp4("no-moov.m4a", edited(plain, without_box(b"moov")), A, BROKEN, codes=_BROKEN_CODES)
    yield _mp4("cut.m4a", edited(plain, kept(0.6)), A, BROKEN, codes=_BROKEN_CODES)
    yield _mp4("cut-faststart.m4a", edited(fast, kept(0.6)), held, BROKEN)
    truth = _padded(A, rate).at_least(5000)
    yield _mp4("take-faststart.m4a", edited(fast, kept(0.6)), truth, flag="truncated", plan=TAKE)
    pcm = ffmpeg(A, 8000, "-c:a", "pcm_s16le", "-movflags", "+faststart", to=".mov")
    yield _mp4("cut-pcm.mov", edited(pcm, kept(0.6)), held, BROKEN)
    yield _mp4("take-pcm.mov", edited(pcm, kept(0.6)), held, flag="truncated", plan=TAKE)
    yield _mp4(
        "take-no-moov.m4a",
        edited(plain, without_box(b"moov")),
        A,
        BROKEN,
        codes=_BROKEN_CODES,
        plan=TAKE,
        why="without its moov, nothing in it can be found",
    )
    hole = edited(fast, _hole)
    yield _mp4("hole.m4a", hole, _padded(A, rate), NO_TRUST)


def _hole(data: bytes) -> bytes:
    """Return a file in which a third of the audio is zeros: a lost block of a disk."""
    _, start, end = top_boxes(data)[-1]
    first, last = start + (end - start) // 3, start + 2 * (end - start) // 3
    return data[:first] + bytes(last - first) + data[last:]


_CODECS: Sequence[tuple[str, int, Sequence[str]]] = (
    ("opus", 16000, ("-c:a", "libopus")),
    ("vorbis", 16000, ("-c:a", "libvorbis")),
    ("aac", 16000, _AAC),
    ("flac", 16000, ("-c:a", "flac")),
    ("pcm", 8000, ("-c:a", "pcm_s16le")),
    ("float", 16000, ("-c:a", "pcm_f32le")),
    ("mp3", 44100, ("-c:a", "libmp3lame", "-b:a", "64k")),
    ("ac3", 48000, ("-c:a", "ac3")),
)


def _matroska_truth(truth: Truth, codec: str, rate: int) -> Truth:
    """Return the truth: what is said of an encoder's delay, not every reader takes off."""
    samples = {"aac": 2112, "mp3": 2304, "ac3": 512, "opus": rate / 50}.get(codec, 0)
    return truth.delayed(1000 * samples / rate, 1000 * samples / rate)


def _matroska() -> Iterator[Case]:
    for codec, rate, options in _CODECS:
        truth = _matroska_truth(A, codec, rate)
        yield _mkv(f"{codec}.mka", ffmpeg(A, rate, *options, to=".mka"), truth)
        pipe = ffmpeg(A, rate, *options, "-f", "matroska", to="", piped=True)
        yield _mkv(f"{codec}-pipe.mkv", pipe, truth)
        merged = _merged(ffmpeg(A, rate, *options, to=".mka"))
        yield _mkv(f"{codec}-mkvmerge.mka", merged, truth)
    for codec in ("opus", "vorbis"):
        options = ("-c:a", f"lib{codec}")
        truth = _matroska_truth(AB, codec, 48000)
        yield _mkv(f"{codec}.webm", ffmpeg(AB, 48000, *options, to=".webm"), truth)
        live = ffmpeg(AB, 48000, *options, "-f", "webm", "-live", "1", to="", piped=True)
        yield _mkv(f"{codec}-live.webm", live, truth)
    short = ffmpeg(A, 16000, "-c:a", "libopus", "-cluster_time_limit", "300", to=".mka")
    yield _mkv("opus-short-clusters.mka", short, _matroska_truth(A, "opus", 16000))
    merged = encoded(A, 8000, "mkvmerge", "-q", "-o", "{out}", "{in}", to=".mka")
    yield _mkv("wav-mkvmerge.mka", merged, A)
    yield _mkv(
        "zeros-behind.mka",
        joined(ffmpeg(A, 16000, "-c:a", "libopus", to=".mka"), bytes(4000)),
        A.delayed(20, 20),
    )


def _merged(recipe: Bytes) -> Bytes:
    """Return a recipe: mkvmerge writes it anew, with several frames in a block."""

    def make(shop: Shop) -> bytes:
        source, out = shop.path(".mka"), shop.path(".mka")
        source.write_bytes(recipe(shop))
        shop.run("mkvmerge", "-q", "-o", out, source)
        return out.read_bytes()

    return make


def _matroska_tracks() -> Iterator[Case]:
    rate = 48000
    two = ("-map", "0", "-map", "1")
    opus = ("-c:a", "libopus")
    pair = ffmpeg((A, B), rate, *two, *opus, to=".mkv")
    both = A.beside(B).delayed(20, 20)
    yield _mkv("two-tracks.mkv", pair, both, NO_SILENCE, unlike_ffmpeg=_TRACKS)
    yield _mkv("two-tracks-speakers.mkv", pair, both, plan=SPEAKERS, unlike_ffmpeg=_TRACKS)
    yield _mkv("two-tracks-first.mkv", pair, both, FLAG, plan=FIRST, unlike_ffmpeg=_TRACKS)
    pcm = ffmpeg((A, B), 8000, *two, "-c:a", "pcm_s16le", to=".mkv")
    yield _mkv("two-tracks-pcm.mkv", pcm, A.beside(B), NO_SILENCE, unlike_ffmpeg=_TRACKS)
    stereo = spoken(1, 2)
    mixed = ffmpeg((A, stereo), rate, *two, *opus, to=".mkv")
    yield _mkv(
        "mono-and-stereo.mkv",
        mixed,
        replace(A.beside(stereo).delayed(20, 20), mixed=True),
        ANY,
        codes=(_MANY,),
        unlike_ffmpeg=_TRACKS,
        why="a track of two channels is one speaker, whose channel is their mean",
    )
    codecs = ffmpeg((A, B), rate, *two, "-c:a:0", "libopus", "-c:a:1", "libvorbis", to=".mkv")
    yield _mkv("two-codecs.mkv", codecs, both, NO_SILENCE, unlike_ffmpeg=_TRACKS)
    rates = ffmpeg(
        (A, B), rate, *two, "-c:a", "flac", "-ar:a:0", "8000", "-ar:a:1", "16000", to=".mkv"
    )
    yield _mkv("two-rates.mkv", rates, both, NO_SILENCE, unlike_ffmpeg=_TRACKS)
    tongues = ("-metadata:s:a:0", "language=eng", "-metadata:s:a:1", "language=fra")
    dubbed = ffmpeg((A, B), rate, *two, *opus, *tongues, to=".mkv")
    yield _mkv("two-languages.mkv", dubbed, both, NO_SILENCE, unlike_ffmpeg=_TRACKS)


def _matroska_clocks() -> Iterator[Case]:
    late = picture(20, "-itsoffset", str(_LATE_S))
    silent_first = A.after(1000 * _LATE_S)
    for codec, rate, options in _CODECS[:5]:
        truth = _matroska_truth(silent_first, codec, rate)
        recipe = ffmpeg(A, rate, "-c:v", "mpeg4", *options, to=".mkv", before=late)
        yield _mkv(f"late-{codec}.mkv", recipe, truth.delayed(0, 4200), unlike_ffmpeg=_SILENCE)
        alone = ffmpeg(A, rate, *options, to=".mka", before=("-itsoffset", str(_LATE_S)))
        yield _mkv(f"from-4-s-{codec}.mka", alone, truth, NO_SILENCE, unlike_ffmpeg=_SILENCE)
        gap = _matroska_truth(A.interrupted(6000, 3000), codec, rate)
        shift = f"asetnsamples=n={rate // 100},asetpts=if(gte(T\\,6)\\,PTS+3/TB\\,PTS)"
        jumps = ffmpeg(A, rate, "-af", shift, *options, to=".mka")
        yield _mkv(f"gap-{codec}.mka", jumps, gap.delayed(60, 60), unlike_ffmpeg=_SILENCE)
    early = ffmpeg(A, 48000, "-c:v", "libvpx", "-c:a", "libopus", to=".webm", before=picture(20))
    yield _mkv("ends-early.webm", early, A.delayed(20, 8200))


def _matroska_broken() -> Iterator[Case]:
    for codec, rate, options in _CODECS[:5]:
        held = _matroska_truth(A, codec, rate).at_least(4000)
        file = ffmpeg(A, rate, *options, "-cluster_time_limit", "1000", to=".mka")
        yield _mkv(f"cut-{codec}.mka", edited(file, kept(0.6)), held, BROKEN)
        yield _mkv(f"take-{codec}.mka", edited(file, kept(0.6)), held, flag="truncated", plan=TAKE)
        words = (*options, "-cluster_time_limit", "1000", "-f", "matroska")
        pipe = ffmpeg(A, rate, *words, to="", piped=True)
        yield _mkv(f"cut-pipe-{codec}.mkv", edited(pipe, kept(0.6)), held, NO_TRUST)
    opus = ffmpeg(A, 16000, "-c:a", "libopus", to=".mka")

    def hole(data: bytes) -> bytes:
        first, last = len(data) // 3, len(data) // 2
        return data[:first] + bytes(last - first) + data[last:]

    yield _mkv("hole.mka", edited(opus, hole), A.delayed(20, 20), NO_TRUST)
