"""Files made to mislead: each is refused, or silent, at a bounded price in time and memory."""

import io
import os
import struct
from functools import partial

import numpy as np
import soundfile
from pydantic import SecretStr

from ops.chaos.ogg import pages, with_checksums
from producer.intake import reader_pool
from producer.intake.examine import Job, examine
from schema.errors import ErrorCode
from schema.profile import load_profile
from schema.records import NewRecording
from schema.settings import Limits, Settings
from tests.unit.producer import sounds

RATE_HZ = 8_000
TEN_HOURS = 36_000 * RATE_HZ
#: What a reader may hold at most; an interpreter with its libraries alone has 80 MB.
MOST_BYTES = 300 * 10**6
#: What lasts longer must not be decoded to its end; the tests have no time for 12 hours.
LIMITS = Limits(duration_s=1_200)


def encoded(container, encoding=None, samples=None):
    file = io.BytesIO()
    samples = sounds.voice(1) if samples is None else samples
    soundfile.write(file, samples, RATE_HZ, format=container, subtype=encoding)
    return file.getvalue()


def patched(data, mark, offset, layout, value):
    """Put a number in, so far behind the first ``mark``."""
    changed = bytearray(data)
    struct.pack_into(layout, changed, data.index(mark) + offset, value)
    return bytes(changed)


def flac_counting(frames, data):
    """Say in a FLAC's STREAMINFO that it has so many frames; leave out what they hash to."""
    changed = bytearray(data)
    rest_of_fields = int.from_bytes(data[18:26], "big") >> 36 << 36
    changed[18:26] = (rest_of_fields | frames).to_bytes(8, "big")
    changed[26:42] = bytes(16)
    return bytes(changed)


def flac_of_zeros(hours):
    """Zeros, which take 2 MB a day."""
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", RATE_HZ, 1, "PCM_16", format="FLAC") as flac:
        for _ in range(hours * 6):
            flac.write(np.zeros(600 * RATE_HZ, np.int16))
    return file.getvalue()


def ogg_lasting(frames, data):
    """Say on an Ogg's last page that so many frames end there."""
    *_, (last, _) = pages(data)
    changed = bytearray(data)
    struct.pack_into("<Q", changed, last + 6, frames)
    return with_checksums(bytes(changed))


def with_a_gap(path, gap_s):
    """Two seconds whose time stamps jump halfway."""
    codec, rate = ("libopus", 48_000) if path.suffix == ".webm" else ("aac", 16_000)

    def start(at):
        return at if at < rate else at + gap_s * rate

    return sounds.encode(path, codec, sounds.voice(2, rate), rate, start=start).read_bytes()


def ten_hours(tmp_path):
    """Files of a second that claim to last ten hours, by name."""
    m4a = sounds.encode(tmp_path / "a.m4a", "aac", sounds.voice(1, 16_000), 16_000).read_bytes()
    return {
        "a.wav": sounds.wav_bytes(bytes(20_000), data_size=2 * TEN_HOURS),
        "b.wav": patched(encoded("WAV", "GSM610"), b"fact", 8, "<I", TEN_HOURS),
        "a.rf64": patched(encoded("RF64"), b"ds64", 16, "<Q", 2 * TEN_HOURS),
        "a.w64": patched(encoded("W64"), b"data", 16, "<Q", 2 * TEN_HOURS),
        "a.aiff": patched(encoded("AIFF"), b"SSND", 4, ">I", 2 * TEN_HOURS),
        "b.aiff": patched(encoded("AIFF"), b"COMM", 10, ">I", TEN_HOURS),
        "a.au": patched(encoded("AU"), b".snd", 8, ">I", 2 * TEN_HOURS),
        "a.caf": patched(encoded("CAF"), b"data", 4, ">Q", 2 * TEN_HOURS),
        "b.caf": patched(encoded("CAF", "ALAC_16"), b"pakt", 20, ">Q", TEN_HOURS),
        "a.flac": flac_counting(TEN_HOURS, encoded("FLAC")),
        "a.ogg": ogg_lasting(TEN_HOURS, encoded("OGG", "VORBIS")),
        "a.opus": ogg_lasting(6 * TEN_HOURS, encoded("OGG", "OPUS")),
        "a.mp3": patched(encoded("MP3"), b"Xing", 8, ">I", 36_000 * RATE_HZ // 576),
        "a.m4a": patched(m4a, b"mvhd", 20, ">I", 36_000 * 1000),
        "b.m4a": patched(m4a, b"stts", 8, ">I", 0x7FFFFFFF),
        "c.m4a": with_a_gap(tmp_path / "c.m4a", 36_000),
        "a.webm": with_a_gap(tmp_path / "a.webm", 36_000),
    }


def absurd():
    """Files whose headers no recorder writes, by name, with the code they are refused by."""
    sound = sounds.pcm16(sounds.voice(1))
    rate, channels = ErrorCode.AUDIO_BAD_RATE, ErrorCode.AUDIO_NO_CHANNELS
    return {
        "rate.wav": (sounds.wav_bytes(sound, rate=1_000_000), rate),
        "rate.au": (patched(encoded("AU"), b".snd", 16, ">I", 1_000_000), rate),
        "rate.caf": (patched(encoded("CAF"), b"desc", 12, ">d", 1e6), rate),
        "rate.w64": (patched(encoded("W64"), b"fmt ", 28, "<I", 1_000_000), rate),
        "channels.wav": (sounds.wav_bytes(sound, channels=0), channels),
        "channels.w64": (patched(encoded("W64"), b"fmt ", 26, "<H", 0), channels),
        "channels.au": (patched(encoded("AU"), b".snd", 20, ">I", 0), ErrorCode.AUDIO_BAD_HEADER),
        "channels.aiff": (
            patched(encoded("AIFF"), b"COMM", 8, ">H", 0),
            ErrorCode.AUDIO_BAD_HEADER,
        ),
    }


def bombs(tmp_path):
    """Small files that last long, by name: three hours of zeros, and a gap of 25 minutes."""
    zeros = flac_of_zeros(3)
    return {
        "true.flac": zeros,
        "unknown.flac": flac_counting(0, zeros),
        "gap.webm": with_a_gap(tmp_path / "gap.webm", 1_500),
    }


def examine_and_weigh(job, settings):
    """Examine a file in a child; return the result, and the most memory the child ever held."""
    result = examine(job, settings, load_profile("call"))
    with open("/proc/self/status") as status:
        (peak,) = (line.split()[1] for line in status if line.startswith("VmHWM"))
    return result, int(peak) * 1024


def examined(directory, files, limits):
    """Return what became of each file; none may kill its reader, or take more than its share."""
    for name in ("calls", "spool"):
        (directory / name).mkdir()
    settings = Settings(
        database_url=SecretStr("postgresql://"),
        redis_url=SecretStr("redis://"),
        roots={"calls": directory / "calls"},
        spool=directory / "spool",
        spool_reserve_bytes=0,
        limits=limits,
    )
    for name, data in files.items():
        (directory / "calls" / name).write_bytes(data)
    jobs = [Job(os.fsencode(directory / "calls" / name)) for name in files]
    work = partial(examine_and_weigh, settings=settings)
    outcomes = list(reader_pool.run_jobs(work, jobs, lambda _: 60.0, max_children=1))
    assert not [outcome for outcome in outcomes if isinstance(outcome, reader_pool.ReaderDied)]
    assert max(peak for _, peak in outcomes) < MOST_BYTES
    return {os.fsdecode(result.source.path): result for result, _ in outcomes}


def test_a_second_that_claims_ten_hours_is_refused_or_lasts_a_second(tmp_path):
    results = examined(tmp_path, ten_hours(tmp_path), Limits())

    for name, result in results.items():
        if isinstance(result, NewRecording):
            assert result.duration_ms < 1_300, name
        else:
            assert result.code in {ErrorCode.AUDIO_TRUNCATED, ErrorCode.AUDIO_BAD_HEADER}, name


def test_absurd_headers_are_refused_in_any_format(tmp_path):
    cases = absurd()

    results = examined(tmp_path, {name: data for name, (data, _) in cases.items()}, Limits())

    expected = {name: code for name, (_, code) in cases.items()}
    assert {name: result.code for name, result in results.items()} == expected


def test_what_lasts_too_long_is_not_decoded_to_its_end(tmp_path):
    results = examined(tmp_path, bombs(tmp_path), LIMITS)

    codes = {name: result.code for name, result in results.items()}
    assert codes == dict.fromkeys(results, ErrorCode.AUDIO_TOO_LONG)
    assert not list((tmp_path / "spool").rglob("*.*")), "nothing of it is left in the spool"


def test_zeros_that_last_as_long_as_is_allowed_are_silent(tmp_path):
    zeros = encoded("FLAC", samples=np.zeros(LIMITS.duration_s * RATE_HZ, np.int16))

    (result,) = examined(tmp_path, {"zeros.flac": zeros}, LIMITS).values()

    assert (result.duration_ms, result.segments) == (LIMITS.duration_s * 1000, ())
    assert result.flags == ("silent-channel:0",)
