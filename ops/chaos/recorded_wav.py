"""WAV and its kin: sizes that nobody filled in, chunks around the audio, files end to end."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any

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
    edited,
    ffmpeg,
    headless,
    joined,
    kept,
    lame,
    patched,
    pcm16,
    replaced,
    sndfile,
)
from ops.chaos.tones import Truth, spoken

A, B, C = spoken(0), spoken(1), spoken(2)
AB = spoken(0, 1)
RATE = 8000

_PCM, _ALAW, _MULAW, _EXTENSIBLE = 1, 6, 7, 0xFFFE
#: All encoders of blocks fill their last one.
_BLOCK_MS = 130
_NO_READER = "FFmpeg has no reader for it"


def chunk(name: bytes, body: bytes, size: int | None = None, *, padded: bool = True) -> bytes:
    """Return a chunk, with its padding byte where its body is odd."""
    pad = b"\0" if padded and len(body) % 2 else b""
    return name + struct.pack("<I", len(body) if size is None else size) + body + pad


def fmt(
    tag: int = _PCM, channels: int = 1, rate_hz: int = RATE, bits: int = 16, **wrong: int
) -> bytes:
    """Return a format chunk; ``byte_rate`` and ``align`` may be wrong."""
    align = wrong.get("align", channels * bits // 8)
    byte_rate = wrong.get("byte_rate", rate_hz * channels * bits // 8)
    return chunk(b"fmt ", struct.pack("<HHIIHH", tag, channels, rate_hz, byte_rate, align, bits))


def wav(
    data: bytes,
    *,
    head: bytes | None = None,
    before: bytes = b"",
    behind: bytes = b"",
    size: int | None = None,
    riff: int | None = None,
    name: bytes = b"RIFF",
) -> bytes:
    """Return a WAV: ``size`` and ``riff`` are what its header says of its lengths."""
    body = b"WAVE" + (head or fmt()) + before + chunk(b"data", data, size) + behind
    return name + struct.pack("<I", len(body) if riff is None else riff) + body


def made(data: bytes) -> Bytes:
    """Return a recipe of bytes that are there already."""
    return lambda _: data


def _case(
    name: str, make: Recipe, truth: Truth, expected: frozenset[Expected] = WHOLE, **more: Any
) -> Case:
    return Case("wav", name, make, truth, expected, **more)


def waves() -> Iterator[Case]:
    """Yield all cases."""
    yield from _sizes()
    yield from _chunks()
    yield from _behind()
    yield from _long()
    yield from _encodings()
    yield from _packed()
    yield from _wrong()
    yield from _cut()
    yield from _kin()
    yield from _kin_sizes()


_BIG = (0, 0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000, 0x80000000, 0xFFFFFFFF - 36, 0x7FFFFFFF - 36)


def _sizes() -> Iterator[Case]:
    data = pcm16(A, RATE)
    for size in _BIG:
        yield _case(f"size-{size:08x}.wav", made(wav(data, size=size, riff=size)), A)
    mulaw = headless(A, RATE, "ULAW")
    for size in (0, 0xFFFFFFFF):
        yield _case(f"size-{size:08x}-mulaw.wav", _wav_of(mulaw, fmt(_MULAW, bits=8), size), A)
        head = fmt(channels=2)
        stereo = wav(pcm16(AB, RATE), head=head, size=size, riff=size)
        yield _case(f"size-{size:08x}-stereo.wav", made(stereo), AB)
    for riff in (0, 0xFFFFFFFF, 4, len(data), len(data) + 5000):
        yield _case(f"riff-{riff:08x}.wav", made(wav(data, riff=riff)), A)
    for extra in (44, 46, 58, 8):
        yield _case(
            f"size-and-{extra}.wav",
            made(wav(data, size=len(data) + extra)),
            A,
            why="a header counted among the samples is no loss",
        )
    yield _case("pipe-ffmpeg.wav", ffmpeg(A, RATE, "-f", "wav", to=".wav", piped=True), A)
    yield _case("pipe-sox.wav", _sox_pipe(A), A)
    odd = spoken(0, seconds=11.000125)
    bytes8 = headless(odd, RATE, "PCM_U8")
    head = fmt(bits=8)
    yield _case("odd-padded.wav", _wav_of(bytes8, head), odd)
    yield _case("odd-unpadded.wav", edited(_wav_of(bytes8, head), lambda d: d[:-1]), odd)
    listed = chunk(b"LIST", b"INFOISFT" + struct.pack("<I", 4) + b"rec\0")
    yield _case("odd-padded-list.wav", _wav_of(bytes8, head, behind=listed), odd)
    unpadded = edited(_wav_of(bytes8, head), lambda d: d[:-1] + listed)
    yield _case("odd-unpadded-list.wav", unpadded, odd)


def _sox_pipe(truth: Truth) -> Bytes:
    def make(shop: Shop) -> bytes:
        return shop.run("sox", shop.wave(truth, RATE), "-t", "wav", "-")

    return make


def _wav_of(recipe: Bytes, head: bytes, size: int | None = None, behind: bytes = b"") -> Bytes:
    return edited(recipe, lambda data: wav(data, head=head, size=size, riff=size, behind=behind))


def _chunks() -> Iterator[Case]:
    data = pcm16(A, RATE)
    chunks = {
        "list": chunk(b"LIST", b"INFOISFT" + struct.pack("<I", 6) + b"phone\0"),
        "bext": chunk(b"bext", b"a call".ljust(602, b"\0")),
        "id3": chunk(b"id3 ", b"ID3\4\0\0\0\0\0\x40" + bytes(64)),
        "cue": chunk(b"cue ", struct.pack("<IIIIIII", 1, 1, 400, 0x61746164, 0, 0, 400)),
        "junk": chunk(b"JUNK", bytes(28)),
        "fllr": chunk(b"FLLR", bytes(4044)),
        "xml": chunk(b"iXML", b"<BWFXML/>"),
        "many": chunk(b"note", b"hold") * 300,
        "data-like": chunk(b"LIST", b"INFOICMTdata\xff\xff\xff\xff data"),
    }
    for name, body in chunks.items():
        yield _case(f"before-{name}.wav", made(wav(data, before=body)), A)
        yield _case(f"behind-{name}.wav", made(wav(data, behind=body)), A)
    bare = chunk(b"LIST", b"INFOICMT" + struct.pack("<I", 5) + b"hello", padded=False)
    yield _case(
        "before-odd-list.wav",
        made(wav(data, before=bare)),
        A,
        ANY,
        codes=("audio.truncated", "audio.bad-header", "audio.empty", "audio.not-audio"),
        why="its padding byte is missing, so that no chunk is where it should be",
    )
    open_ended = wav(data, size=0, riff=0, behind=chunks["list"])
    yield _case("open-ended-list.wav", made(open_ended), A.delayed(0, 20))


def _behind() -> Iterator[Case]:
    data, more = pcm16(A, RATE), pcm16(B, RATE)
    both = A.then(B)
    second = chunk(b"data", more)
    unlike = "what lies behind the first recording was recorded all the same"
    for name, between in (("", b""), ("-list", chunk(b"LIST", b"INFO"))):
        recipe = made(wav(data, behind=between + second))
        yield _case(f"two-data{name}.wav", recipe, both, NO_SILENCE, unlike_ffmpeg=unlike)
    wave = wav(data)
    joins: dict[str, tuple[bytes, Truth]] = {
        "joined": (wave + wav(more), both),
        "joined-three": (wave + wav(more) + wav(pcm16(C, RATE)), both.then(C)),
        "joined-rate": (wave + wav(pcm16(B, 16000), head=fmt(rate_hz=16000)), both),
        "joined-stereo": (
            wave + wav(pcm16(spoken(1, 2), RATE), head=fmt(channels=2)),
            A.then(spoken(1, 2)),
        ),
        "joined-open-ended": (wav(data, size=0, riff=0) + wav(more, size=0, riff=0), both),
        "appended": (wave + more, both),
        "appended-riff-right": (
            wav(data + more, size=len(data), riff=36 + len(data) + len(more)),
            both,
        ),
        "size-half": (wav(data, size=len(data) // 2), A),
        "size-small": (wav(data, size=8000), A),
    }
    for name, (file, truth) in joins.items():
        # A header that is read as samples is no loss.
        heard = truth.delayed(10)
        yield _case(f"{name}.wav", made(file), heard, NO_SILENCE, unlike_ffmpeg=unlike)
    behind = {"text": b"end of call\r\n" * 25, "zeros": bytes(4096), "many-zeros": bytes(96_000)}
    for name, junk in behind.items():
        pad_ms = len(junk) / 16
        recipe = made(wave + junk)
        yield _case(f"tail-{name}.wav", recipe, A.delayed(0, pad_ms), NO_SILENCE)
    silent = headless(A, RATE, "ULAW")
    tail = edited(_wav_of(silent, fmt(_MULAW, bits=8)), lambda d: d + bytes(4096))
    yield _case("tail-zeros-mulaw.wav", tail, A.delayed(0, 600), NO_SILENCE)


def _long() -> Iterator[Case]:
    data = pcm16(A, RATE)

    def rf64(
        size: int, *, name: bytes = b"RF64", short: int = 0xFFFFFFFF, frames: int = 96_000
    ) -> Bytes:
        ds64 = chunk(b"ds64", struct.pack("<QQQI", len(data) + 72, size, frames, 0))
        body = b"WAVE" + ds64 + fmt() + chunk(b"data", data, short)
        return made(name + b"\xff\xff\xff\xff" + body)

    yield _case("rf64.wav", rf64(len(data)), A)
    yield _case("bw64.wav", rf64(len(data), name=b"BW64"), A)
    unlike = "a length that nobody filled in ends where the file does"
    yield _case("rf64-zero.wav", rf64(0, frames=0), A, unlike_ffmpeg=unlike)
    yield _case("rf64-open.wav", rf64(2**64 - 1, frames=0), A, unlike_ffmpeg=unlike)
    yield _case("rf64-short-size.wav", rf64(len(data), short=len(data)), A)
    yield _case("rf64-too-large.wav", rf64(2 * len(data), frames=192_000), A, BROKEN)
    yield _case(
        "rf64-small.wav",
        rf64(len(data) // 2, frames=48_000),
        A,
        NO_SILENCE,
        unlike_ffmpeg="what lies behind its stated length was recorded all the same",
    )
    yield _case("rf64-ffmpeg.wav", ffmpeg(A, RATE, "-rf64", "always", to=".wav"), A)
    yield _case("rf64-sndfile.rf64", sndfile(AB, RATE, "RF64", "PCM_16"), AB)


def _encodings() -> Iterator[Case]:
    blocks = {
        "IMA_ADPCM",
        "MS_ADPCM",
        "GSM610",
        "G721_32",
        "NMS_ADPCM_16",
        "NMS_ADPCM_24",
        "NMS_ADPCM_32",
    }
    for encoding in (
        "PCM_U8",
        "PCM_16",
        "PCM_24",
        "PCM_32",
        "FLOAT",
        "DOUBLE",
        "ULAW",
        "ALAW",
        *sorted(blocks),
    ):
        pad_ms = _BLOCK_MS if encoding in blocks else 0
        unlike = _NO_READER if encoding.startswith(("NMS", "G721")) else ""
        truth = A.delayed(30, pad_ms)
        recipe = sndfile(A, RATE, "WAV", encoding)
        yield _case(f"{encoding.lower()}.wav", recipe, truth, unlike_ffmpeg=unlike)
        if encoding not in blocks or encoding.endswith("A_ADPCM") or encoding == "MS_ADPCM":
            stereo = sndfile(AB, RATE, "WAV", encoding)
            yield _case(f"{encoding.lower()}-stereo.wav", stereo, AB.delayed(0, pad_ms))
    for rate in (6000, 11025, 16000, 22050, 44100, 48000, 96000):
        yield _case(f"pcm-{rate}.wav", sndfile(A, rate, "WAV", "PCM_16"), A)
    for encoding in ("PCM_16", "PCM_24", "FLOAT", "ULAW"):
        yield _case(f"extensible-{encoding.lower()}.wav", sndfile(AB, RATE, "WAVEX", encoding), AB)
    yield _case("rifx.wav", sndfile(A, RATE, "WAV", "PCM_16", "BIG"), A, unlike_ffmpeg=_NO_READER)
    yield _case(
        "rifx-stereo.wav", sndfile(AB, RATE, "WAV", "PCM_16", "BIG"), AB, unlike_ffmpeg=_NO_READER
    )
    yield _case(
        "rifx-mulaw.wav", sndfile(A, RATE, "WAV", "ULAW", "BIG"), A, unlike_ffmpeg=_NO_READER
    )


def _packed() -> Iterator[Case]:
    """Yield WAV around what no recorder of PCM writes."""
    late = A.delayed(300, 300)
    for name, rate, options in (
        ("g726", 8000, ("-c:a", "g726", "-b:a", "32k")),
        ("g722", 16000, ("-c:a", "g722")),
        ("ima", 8000, ("-c:a", "adpcm_ima_wav")),
        ("ms", 8000, ("-c:a", "adpcm_ms")),
        ("yamaha", 8000, ("-c:a", "adpcm_yamaha")),
        ("gsm-ms", 8000, ("-c:a", "libgsm_ms")),
        ("mp3", 44100, ("-c:a", "libmp3lame", "-b:a", "64k")),
        ("mp3-8000", 8000, ("-c:a", "libmp3lame", "-b:a", "16k")),
        ("mp2", 44100, ("-c:a", "mp2", "-b:a", "64k")),
        ("wma", 16000, ("-c:a", "wmav2", "-b:a", "32k")),
        ("ac3", 48000, ("-c:a", "ac3", "-b:a", "96k")),
    ):
        yield _case(f"holds-{name}.wav", ffmpeg(A, rate, *options, to=".wav"), late)
    layer3 = (0x55, 1, 8000, 3000, 1, 0, 12, 1, 2, 144, 1, 1393)
    head = chunk(b"fmt ", struct.pack("<HHIIHHHHIHHH", *layer3))
    tagless = lame(A, 8000, "--cbr", "-b", "24", "-t")
    yield _case("holds-mp3-by-hand.wav", edited(tagless, lambda d: wav(d, head=head)), late)
    open_ended = edited(tagless, lambda d: wav(d, head=head, size=0, riff=0))
    yield _case("holds-mp3-open-ended.wav", open_ended, late)
    tagged = lame(A, 8000, "--cbr", "-b", "24")
    yield _case("holds-mp3-tagged.wav", edited(tagged, lambda d: wav(d, head=head)), late)


def _wrong() -> Iterator[Case]:
    data = pcm16(A, RATE)
    heads = {
        "byte-rate-0": fmt(byte_rate=0),
        "byte-rate-double": fmt(byte_rate=32000),
        "align-1": fmt(align=1),
        "align-4": fmt(align=4),
        "extra-0": chunk(b"fmt ", struct.pack("<HHIIHHH", 1, 1, RATE, 16000, 2, 16, 0)),
        "fmt-40": chunk(b"fmt ", struct.pack("<HHIIHH", 1, 1, RATE, 16000, 2, 16) + bytes(24)),
        "fact-wrong": fmt() + chunk(b"fact", struct.pack("<I", 7)),
    }
    for name, head in heads.items():
        expected = NO_SILENCE if name.startswith("align") else WHOLE
        yield _case(f"{name}.wav", made(wav(data, head=head)), A, expected)
    mulaw = headless(A, RATE, "ULAW")
    for bits in (0, 16):
        head = fmt(_MULAW, bits=bits, align=1, byte_rate=8000)
        yield _case(f"mulaw-bits-{bits}.wav", _wav_of(mulaw, head), A)
    head = fmt(_ALAW, bits=8) + chunk(b"fact", struct.pack("<I", 0))
    yield _case("alaw-fact-0.wav", _wav_of(headless(A, RATE, "ALAW"), head), A)
    yield _case("called-mp3.mp3", made(wav(data)), A)
    yield _case("called-alaw.alaw", made(wav(data)), A)
    yield _case("called-raw.raw", made(wav(data)), A)


def _cut() -> Iterator[Case]:
    held = A.part(0, 7200)
    for encoding in ("PCM_16", "ULAW", "FLOAT", "IMA_ADPCM", "MS_ADPCM", "GSM610", "G721_32"):
        cut = edited(sndfile(A, RATE, "WAV", encoding), kept(0.6))
        yield _case(f"cut-{encoding.lower()}.wav", cut, held, BROKEN)
        truth = held.delayed(30, _BLOCK_MS)
        unlike = _NO_READER if encoding == "G721_32" else ""
        yield _case(
            f"take-{encoding.lower()}.wav",
            cut,
            truth,
            flag="truncated",
            plan=TAKE,
            unlike_ffmpeg=unlike,
        )
    stereo = edited(sndfile(AB, RATE, "WAV", "PCM_16"), kept(0.6), lambda d: d[:-1])
    yield _case("cut-stereo.wav", stereo, AB.part(0, 7200), BROKEN)
    yield _case("take-stereo.wav", stereo, AB.part(0, 7200), flag="truncated", plan=TAKE)
    mp3 = edited(ffmpeg(A, 44100, "-c:a", "libmp3lame", "-b:a", "64k", to=".wav"), kept(0.6))
    yield _case("cut-holds-mp3.wav", mp3, held, BROKEN)
    data = pcm16(A, RATE)
    codes = ("audio.truncated", "audio.empty", "audio.bad-header")
    yield _case("header-only.wav", made(wav(data)[:44]), A, BROKEN, codes=codes)
    yield _case("half-a-header.wav", made(wav(data)[:30]), A, BROKEN, codes=codes)
    yield _case("empty.wav", made(wav(b"")), A, BROKEN, codes=codes)
    cut = joined(wav(data), wav(pcm16(B, RATE))[:60_000])
    yield _case(
        "joined-and-cut.wav",
        cut,
        A.then(B).at_least(12_000),
        NO_TRUST,
        why="the second recording's header promises more than there is",
    )


def _kin() -> Iterator[Case]:
    kinds: Sequence[tuple[str, str, Sequence[str], str]] = (
        (".aiff", "AIFF", ("PCM_16", "PCM_24", "PCM_S8", "FLOAT"), ""),
        (".aifc", "AIFF", ("ULAW", "ALAW", "IMA_ADPCM", "GSM610"), ""),
        (".aifc", "AIFF", ("PCM_16",), "LITTLE"),
        (".au", "AU", ("PCM_16", "ULAW", "ALAW", "PCM_24", "FLOAT", "G721_32"), ""),
        (".au", "AU", ("PCM_16",), "LITTLE"),
        (".caf", "CAF", ("PCM_16", "ULAW", "ALAW", "FLOAT", "ALAC_16"), ""),
        (".w64", "W64", ("PCM_16", "ULAW", "IMA_ADPCM"), ""),
        (".voc", "VOC", ("PCM_U8", "ULAW", "ALAW", "PCM_16"), ""),
        (".nist", "NIST", ("PCM_16", "ULAW"), ""),
    )
    for suffix, container, encodings, endian in kinds:
        for encoding in encodings:
            pad_ms = _BLOCK_MS if "ADPCM" in encoding or encoding in {"GSM610", "G721_32"} else 0
            recipe = sndfile(A, RATE, container, encoding, endian)
            name = f"{encoding.lower()}{'-little' if endian else ''}{suffix}"
            unlike = _NO_READER if endian and container == "AU" else ""
            yield _case(name, recipe, A.delayed(30, pad_ms), unlike_ffmpeg=unlike)
    stereo = ((".aiff", "AIFF"), (".au", "AU"), (".caf", "CAF"), (".w64", "W64"))
    for suffix, container in stereo:
        yield _case(f"stereo{suffix}", sndfile(AB, RATE, container, "PCM_16"), AB)
        cut = edited(sndfile(A, RATE, container, "PCM_16"), lambda data: data[: -2 * 38_400])
        yield _case(f"cut{suffix}", cut, A.part(0, 7200), BROKEN)
        yield _case(f"take{suffix}", cut, A.part(0, 7200), flag="truncated", plan=TAKE)
    for suffix in (".aiff", ".au", ".caf", ".w64", ".voc"):
        recipe = ffmpeg(
            A,
            RATE,
            "-c:a",
            "pcm_u8" if suffix == ".voc" else "pcm_s16be" if suffix != ".w64" else "pcm_s16le",
            to=suffix,
        )
        yield _case(f"ffmpeg{suffix}", recipe, A)
    yield _case(
        "qt-ima.aifc",
        ffmpeg(A, RATE, "-c:a", "adpcm_ima_qt", "-f", "aiff", to=".aifc"),
        A.delayed(30, 30),
    )
    yield _case("opus.caf", ffmpeg(A, 48000, "-c:a", "libopus", to=".caf"), A.delayed(30, 60))


def _kin_sizes() -> Iterator[Case]:
    """Yield what a recorder leaves behind that cannot go back, in the kin's own words."""
    au, second = sndfile(A, RATE, "AU", "ULAW"), sndfile(B, RATE, "AU", "ULAW")
    both = A.then(B)
    yield _case("size-none.au", edited(au, patched(8, b"\xff" * 4)), A)
    yield _case("size-0.au", edited(au, patched(8, bytes(4))), A)
    yield _case(
        "size-half.au",
        edited(au, patched(8, struct.pack(">I", 48_000))),
        A,
        NO_SILENCE,
        unlike_ffmpeg="what lies behind its stated length was recorded all the same",
    )
    yield _case(
        "joined.au",
        joined(au, second),
        both,
        NO_SILENCE,
        unlike_ffmpeg="what lies behind the first recording was recorded all the same",
    )
    open_ended = edited(au, patched(8, b"\xff" * 4))
    yield _case("joined-open-ended.au", joined(open_ended, second), both.delayed(20), NO_SILENCE)
    yield _case("pipe-sox.au", _sox_to("au"), A)
    yield _case("pipe-sox.aiff", _sox_to("aiff"), A)
    caf = sndfile(A, RATE, "CAF", "PCM_16")

    def sized(size: int) -> Edit:
        return replaced(b"data" + struct.pack(">Q", 192_004), b"data" + struct.pack(">q", size))

    yield _case("size-none.caf", edited(caf, sized(-1)), A)
    yield _case(
        "size-half.caf",
        edited(caf, sized(96_004)),
        A,
        NO_SILENCE,
        unlike_ffmpeg="what lies behind its stated length was recorded all the same",
    )
    aiff = sndfile(A, RATE, "AIFF", "PCM_16")
    ssnd = b"SSND" + struct.pack(">I", 192_008)
    yield _case(
        "size-0.aiff",
        edited(aiff, replaced(ssnd, b"SSND" + bytes(4))),
        A,
        NO_SILENCE,
        unlike_ffmpeg="a length that nobody filled in ends where the file does",
    )
    joined_aiff = joined(aiff, sndfile(B, RATE, "AIFF", "PCM_16"))
    yield _case(
        "joined.aiff",
        joined_aiff,
        both.delayed(20),
        NO_SILENCE,
        unlike_ffmpeg="what lies behind the first recording was recorded all the same",
    )
    yield _case(
        "pipe.w64",
        ffmpeg(A, RATE, "-f", "w64", to=".w64", piped=True),
        A,
        unlike_ffmpeg="a length that nobody filled in ends where the file does",
    )
    voc = ffmpeg(A, RATE, "-c:a", "pcm_u8", to=".voc")
    yield _case("cut.voc", edited(voc, kept(0.6)), A.part(0, 7200), BROKEN)


def _sox_to(form: str) -> Bytes:
    def make(shop: Shop) -> bytes:
        return shop.run("sox", shop.wave(A, RATE), "-t", form, "-")

    return make
