"""MPEG audio, layers II and III, as recorders, joiners and taggers leave it behind."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ops.chaos.recorders import (
    ANY,
    BROKEN,
    NO_SILENCE,
    NO_TRUST,
    TAKE,
    WHOLE,
    Bytes,
    Case,
    Edit,
    Expected,
    Recipe,
    Shop,
    Written,
    edited,
    ffmpeg,
    joined,
    kept,
    lame,
    piped,
)
from ops.chaos.tones import Truth, spoken

A, B, C = spoken(0), spoken(1), spoken(2)
AB, CD = spoken(0, 1), spoken(2, 3)

#: What an encoder adds in front, with what a decoder does: 1105 samples of a layer III encoder,
#: whose first frame may be a tag that is decoded as one of silence.
_DELAY = 1105
_FRAME = 1152


def untold(truth: Truth, rate_hz: int) -> Truth:
    """Return the truth of a file without a LAME tag: how much was added is not said."""
    late, pad = (1000 * samples / rate_hz for samples in (_DELAY + _FRAME, 2 * _FRAME))
    return truth.delayed(late, pad)


#: kbit/s by index: layers II and III of MPEG 1, and both layers of MPEG 2 and 2.5.
_KBPS = {
    (3, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (3, 1): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
}
_LOW_KBPS = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_RATES_HZ = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}


def _frame_bytes(data: bytes, at: int) -> int:
    """Return the length of the frame that starts there, or 0 for none."""
    if data[at] != 0xFF or data[at + 1] & 0xE0 != 0xE0:
        return 0
    version, layer = data[at + 1] >> 3 & 3, data[at + 1] >> 1 & 3
    kbps, rate, padding = data[at + 2] >> 4, data[at + 2] >> 2 & 3, data[at + 2] >> 1 & 1
    if version == 1 or layer not in {1, 2} or kbps in {0, 15} or rate == 3:
        return 0
    samples = 576 if layer == 1 and version != 3 else 1152
    bits = 1000 * _KBPS.get((version, layer), _LOW_KBPS)[kbps]
    return samples // 8 * bits // _RATES_HZ[version][rate] + padding


def frames(data: bytes) -> list[tuple[int, int]]:
    """Return where each frame starts and ends, from the first that another follows."""
    at = 0
    if data[:3] == b"ID3":
        at = 10 + sum(
            (byte & 127) << shift for byte, shift in zip(data[6:10], (21, 14, 7, 0), strict=True)
        )
    found = []
    while at + 4 <= len(data):
        length = _frame_bytes(data, at)
        if length:
            found.append((at, at + length))
        at += length or 1
    return found


def cut_at_frame(number: int, *, extra: int = 0) -> Edit:
    """Return an edit that keeps so many frames, and some bytes of the next."""
    return lambda data: data[: frames(data)[number][0] + extra]


def from_frame(number: int, *, extra: int = 0) -> Edit:
    """Return an edit that drops so many frames, and some bytes of the next."""
    return lambda data: data[frames(data)[number][0] + extra :]


def at_frame(number: int, junk: bytes) -> Edit:
    """Return an edit that puts junk between two frames."""

    def edit(data: bytes) -> bytes:
        at = frames(data)[number][0]
        return data[:at] + junk + data[at:]

    return edit


def tag(size: int = 40, *, version: int = 4, footer: bool = False, body: bytes = b"") -> bytes:
    """Return an ID3v2 tag with a frame of text, and a body of our own if there is one."""
    text = b"\0" + b"a call".ljust(size, b" ")
    plain = version == 3
    sizes = struct.pack(">I", len(text)) if plain else _syncsafe(len(text))
    content = b"TIT2" + sizes + b"\0\0" + text + body
    flags = b"\x10" if footer else b"\0"
    rest = bytes([version, 0]) + flags + _syncsafe(len(content))
    return b"ID3" + rest + content + (b"3DI" + rest if footer else b"")


def _syncsafe(number: int) -> bytes:
    return bytes(number >> shift & 127 for shift in (21, 14, 7, 0))


def picture(size: int = 200_000) -> bytes:
    """Return a tag's frame with a picture in which MPEG frames seem to start all the time."""
    body = b"\0image/png\0\3\0" + (b"\xff\xfb\x90\x64" + b"\x55" * 60) * (size // 64)
    return b"APIC" + _syncsafe(len(body)) + b"\0\0" + body


def id3v1() -> bytes:
    """Return an ID3v1 tag."""
    return b"TAG" + b"a call".ljust(125, b"\0")


def ape() -> bytes:
    """Return an APEv2 tag, with header and footer."""
    item = struct.pack("<II", 6, 0) + b"Title\0" + b"a call"
    fields = struct.pack("<III", 2000, len(item) + 32, 1)
    header = b"APETAGEX" + fields + struct.pack("<I", 0xA0000000) + bytes(8)
    return header + item + b"APETAGEX" + fields + struct.pack("<I", 0x80000000) + bytes(8)


def lyrics3() -> bytes:
    """Return a Lyrics3v2 tag, which stands before an ID3v1 tag."""
    body = b"LYRICSBEGININD0000200LYR00010hello\xff\xfb\x90\x64 "
    return body + f"{len(body):06}".encode() + b"LYRICS200"


def promised(change: Callable[[int], int]) -> Edit:
    """Return an edit of the number of frames that a Xing or Info tag promises."""

    def edit(data: bytes) -> bytes:
        at = max(data.find(b"Xing", 0, 4096), data.find(b"Info", 0, 4096)) + 8
        (count,) = struct.unpack_from(">I", data, at)
        return data[:at] + struct.pack(">I", change(count)) + data[at + 4 :]

    return edit


def vbri(data: bytes) -> bytes:
    """Return layer III with a VBRI frame in front, as Fraunhofer's encoder writes it."""
    found = frames(data)
    start, end = max(found[:20], key=lambda each: each[1] - each[0])
    header = data[start : start + 4]
    # Entries of 2 bytes, each for 10 frames.
    steps = [sum(b - a for a, b in found[n : n + 10]) for n in range(0, len(found), 10)]
    room = (end - start - 62) // 2
    steps = steps[:room]
    body = struct.pack(
        ">4sHHHIIHHHH", b"VBRI", 1, 0, 75, len(data), len(found), len(steps), 1, 2, 10
    )
    frame = header + bytes(32) + body + struct.pack(f">{len(steps)}H", *steps)
    return frame.ljust(end - start, b"\0")[: end - start] + data


def mpeg() -> Iterator[Case]:
    """Yield all cases."""
    yield from _plain()
    yield from _tagless()
    yield from _tags()
    yield from _joins()
    yield from _pieces()
    yield from _promises()
    yield from _cuts()
    yield from _junk()


def _case(
    name: str, make: Recipe, truth: Truth, expected: frozenset[Expected] = WHOLE, **more: Any
) -> Case:
    return Case("mpeg", name, make, truth, expected, **more)


def _plain() -> Iterator[Case]:
    for rate in (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000):
        yield _case(f"cbr-{rate}.mp3", _tagged(A, rate), A)
    for rate in (16000, 22050, 24000, 32000, 44100, 48000):
        truth = untold(A, rate)
        yield _case(
            f"layer2-{rate}.mp2", ffmpeg(A, rate, "-c:a", "mp2", "-b:a", "64k", to=".mp2"), truth
        )
    yield _case(
        "layer2-stereo.mp3",
        ffmpeg(AB, 44100, "-c:a", "mp2", "-b:a", "192k", "-f", "mp2", to=".mp2"),
        untold(AB, 44100),
    )
    for rate in (8000, 16000, 44100):
        yield _case(f"vbr-{rate}.mp3", lame(A, rate, "-V", "5"), A)
        yield _case(f"abr-{rate}.mp3", lame(A, rate, "--abr", "32"), A)
    for mode, letter in (("stereo", "s"), ("joint", "j"), ("dual", "d")):
        yield _case(f"{mode}-44100.mp3", lame(AB, 44100, "-b", "128", "-m", letter), AB)
        yield _case(f"{mode}-8000.mp3", lame(AB, 8000, "-b", "64", "-m", letter), AB)
    yield _case("crc-44100.mp3", _tagged(A, 44100, "-p"), A)
    yield _case("crc-8000.mp3", _tagged(A, 8000, "-p"), A)
    yield _case("crc-joint.mp3", lame(AB, 22050, "-b", "64", "-p", "-m", "j"), AB)
    yield _case(
        "freeformat.mp3",
        lame(A, 44100, "--freeformat", "-b", "96"),
        untold(A, 44100),
        ANY,
        codes=("audio.bad-header", "audio.not-audio"),
        why="few decoders know free format",
    )
    yield _case("called-wav.wav", _tagged(A, 8000), A)
    yield _case("called-ulaw.ulaw", _tagged(A, 8000), A)
    yield _case("no-suffix", _tagged(A, 16000), A)
    yield _case(
        "shine-44100.mp3", ffmpeg(AB, 44100, "-c:a", "libshine", to=".mp3"), AB.delayed(60, 60)
    )


def _tagged(truth: Truth, rate: int, *options: str) -> Bytes:
    """Layer III of one bit rate, with LAME's tag; it needs frames of 200 bytes to fit in."""
    kbps = 24 if rate == 8000 else 48 if rate <= 16000 else 64
    return lame(truth, rate, "--cbr", "-b", str(kbps), *options)


def _mp3(truth: Truth, rate: int, *options: str, kbps: int = 64, pipe: bool = False) -> Bytes:
    words = ("-c:a", "libmp3lame", "-b:a", f"{kbps}k", *options, *(("-f", "mp3") if pipe else ()))
    return ffmpeg(truth, rate, *words, to=".mp3", piped=pipe)


def _bare(truth: Truth, rate: int, kbps: int = 32) -> Bytes:
    """Layer III of one bit rate, and nothing but frames."""
    return lame(truth, rate, "--cbr", "-b", str(kbps), "-t")


def _bare_vbr(truth: Truth, rate: int) -> Bytes:
    return lame(truth, rate, "-V", "5", "-t")


def _tagless() -> Iterator[Case]:
    for rate in (8000, 16000, 44100):
        truth = untold(A, rate)
        yield _case(f"ffmpeg-{rate}.mp3", _mp3(A, rate), A)
        yield _case(f"ffmpeg-no-xing-{rate}.mp3", _mp3(A, rate, "-write_xing", "0"), truth)
        yield _case(f"ffmpeg-pipe-{rate}.mp3", _mp3(A, rate, pipe=True), truth)
        vbr = piped(
            A, rate, "lame", "--quiet", "-V", "5", "--resample", f"{rate / 1000:g}", "-", "-"
        )
        yield _case(f"lame-pipe-vbr-{rate}.mp3", vbr, truth)
        yield _case(f"bare-cbr-{rate}.mp3", _bare(A, rate), truth)
        yield _case(f"bare-vbr-{rate}.mp3", _bare_vbr(A, rate), truth)
        yield _case(f"vbri-{rate}.mp3", edited(_bare_vbr(A, rate), vbri), truth)
    yield _case("ffmpeg-pipe-stereo.mp3", _mp3(AB, 22050, kbps=64, pipe=True), untold(AB, 22050))


def _tags() -> Iterator[Case]:
    bare, whole = _bare(A, 16000), _tagged(A, 16000)
    truth = untold(A, 16000)
    huge = tag(body=picture())
    fronts = {
        "id3v2": tag(),
        "id3v2.3": tag(version=3),
        "id3v2-picture": huge,
        "id3v2-footer": tag(footer=True),
        "id3v2-twice": tag() + tag(300),
        "id3v2-padding": tag(body=bytes(20_000)),
        "id3v2-picture-twice": huge + huge,
    }
    for name, front in fronts.items():
        yield _case(f"{name}-bare.mp3", joined(front, bare), truth)
        yield _case(f"{name}-xing.mp3", joined(front, whole), A)
    backs = {
        "id3v1": id3v1(),
        "ape": ape(),
        "ape-id3v1": ape() + id3v1(),
        "lyrics3": lyrics3() + id3v1(),
        "id3v2-behind": tag(footer=True),
    }
    for name, back in backs.items():
        yield _case(f"{name}-bare.mp3", joined(bare, back), truth)
        yield _case(f"{name}-xing.mp3", joined(whole, back), A)
    layer2 = ffmpeg(A, 16000, "-c:a", "mp2", "-b:a", "64k", to=".mp2")
    yield _case("layer2-tagged.mp2", joined(tag(), layer2, id3v1()), truth)


def _joins() -> Iterator[Case]:
    for rate in (8000, 44100):
        a, b = (untold(each, rate) for each in (A, B))
        both = a.then(b)
        yield _case(f"joined-bare-{rate}.mp3", joined(_bare(A, rate), _bare(B, rate)), both)
        yield _case(
            f"joined-xing-{rate}.mp3",
            joined(_tagged(A, rate), _tagged(B, rate)),
            both,
            unlike_ffmpeg="the first tag speaks of the first recording alone",
        )
        yield _case(
            f"joined-vbr-{rate}.mp3",
            joined(lame(A, rate, "-V5"), lame(B, rate, "-V5")),
            both,
            unlike_ffmpeg="the first tag speaks of the first recording alone",
        )
        yield _case(
            f"joined-pipes-{rate}.mp3",
            joined(_mp3(A, rate, pipe=True), _mp3(B, rate, pipe=True)),
            both,
        )
    rate = 16000
    a, b, c = (untold(each, rate) for each in (A, B, C))
    first, second, third = (_tagged(each, rate) for each in (A, B, C))
    yield _case("joined-three.mp3", joined(first, second, third), a.then(b).then(c))
    betweens = {
        "id3v1": id3v1(),
        "id3v2": tag(),
        "id3v1-id3v2": id3v1() + tag(),
        "picture": tag(body=picture()),
        "ape": ape(),
        "lyrics3": lyrics3() + id3v1(),
    }
    for name, between in betweens.items():
        yield _case(f"joined-{name}.mp3", joined(first, between, second), a.then(b))
        bare = joined(_bare(A, rate), between, _bare(B, rate))
        unlike = "what looks like frames in a tag is none" if name in {"picture", "lyrics3"} else ""
        yield _case(f"joined-bare-{name}.mp3", bare, a.then(b), unlike_ffmpeg=unlike)
    yield _case(
        "joined-tagged.mp3", joined(tag(), first, id3v1(), tag(), second, id3v1()), a.then(b)
    )
    changes = {
        "rate-8-16": (_bare(A, 8000), _bare(B, 16000), untold(A, 8000).then(b)),
        "rate-44-22": (
            _bare(A, 44100, 64),
            _bare(B, 22050),
            untold(A, 44100).then(untold(B, 22050)),
        ),
        "rate-xing": (_tagged(A, 8000), second, untold(A, 8000).then(b)),
        "mono-stereo": (
            _bare(A, rate),
            _bare(spoken(1, 2), rate, 64),
            a.then(untold(spoken(1, 2), rate)),
        ),
        "stereo-mono": (_bare(AB, rate, 64), _bare(C, rate), untold(AB, rate).then(c)),
        "mono-stereo-xing": (
            first,
            lame(spoken(1, 2), rate, "-b", "64"),
            a.then(untold(spoken(1, 2), rate)),
        ),
        "layer": (
            ffmpeg(A, rate, "-c:a", "mp2", "-b:a", "64k", to=".mp2"),
            _bare(B, rate),
            a.then(b),
        ),
        "bit-rate": (_bare(A, rate, 16), _bare(B, rate, 64), a.then(b)),
    }
    for name, (one, other, truth) in changes.items():
        expected = WHOLE if name == "bit-rate" else NO_SILENCE
        yield _case(f"change-{name}.mp3", joined(one, other), truth, expected)
    yield _case(
        "joined-layer2.mp2",
        joined(*(ffmpeg(t, rate, "-c:a", "mp2", "-b:a", "64k", to=".mp2") for t in (A, B))),
        a.then(b),
    )


def _pieces() -> Iterator[Case]:
    """Pieces of a stream: where it is cut says nobody, so that both ends are in a frame."""
    for rate, samples in ((8000, 576), (16000, 576), (44100, 1152)):
        first = 3_000 * rate // 1000 // samples
        cut = 1000 * first * samples / rate
        begins = edited(_bare(A, rate), from_frame(first, extra=11))
        # The frame that is cut is lost, and so may be one that borrows bits of it.
        lost = 4 * 1000 * samples / rate
        truth = untold(A.part(cut), rate)
        yield _case(
            f"begins-amid-frame-{rate}.mp3",
            begins,
            truth.delayed(lost).hazy(500),
            NO_SILENCE,
        )
        last = 9_000 * rate // 1000 // samples
        both = edited(_bare(A, rate), cut_at_frame(last, extra=20), from_frame(first, extra=11))
        piece = untold(A.part(cut, 1000 * last * samples / rate), rate)
        yield _case(
            f"piece-{rate}.mp3",
            both,
            piece.delayed(lost).hazy(500).at_least(5000),
            NO_SILENCE,
            why="a piece of a stream is what somebody wanted to hand in",
        )
    begins = edited(_bare_vbr(A, 16000), from_frame(80, extra=30))
    truth = untold(A.part(1000 * 80 * 576 / 16000), 16000).delayed(200).hazy(500)
    yield _case("begins-amid-frame-vbr.mp3", begins, truth, NO_SILENCE)


def _promises() -> Iterator[Case]:
    for name, recipe in (("cbr", _tagged(A, 16000)), ("vbr", lame(A, 16000, "-V", "5"))):
        yield _case(
            f"xing-promises-more-{name}.mp3",
            edited(recipe, promised(lambda n: n * 2)),
            A,
            BROKEN,
            why="half of what its tag promises is not there",
        )
        yield _case(
            f"xing-promises-less-{name}.mp3",
            edited(recipe, promised(lambda n: n // 2)),
            untold(A, 16000),
            unlike_ffmpeg="what lies behind what is promised was recorded all the same",
        )
        yield _case(
            f"xing-promises-none-{name}.mp3",
            edited(recipe, promised(lambda _: 0)),
            untold(A, 16000),
        )


def _cuts() -> Iterator[Case]:
    held = A.part(0, 7000)
    for rate in (8000, 44100):
        samples = 576 if rate == 8000 else 1152
        number = 7 * rate // samples
        for name, recipe in (
            ("cbr", _tagged(A, rate)),
            ("vbr", lame(A, rate, "-V", "5")),
            ("ffmpeg", _mp3(A, rate)),
        ):
            for where, extra in (("between", 0), ("amid", 9)):
                yield _case(
                    f"cut-{name}-{where}-{rate}.mp3",
                    edited(recipe, cut_at_frame(number, extra=extra)),
                    untold(held, rate),
                    BROKEN,
                )
        truth = untold(A.part(0, 1000 * number * samples / rate), rate).at_least(6000)
        yield _case(
            f"bare-cut-amid-{rate}.mp3",
            edited(_bare(A, rate), cut_at_frame(number, extra=9)),
            truth,
            NO_TRUST,
        )
        yield _case(
            f"bare-cut-between-{rate}.mp3",
            edited(_bare(A, rate), cut_at_frame(number)),
            truth,
            why="between two frames, nothing shows that more was to come",
        )
        cut = edited(_tagged(A, rate), cut_at_frame(number, extra=9))
        yield _case(f"take-xing-{rate}.mp3", cut, truth, flag="truncated", plan=TAKE)
        cut = edited(_bare(A, rate), cut_at_frame(number, extra=9))
        yield _case(f"take-bare-{rate}.mp3", cut, truth, flag="truncated", plan=TAKE)
    yield _case(
        "half-joined.mp3",
        edited(joined(_tagged(A, 16000), _tagged(B, 16000)), kept(0.75)),
        untold(A, 16000).then(untold(B, 16000)).part(0, 17_000),
        NO_TRUST,
        why="the second recording's tag promises more than there is",
    )


def _junk() -> Iterator[Case]:
    rate = 16000
    noise = np.random.default_rng(7).bytes(3000).replace(b"\xff", b"\xfe")
    truth = untold(A, rate).delayed(100)
    bare, whole = _bare(A, rate), _tagged(A, rate)
    junks = {"zeros": bytes(500), "text": b"<br>lost connection</br>\r\n" * 20, "noise": noise}
    for name, junk in junks.items():
        edit = at_frame(150, junk)
        why = "nothing tells junk that was put in from frames that were lost"
        yield _case(f"junk-{name}-bare.mp3", edited(bare, edit), truth, ANY, why=why)
        why = "as many frames are there as were promised"
        yield _case(f"junk-{name}-xing.mp3", edited(whole, edit), truth, NO_SILENCE, why=why)
    behind = {"zeros": bytes(1024), "many-zeros": bytes(65536), "text": b"\r\nend of call\r\n" * 9}
    for name, junk in behind.items():
        yield _case(f"behind-{name}-bare.mp3", joined(bare, junk), truth)
        yield _case(f"behind-{name}-xing.mp3", joined(whole, junk), A)
    yield _case("before-zeros.mp3", joined(bytes(1000), bare), truth)
    yield _case("before-noise.mp3", joined(noise, bare), truth, NO_SILENCE)
    yield _case("lost-frames-bare.mp3", _overwritten(bare, rate), A, NO_TRUST)
    yield _case("lost-frames-xing.mp3", _overwritten(whole, rate), A, NO_TRUST)


def _overwritten(recipe: Bytes, rate: int) -> Callable[[Shop], Written]:
    """Three seconds of frames become zeros, as a lost block of a disk leaves them."""

    def make(shop: Shop) -> Written:
        data = recipe(shop)
        found = frames(data)
        first, last = found[4 * rate // 576][0], found[7 * rate // 576][0]
        return Written(data[:first] + bytes(last - first) + data[last:], untold(A, rate))

    return make
