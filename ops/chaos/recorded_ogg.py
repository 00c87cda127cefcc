"""Ogg: Opus, Vorbis, FLAC and Speex, chained, side by side, with clocks that jump, pages lost."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ops.chaos.ogg import pages, with_checksums
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
    Shop,
    Written,
    edited,
    encoded,
    ffmpeg,
    joined,
)
from ops.chaos.tones import Truth, spoken

A, B, C = spoken(0), spoken(1), spoken(2)
AB, CD = spoken(0, 1), spoken(2, 3)

_FIRST_OF_STREAM, _LAST_OF_STREAM = 2, 4
_OPUS_HZ = 48_000
#: Speex looks ahead, and fills its last packet.
_SPEEX_MS = 60


@dataclass(frozen=True, slots=True)
class Page:
    """A page: its stream's serial, its number in it, and the clock at its end, in samples."""

    flags: int
    clock: int
    serial: int
    number: int
    lacing: bytes
    body: bytes

    def __bytes__(self) -> bytes:
        fields = (b"OggS", 0, self.flags, self.clock, self.serial, self.number, 0, len(self.lacing))
        return struct.pack("<4sBBqIIIB", *fields) + self.lacing + self.body


def taken_apart(data: bytes) -> list[Page]:
    """Return a file's pages."""
    found = []
    for start, end in pages(data):
        flags, clock, serial, number, count = struct.unpack_from("<xBqII4xB", data, start + 4)
        body = start + 27 + count
        found.append(Page(flags, clock, serial, number, data[start + 27 : body], data[body:end]))
    return found


def put_together(found: Sequence[Page]) -> bytes:
    """Return pages as a file, each with its checksum right."""
    return with_checksums(b"".join(map(bytes, found)))


def paged(edit: Callable[[list[Page]], Sequence[Page]]) -> Edit:
    """Return an edit of pages as one of bytes."""
    return lambda data: put_together(edit(taken_apart(data)))


def numbered(serial: int) -> Edit:
    """Return an edit that gives a stream its serial."""
    return lambda data: with_checksums(data, serial=serial)


def _first_audio(found: Sequence[Page]) -> int:
    return next(n for n, page in enumerate(found) if page.clock > 0)


def _later(page: Page, by: int) -> Page:
    return page if page.clock < 0 else replace(page, clock=page.clock + by)


def _gap(recipe: Bytes, rate_hz: int, skip: int, late_ms: float) -> Recipe:
    """The clock jumps by 3 s after about 5 s, and no page is missing: nobody spoke."""

    def make(shop: Shop) -> Written:
        found = taken_apart(recipe(shop))
        first = next(n for n, page in enumerate(found) if page.clock >= 5 * rate_hz)
        moved = [_later(page, 3 * rate_hz) for page in found[first + 1 :]]
        at_ms = 1000 * (found[first].clock - skip) / rate_hz
        truth = A.interrupted(at_ms, 3000).delayed(late_ms, late_ms)
        return Written(put_together([*found[: first + 1], *moved]), truth)

    return make


def _from_100_s(rate_hz: int) -> Edit:
    """All of the clock is 100 s later: a clip of a long recording."""

    def edit(found: list[Page]) -> list[Page]:
        first = _first_audio(found)
        return [*found[:first], *(_later(page, 100 * rate_hz) for page in found[first:])]

    return paged(edit)


def _lost(found: list[Page]) -> list[Page]:
    """Return pages without those of two seconds amid them."""
    first = _first_audio(found)
    middle = first + (len(found) - first) // 3
    count = max((len(found) - first) // 6, 1)
    return found[:middle] + found[middle + count :]


def _endless(found: list[Page]) -> list[Page]:
    last = found[-1]
    return [*found[:-1], replace(last, flags=last.flags & ~_LAST_OF_STREAM)]


def _ends_at(clock: int) -> Edit:
    return paged(lambda found: [*found[:-1], replace(found[-1], clock=clock)])


def _cut_amid(data: bytes) -> bytes:
    """Return a file that ends in the midst of a page, after about 7 s."""
    found = list(pages(data))
    start, end = found[len(found) * 7 // 12]
    return data[: (start + end) // 2]


def _between(recipe: Bytes, rate_hz: int, skip: int = 0) -> Recipe:
    """The file ends between two pages: nothing but a mark of its end is missing."""

    def make(shop: Shop) -> Written:
        found = taken_apart(recipe(shop))
        last = len(found) * 7 // 12
        until = max(page.clock for page in found[: last + 1]) - skip
        return Written(put_together(found[: last + 1]), A.part(0, 1000 * until / rate_hz))

    return make


def _without_checksums(data: bytes) -> bytes:
    fixed = bytearray(data)
    for start, _ in pages(data):
        fixed[start + 22 : start + 26] = bytes(4)
    return bytes(fixed)


def _damaged(data: bytes) -> bytes:
    """Return a file with a byte of a page changed, as its checksum shows."""
    found = list(pages(data))
    _, end = found[len(found) // 2]
    return data[: end - 9] + bytes([data[end - 9] ^ 0x5A]) + data[end - 8 :]


def _wrong_checksum(data: bytes) -> bytes:
    start = list(pages(data))[4][0] + 22
    return data[:start] + bytes([data[start] ^ 0xFF]) + data[start + 1 :]


def _skeleton(found: list[Page]) -> list[Page]:
    head = b"fishead\0" + struct.pack("<HHqqqq", 3, 0, 0, 1000, 0, 1000) + bytes(20)
    first = Page(_FIRST_OF_STREAM, 0, 0x5CE1, 0, bytes([len(head)]), head)
    last = Page(_LAST_OF_STREAM, 0, 0x5CE1, 1, b"", b"")
    audio = _first_audio(found)
    return [first, *found[:audio], last, *found[audio:]]


def opus(truth: Truth, rate_hz: int, *options: str) -> Bytes:
    """Return a recipe of opusenc's."""
    words = ("opusenc", "--quiet", "--bitrate", "48", *options, "{in}", "{out}")
    return encoded(truth, rate_hz, *words, to=".opus")


def vorbis(truth: Truth, rate_hz: int, *options: str) -> Bytes:
    """Return a recipe of oggenc's."""
    return encoded(truth, rate_hz, "oggenc", "-Q", *options, "-o", "{out}", "{in}", to=".ogg")


def flac(truth: Truth, rate_hz: int, *options: str) -> Bytes:
    """Return a recipe of flac's."""
    words = ("flac", "--silent", "--ogg", *options, "-o", "{out}", "{in}")
    return encoded(truth, rate_hz, *words, to=".oga")


def speex(truth: Truth, rate_hz: int, *options: str) -> Bytes:
    """Return a recipe of speexenc's."""
    words = ("speexenc", "--quality", "10", *options, "{in}", "{out}")
    return encoded(truth, rate_hz, *words, to=".spx")


def _short_pages(codec: str, rate_hz: int) -> Bytes:
    """Return a recipe with a page for each fifth of a second or less."""
    options = ("-page_duration", "200000", "-serial_offset", "7")
    return ffmpeg(A, rate_hz, "-c:a", codec, *options, "-f", "ogg", to=".ogg")


def ogg() -> Iterator[Case]:
    """Yield all cases."""
    yield from _opus()
    yield from _others()
    yield from _chains()
    yield from _side_by_side()
    for name, recipe, clock_hz, skip, truth in _kinds():
        yield from _clocks(name, recipe, clock_hz, skip)
        yield from _ends(name, recipe, truth)
        yield from _damage(name, recipe, clock_hz, skip)
    yield from _oddities()


def _case(
    name: str, make: Recipe, truth: Truth, expected: frozenset[Expected] = WHOLE, **more: Any
) -> Case:
    return Case("ogg", name, make, truth, expected, **more)


def _kinds() -> Iterator[tuple[str, Bytes, int, int, Truth]]:
    """Yield what each damage is done to: name, recipe, clock, samples to skip, truth."""
    yield "opus", _short_pages("libopus", 16000), _OPUS_HZ, 312, A
    yield "vorbis", _short_pages("libvorbis", 16000), 16000, 0, A
    yield "flac", _short_pages("flac", 16000), 16000, 0, A
    yield "speex", _short_pages("libspeex", 16000), 16000, 0, A.delayed(_SPEEX_MS, _SPEEX_MS)


def _opus() -> Iterator[Case]:
    for rate in (8000, 16000, 44100, 48000):
        yield _case(f"opus-{rate}.opus", opus(A, rate), A)
        yield _case(f"opus-stereo-{rate}.opus", opus(AB, rate), AB)
    for frame in ("2.5", "10", "60"):
        yield _case(f"opus-frames-{frame}.opus", opus(A, 16000, "--framesize", frame), A)
    yield _case("opus-packet-a-page.opus", opus(A, 16000, "--max-delay", "0"), A)
    yield _case(
        "opus-long-pages.opus", opus(A, 16000, "--framesize", "60", "--max-delay", "1000"), A
    )
    packet = ffmpeg(A, 16000, "-c:a", "libopus", "-page_duration", "1", to=".opus")
    yield _case("ffmpeg-packet-a-page.opus", packet, A)
    yield _case(
        "ffmpeg-long-pages.ogg",
        ffmpeg(A, 16000, "-c:a", "libopus", "-page_duration", "9000000", to=".ogg"),
        A,
    )
    yield _case(
        "ffmpeg-pipe.opus",
        ffmpeg(A, 16000, "-c:a", "libopus", "-f", "ogg", to=".opus", piped=True),
        A,
    )
    voip = ffmpeg(A, 8000, "-c:a", "libopus", "-application", "voip", "-b:a", "24k", to=".opus")
    yield _case("ffmpeg-voip-8000.opus", voip, A)
    for rate in (0, 44100, 192000):
        head = _header(_patch(12, "<I", rate))
        yield _case(f"opus-input-rate-{rate}.opus", edited(opus(A, 16000), head), A)
    skipped = 24_000
    head = _header(_patch(10, "<H", skipped))
    skips = edited(ffmpeg(A, 16000, "-c:a", "libopus", to=".opus"), head)
    yield _case("opus-skips-half-a-second.opus", skips, A.part(1000 * (skipped - 312) / _OPUS_HZ))
    head = _header(_patch(10, "<H", 0))
    yield _case("opus-skips-nothing.opus", edited(opus(A, 16000), head), A)
    odd = spoken(0, seconds=11.337)
    yield _case("opus-end-trim.opus", opus(odd, 16000), odd)
    yield _case("opus-end-trim-long.opus", opus(odd, 16000, "--framesize", "60"), odd)


def _header(change: Callable[[bytes], bytes]) -> Edit:
    """Return an edit of the first packet."""
    return paged(lambda found: [replace(found[0], body=change(found[0].body)), *found[1:]])


def _patch(at: int, layout: str, value: int) -> Edit:
    return lambda head: (
        head[:at] + struct.pack(layout, value) + head[at + struct.calcsize(layout) :]
    )


def _others() -> Iterator[Case]:
    for rate in (8000, 16000, 44100):
        yield _case(f"vorbis-{rate}.ogg", vorbis(A, rate), A)
        yield _case(f"vorbis-stereo-{rate}.ogg", vorbis(AB, rate, "-q", "5"), AB)
        yield _case(f"ffmpeg-vorbis-{rate}.ogg", ffmpeg(A, rate, "-c:a", "libvorbis", to=".ogg"), A)
        yield _case(f"flac-{rate}.oga", flac(A, rate), A)
    own = ffmpeg(AB, 44100, "-c:a", "vorbis", "-strict", "-2", "-b:a", "192k", to=".ogg")
    yield _case("ffmpeg-own-vorbis.ogg", own, AB.delayed(50, 50))
    packet = ffmpeg(A, 16000, "-c:a", "libvorbis", "-page_duration", "1", to=".ogg")
    yield _case("vorbis-packet-a-page.ogg", packet, A)
    pipe = ffmpeg(A, 16000, "-c:a", "libvorbis", "-f", "ogg", to=".ogg", piped=True)
    yield _case("vorbis-pipe.ogg", pipe, A)
    yield _case("flac-stereo.oga", flac(AB, 44100), AB)
    yield _case("ffmpeg-flac.ogg", ffmpeg(A, 8000, "-c:a", "flac", "-f", "ogg", to=".ogg"), A)
    late = A.delayed(_SPEEX_MS, _SPEEX_MS)
    for rate, band in ((8000, "-n"), (16000, "-w"), (32000, "-u")):
        yield _case(f"speex-{rate}.spx", speex(A, rate, band), late)
    # At a variable bit rate, Speex takes some steady tones for noise; none of B's.
    yield _case("speex-vbr.spx", speex(B, 8000, "--vbr"), B.delayed(_SPEEX_MS, _SPEEX_MS))
    pause = B.interrupted(5000, 3000)
    recipe = speex(pause, 8000, "--vbr", "--dtx")
    yield _case("speex-dtx.spx", recipe, pause.delayed(_SPEEX_MS, _SPEEX_MS))
    yield _case("speex-frames-4.spx", speex(A, 8000, "--nframes", "4"), A.delayed(120, 120))
    yield _case("speex-skeleton.spx", speex(A, 8000, "--skeleton"), late)
    yield _case("speex-called-ogg.ogg", speex(A, 16000), late)


def _chains() -> Iterator[Case]:
    one, two, three = numbered(1), numbered(2), numbered(3)
    kinds: dict[str, tuple[Callable[..., Bytes], int, float]] = {
        "opus": (opus, 16000, 0),
        "vorbis": (vorbis, 16000, 0),
        "flac": (flac, 16000, 0),
        "speex": (speex, 16000, _SPEEX_MS),
    }
    for name, (make, rate, late) in kinds.items():
        a, b, c = (each.delayed(late, late) for each in (A, B, C))
        pair = joined(edited(make(A, rate), one), edited(make(B, rate), two))
        yield _case(f"chained-{name}.ogg", pair, a.then(b))
        triple = joined(pair, edited(make(C, rate), three))
        yield _case(f"chained-three-{name}.ogg", triple, a.then(b).then(c))
        same = joined(edited(make(A, rate), one), edited(make(B, rate), one))
        yield _case(
            f"chained-one-serial-{name}.ogg",
            same,
            a.then(b),
            NO_SILENCE,
            why="serials of links should differ, and those of cat often do not",
        )
    ab, stereo = A.then(B), spoken(1, 2)
    changes: dict[str, tuple[Bytes, Bytes, Truth]] = {
        "rate-vorbis": (vorbis(A, 8000), vorbis(B, 16000), ab),
        "rate-opus": (opus(A, 8000), opus(B, 48000), ab),
        "rate-flac": (flac(A, 8000), flac(B, 16000), ab),
        "stereo-opus": (opus(A, 16000), opus(stereo, 16000), A.then(stereo)),
        "stereo-vorbis": (vorbis(A, 16000), vorbis(stereo, 16000), A.then(stereo)),
        "codec": (opus(A, 48000), vorbis(B, 48000), ab),
        "codec-flac": (vorbis(A, 16000), flac(B, 16000), ab),
    }
    for name, (first, second, truth) in changes.items():
        pair = joined(edited(first, one), edited(second, two))
        expected = WHOLE if name == "rate-opus" else NO_SILENCE
        unlike = "a link of another codec was recorded all the same" if "codec" in name else ""
        yield _case(f"chained-change-{name}.ogg", pair, truth, expected, unlike_ffmpeg=unlike)


def _side_by_side() -> Iterator[Case]:
    both = A.beside(B)
    maps = ("-map", "0", "-map", "1")
    for codec in ("libopus", "libvorbis", "flac", "libspeex"):
        truth = both.delayed(_SPEEX_MS, _SPEEX_MS) if codec == "libspeex" else both
        recipe = ffmpeg((A, B), 16000, *maps, "-c:a", codec, "-f", "ogg", to=".ogg")
        yield _case(
            f"two-streams-{codec.removeprefix('lib')}.ogg",
            recipe,
            truth,
            NO_SILENCE,
            unlike_ffmpeg="two streams are two speakers, or one is named as not read",
        )
    mixed = ffmpeg((A, B), 48000, *maps, "-c:a:0", "libopus", "-c:a:1", "libvorbis", to=".ogg")
    yield _case(
        "two-streams-opus-vorbis.ogg",
        mixed,
        both,
        NO_SILENCE,
        unlike_ffmpeg="two streams are two speakers, or one is named as not read",
    )
    speakers = ffmpeg((A, B), 16000, *maps, "-c:a", "libopus", "-f", "ogg", to=".ogg")
    yield _case(
        "two-streams-speakers.ogg",
        speakers,
        both,
        plan=SPEAKERS,
        unlike_ffmpeg="two streams are two speakers",
    )
    picture = ("-f", "lavfi", "-i", "testsrc=d=12:s=64x64:r=5")
    video = ffmpeg(A, 16000, "-c:v", "libtheora", "-c:a", "libvorbis", to=".ogv", before=picture)
    yield _case("beside-theora.ogv", video, A)
    yield _case("beside-skeleton.ogg", edited(vorbis(A, 16000), paged(_skeleton)), A)
    yield _case("beside-skeleton.opus", edited(opus(A, 16000), paged(_skeleton)), A)


def _clocks(name: str, recipe: Bytes, clock_hz: int, skip: int) -> Iterator[Case]:
    late = _SPEEX_MS if name == "speex" else 0
    yield _case(
        f"gap-{name}.ogg",
        _gap(recipe, clock_hz, skip, late),
        A,
        unlike_ffmpeg="where the clock jumps and no page is lost, nobody spoke",
    )
    truth = A.delayed(late, late)
    yield _case(f"from-100-s-{name}.ogg", edited(recipe, _from_100_s(clock_hz)), truth)


def _ends(name: str, recipe: Bytes, truth: Truth) -> Iterator[Case]:
    padded = truth.delayed(0, 100)
    yield _case(f"no-end-{name}.ogg", edited(recipe, paged(_endless)), truth)
    yield _case(f"last-clock-0-{name}.ogg", edited(recipe, _ends_at(0)), padded, NO_SILENCE)
    yield _case(f"last-clock-none-{name}.ogg", edited(recipe, _ends_at(-1)), padded, NO_SILENCE)
    yield _case(f"cut-page-{name}.ogg", edited(recipe, _cut_amid), A.at_least(5000), BROKEN)
    yield _case(
        f"take-cut-{name}.ogg",
        edited(recipe, _cut_amid),
        truth.at_least(5000),
        flag="truncated",
        plan=TAKE,
    )


def _damage(name: str, recipe: Bytes, clock_hz: int, skip: int) -> Iterator[Case]:
    lost = edited(recipe, paged(_lost))
    yield _case(f"lost-pages-{name}.ogg", lost, A, NO_TRUST)
    yield _case(
        f"no-checksums-{name}.ogg",
        edited(recipe, _without_checksums),
        A.delayed(60, 60),
        unlike_ffmpeg="whoever computes no checksums recorded all the same",
    )
    truth = A.delayed(60, 60)
    yield _case(f"wrong-checksum-{name}.ogg", edited(recipe, _wrong_checksum), truth, ANY)
    yield _case(
        f"damaged-page-{name}.ogg",
        edited(recipe, _damaged),
        truth,
        ANY,
        why="its checksum shows that a page is damaged; most of what is in it can be heard",
    )
    yield _case(
        f"cut-between-{name}.ogg",
        _between(recipe, clock_hz, skip),
        A,
        ANY,
        why="no mark of its end, which many recorders leave out",
    )


def _oddities() -> Iterator[Case]:
    recipe = _short_pages("libopus", 16000)
    unnumbered = paged(lambda found: [replace(page, number=0) for page in found])
    yield _case(
        "no-numbers-opus.ogg",
        edited(recipe, unnumbered),
        A,
        ANY,
        why="numbers that never count cannot tell that pages are missing",
    )
    yield _case("zeros-behind-opus.ogg", joined(recipe, bytes(5000)), A)
    yield _case("text-behind-opus.ogg", joined(recipe, b"end of call\r\n" * 20), A)
    yield _case("zeros-behind-vorbis.ogg", joined(_short_pages("libvorbis", 16000), bytes(5000)), A)

    def junk(data: bytes) -> bytes:
        start = list(pages(data))[20][0]
        return data[:start] + bytes(700) + data[start:]

    yield _case("junk-between-opus.ogg", edited(recipe, junk), A, NO_SILENCE)
    yield _case(
        "junk-between-vorbis.ogg", edited(_short_pages("libvorbis", 16000), junk), A, NO_SILENCE
    )
    yield _case(
        "headers-only.ogg",
        edited(recipe, paged(lambda found: found[:2])),
        A,
        BROKEN,
        codes=("audio.empty", "audio.truncated", "audio.bad-header"),
    )
    yield _case("called-wav.wav", recipe, A)

    def twice(found: list[Page]) -> list[Page]:
        return [*found[:20], found[19], *found[20:]]

    yield _case(
        "page-twice-opus.ogg",
        edited(recipe, paged(twice)),
        A,
        ANY,
        why="its number shows that it is there twice",
    )
