"""Cases that are what they say, and verdicts on what became of them."""

import re
import struct
from itertools import pairwise

import pytest

from ops.chaos import recorded_mpeg, recorded_ogg
from ops.chaos.ogg import with_checksums
from ops.chaos.recorded_rest import _counted
from ops.chaos.recorded_wav import chunk, fmt, wav
from ops.chaos.recorders import (
    ANY,
    BROKEN,
    FLAG,
    NO_SILENCE,
    NO_TRUST,
    TAKE,
    WHOLE,
    Case,
    MissingToolError,
    Shop,
    edited,
    joined,
    kept,
    patched,
    pcm16,
    replaced,
    sndfile,
)
from ops.chaos.recordings import cases, label, run
from ops.chaos.tones import Finding, spoken
from ops.chaos.verdicts import Verdict, verdict_of
from schema.errors import BadRequest, ErrorCode
from schema.records import AudioFormat, CallInfo, Location, NewRecording, QuarantinedRecording

A = spoken(0)
RIGHT, LOST = Finding(()), Finding(("second at 3.00 s missing",))


def case(expected=WHOLE, **more):
    return Case("wav", "call.wav", lambda _: b"", A, expected, **more)


def taken(*flags):
    audio = Location("calls", b"call.wav")
    form = AudioFormat("WAV", "PCM_16", 8000, 1, 96_000)
    return NewRecording(audio, audio, form, 12_000, 1, "", CallInfo(), flags, ())


def refused(code=ErrorCode.AUDIO_TRUNCATED, message="it is cut. Say --raw .alaw=alaw:8000:2"):
    return QuarantinedRecording(Location("calls", b"call.wav"), code, message, CallInfo())


def test_there_are_hundreds_of_cases_and_no_two_have_one_name():
    found = cases()
    assert len(found) >= 300
    assert len({label(each) for each in found}) == len(found)


def test_names_are_plain_and_each_case_may_become_something():
    for each in cases():
        assert re.fullmatch(r"[a-zA-Z0-9_.-]+", each.name), each.name
        assert each.expected, each.name
        assert not each.flag or each.plan, each.name


@pytest.mark.parametrize(
    ("expected", "outcome", "finding", "verdict"),
    [
        (WHOLE, taken(), RIGHT, (Verdict.RIGHT, True)),
        (WHOLE, taken("dual-mono"), RIGHT, (Verdict.RIGHT, True)),
        (WHOLE, taken(), LOST, (Verdict.SILENT_LOSS, False)),
        (WHOLE, taken("dual-mono"), LOST, (Verdict.SILENT_LOSS, False)),
        (WHOLE, taken("unread-data:9"), LOST, (Verdict.FLAGGED, False)),
        (WHOLE, refused(), RIGHT, (Verdict.GOOD_REFUSED, False)),
        (NO_SILENCE, taken("unread-data:9"), LOST, (Verdict.FLAGGED, True)),
        (NO_SILENCE, taken(), RIGHT, (Verdict.RIGHT, True)),
        (NO_SILENCE, refused(), LOST, (Verdict.GOOD_REFUSED, False)),
        (FLAG, taken("other-tracks:1"), LOST, (Verdict.FLAGGED, True)),
        (FLAG, taken(), RIGHT, (Verdict.RIGHT, True)),
        (BROKEN, refused(), RIGHT, (Verdict.REFUSED, True)),
        (BROKEN, refused(ErrorCode.AUDIO_READER_DIED), RIGHT, (Verdict.REFUSED, False)),
        (BROKEN, taken(), RIGHT, (Verdict.BROKEN_TAKEN, False)),
        (BROKEN, taken(), LOST, (Verdict.BROKEN_TAKEN, False)),
        (BROKEN, taken("truncated:7000"), RIGHT, (Verdict.FLAGGED, False)),
        (NO_TRUST, taken(), RIGHT, (Verdict.BROKEN_TAKEN, False)),
        (NO_TRUST, taken(), LOST, (Verdict.SILENT_LOSS, False)),
        (NO_TRUST, taken("truncated:7000"), RIGHT, (Verdict.FLAGGED, True)),
        (ANY, taken(), RIGHT, (Verdict.RIGHT, True)),
        (ANY, refused(), LOST, (Verdict.REFUSED, True)),
        (WHOLE, None, LOST, (Verdict.FAILED, False)),
        (WHOLE, BadRequest(ErrorCode.OPTION_INVALID, "", "", ""), LOST, (Verdict.FAILED, False)),
    ],
)
def test_a_verdict_is_what_became_of_a_file_held_against_what_may(
    expected, outcome, finding, verdict
):
    assert verdict_of(case(expected), A, outcome, finding) == verdict


def test_a_track_that_is_not_read_excuses_no_loss_in_another():
    both = Finding(("1 channels, not 2",))
    flags = taken("other-tracks:1")
    assert verdict_of(case(FLAG), A, flags, both) == (Verdict.FLAGGED, True)
    less = Finding(both.problems, of_the_heard=LOST.problems)
    assert verdict_of(case(FLAG), A, flags, less) == (Verdict.SILENT_LOSS, False)


def test_a_refusal_must_say_what_to_do():
    good = case(BROKEN, message="--raw .alaw=alaw:8000:2")
    assert verdict_of(good, A, refused(), RIGHT) == (Verdict.REFUSED, True)
    other = case(BROKEN, message="--raw .ulaw=")
    assert verdict_of(other, A, refused(), RIGHT) == (Verdict.REFUSED, False)


@pytest.mark.parametrize(
    ("flags", "finding", "verdict"),
    [
        (("truncated:12000",), RIGHT, (Verdict.RIGHT, True)),
        (("truncated:3000",), RIGHT, (Verdict.RIGHT, False)),
        (("truncated",), RIGHT, (Verdict.RIGHT, False)),
        ((), RIGHT, (Verdict.BROKEN_TAKEN, False)),
        (("unread-data:9",), RIGHT, (Verdict.BROKEN_TAKEN, False)),
        (("truncated:12000",), LOST, (Verdict.SILENT_LOSS, False)),
    ],
)
def test_what_is_left_of_a_file_must_all_be_there_and_be_flagged(flags, finding, verdict):
    asked = case(flag="truncated", plan=TAKE)
    assert verdict_of(asked, A, taken(*flags), finding) == verdict


def test_recipes_are_put_together(tmp_path):
    recipe = edited(joined(b"abcdef", lambda _: b"ghij"), kept(0.5), patched(-1, b"!"))
    assert recipe(Shop(tmp_path)) == b"abcd!"
    assert edited(recipe, replaced(b"bc", b"??"))(Shop(tmp_path)) == b"a??d!"


def test_a_tool_that_is_missing_is_named(tmp_path):
    with pytest.raises(MissingToolError, match="no-such-encoder"):
        Shop(tmp_path).run("no-such-encoder")


def test_ogg_pages_are_taken_apart_and_put_together_as_they_were(tmp_path):
    data = with_checksums(sndfile(A, 8000, "OGG", "VORBIS")(Shop(tmp_path)))
    found = recorded_ogg.taken_apart(data)
    assert recorded_ogg.put_together(found) == data
    assert found[-1].clock == 96_000


def test_mpeg_frames_are_found_one_after_another(tmp_path):
    data = sndfile(A, 16000, "MP3", "MPEG_LAYER_III")(Shop(tmp_path))
    found = recorded_mpeg.frames(data)
    assert all(left[1] == right[0] for left, right in pairwise(found))
    assert len(found) >= 12 * 16000 // 576
    assert recorded_mpeg.frames(recorded_mpeg.tag(300) + data)[0][0] == 10 + 10 + 301


def test_a_wav_is_what_its_header_says():
    data = pcm16(A, 8000)
    file = wav(data, before=chunk(b"LIST", b"odd"), size=7)
    assert file[:4] == b"RIFF"
    assert struct.unpack_from("<I", file, 4)[0] == len(file) - 8
    assert file.index(b"data") == 12 + len(fmt()) + 12
    assert struct.unpack_from("<I", file, file.index(b"data") + 4)[0] == 7


def test_a_flac_states_another_length_and_nothing_else(tmp_path):
    data = sndfile(A, 8000, "FLAC", "PCM_16")(Shop(tmp_path))
    half = _counted(lambda count: count // 2)(data)
    assert (half[:18], half[26:]) == (data[:18], data[26:])
    low = 2**36 - 1
    stated = [struct.unpack_from(">Q", each, 18)[0] & low for each in (data, half)]
    assert stated == [96_000, 48_000]


def test_files_go_through_the_door_and_are_listened_to(tmp_path):
    good = wav(pcm16(A, 8000))
    chosen = [
        Case("wav", "good.wav", lambda _: good, A),
        Case("wav", "cut.wav", lambda _: good[:100_000], A, BROKEN),
        Case("wav", "other.wav", lambda _: good, spoken(1)),
        Case("wav", "missing.wav", lambda shop: shop.run("no-such-encoder"), A),
        Case("wav", "unknown.wav", lambda _: good, A, plan={"no_such_setting": 1}),
    ]
    results, missing = run(chosen, tmp_path, jobs=1)
    assert missing == {"wav/missing.wav": "no-such-encoder"}
    verdicts = {each.file.case.name: each.verdict for each in results}
    assert verdicts == {
        "good.wav": Verdict.RIGHT,
        "cut.wav": Verdict.REFUSED,
        "other.wav": Verdict.SILENT_LOSS,
        "unknown.wav": Verdict.FAILED,
    }
    assert not results[0].ffmpeg.finding.problems
