"""Profiles: what changes words changes the decode key, and nothing else does."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from schema.errors import BadRequest
from schema.models import RECOGNIZERS
from schema.profile import PRECISIONS, PROFILES, TIERS, Engine, Profile, load_profile

DIGEST = "ab" * 32


def key(**changes) -> str:
    return load_profile("call", changes).decode_key("digest", 8_000)


def test_the_dress_and_the_cut_leave_the_key_alone():
    assert key() == key(render={"itn": True, "speakers": ("a", "b")})
    assert key() == key(plan={"segment_s": 120})


@pytest.mark.parametrize(
    "decode",
    [{"language": "en"}, {"scene": "noisy"}, {"model": "whisper-tiny.en"}, {"hotwords": ("Acme",)}],
)
def test_whatever_changes_words_changes_the_key(decode):
    assert key() != key(decode=decode)


def test_samples_and_their_rate_change_the_key():
    profile = PROFILES["call"]
    keys = {profile.decode_key(d, hz) for d in ("a", "b") for hz in (8_000, 16_000)}
    assert len(keys) == 4


@pytest.mark.parametrize("name", ["x" * 300, "/proc/self/mem", "\0"])
def test_a_profile_that_cannot_be_read_is_named(name: str):
    with pytest.raises(BadRequest, match="profile"):
        load_profile(name)


def test_a_profile_that_is_nested_too_deeply_is_named(tmp_path: Path):
    path = tmp_path / "deep.toml"
    path.write_text(f"x = {'[' * 20_000}")
    with pytest.raises(BadRequest, match="profile"):
        load_profile(str(path))


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_a_toml_file_is_a_profile(tmp_path: Path, mark: str, line_end: str):
    path = tmp_path / "mine.toml"
    lines = ['name = "mine"', "[decode]", 'scene = "noisy"', "[plan]", "segment_s = 120", ""]
    path.write_bytes(f"{mark}{line_end.join(lines)}".encode())

    profile = load_profile(str(path), {"decode": {"language": "zh"}})

    assert (profile.name, profile.decode.scene, profile.plan.segment_s) == ("mine", "noisy", 120)
    assert profile.decode.language == "zh"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"decode": {"language": "english"}}, "decode.language"),
        ({"plan": {"segment_s": 20}}, "3 overlaps"),
        ({"plan": {"wings": 2}}, "plan.wings"),
        ({"decode": {"model": "unheard-of"}}, "unheard-of"),
        ({"render": {"speakers": ["agent", " "]}}, "blank"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(changes, said: str):
    with pytest.raises(BadRequest, match=said):
        load_profile("call", changes)


@pytest.mark.parametrize("engine", TIERS)
@pytest.mark.parametrize("tier", ["fast", "balanced", "accurate"])
def test_a_tier_chooses_the_engines_model(engine: str, tier: str):
    profile = load_profile(
        "noisy", {"decode": {"engine": engine}}, tier=tier, find=lambda name: {f"{name}.pt": DIGEST}
    )
    assert profile.decode.model == TIERS[engine][tier]["model"]
    assert (profile.decode.engine, profile.decode.scene) == (engine, "noisy")
    assert profile.decode.precision in PRECISIONS[engine]


def test_what_is_said_goes_before_the_tier():
    profile = load_profile("call", {"decode": {"model": "whisper-tiny.en"}}, tier="fast")
    assert (profile.decode.model, profile.decode.windows) == ("whisper-tiny.en", "trimmed")


def test_a_tier_goes_before_the_profiles_own_model(tmp_path: Path):
    path = tmp_path / "mine.toml"
    path.write_text(f'[decode]\nmodel = "own"\n[decode.files]\n"model.bin" = "{DIGEST}"\n')
    profile = load_profile(str(path), tier="balanced")
    assert profile.decode == load_profile("call").decode


def test_an_unknown_tier_lists_the_known_ones():
    with pytest.raises(BadRequest, match="fast, balanced, accurate"):
        load_profile("call", tier="best")


def test_a_model_that_is_found_has_its_files():
    found = {"model.bin": DIGEST}
    profile = load_profile(
        "call",
        {"decode": {"model": "own", "fallback": {"model": "smaller"}}},
        find=lambda name: found if name in ("own", "smaller") else {},
    )
    assert profile.model_files.files == found
    assert profile.fallback_profile is not None
    assert profile.fallback_profile.model_files.files == found


def test_a_model_that_is_known_is_not_looked_for():
    def find(name: str) -> dict[str, str]:
        raise AssertionError(name)

    assert load_profile("call", find=find) == load_profile("call")


def test_a_fallback_that_is_not_known_is_refused():
    with pytest.raises(BadRequest, match="unheard-of"):
        load_profile("call", {"decode": {"fallback": {"model": "unheard-of"}}})


def test_a_fallback_leaves_the_key_alone_and_its_words_have_that_of_its_model():
    fallback = {"model": "whisper-tiny.en"}
    profile = load_profile("call", {"decode": {"fallback": fallback}})
    assert profile.decode_key("digest", 8_000) == key()
    assert profile.fallback_profile is not None
    assert profile.fallback_profile.decode_key("digest", 8_000) == key(decode=fallback)
    assert load_profile("call").fallback_profile is None


def test_what_a_profile_does_not_set_an_older_worker_does_not_hear_of():
    said = load_profile("call").model_dump(mode="json", exclude_none=True)
    assert "fallback" not in said["decode"]
    assert said["render"] == {"itn": False, "speakers": []}
    assert Profile.model_validate(said) == load_profile("call")


def test_how_speakers_are_told_changes_no_word_s_key():
    told = load_profile("call", {"render": {"diarize": "auto", "first": "agent"}})

    # The key of the release before voices were told, at decode version 5.
    before = "a2142ffe3fa2f98491a7d0ba99b7102abfc8df25db48c9b6f29927c0e5c0a14c"
    assert key() == told.decode_key("digest", 8_000) == before


@pytest.mark.parametrize("value", ["three", 0, 7, "2", True])
def test_speakers_are_told_by_auto_off_or_a_number_to_six(value: object):
    with pytest.raises(BadRequest, match=r"render\.diarize: neither auto, off nor a number"):
        load_profile("call", {"render": {"diarize": value}})


@pytest.mark.parametrize(
    ("value", "tells", "count"),
    [(None, False, None), ("off", False, None), (1, False, 1), ("auto", True, None), (3, True, 3)],
)
def test_voices_are_told_where_more_than_one_is_asked_for(value, tells: bool, count: int | None):
    render = load_profile("call", {"render": {"diarize": value}}).render

    assert (render.tells_voices, render.speaker_count) == (tells, count)


@pytest.mark.parametrize("model", ["whisper-base", "unheard-of"])
def test_a_model_that_tells_no_voices_is_refused(model: str):
    with pytest.raises(BadRequest, match=model):
        load_profile("call", {"render": {"voices": {"model": model}}})


@pytest.mark.parametrize(
    "decode", [{"model": "fsmn-vad"}, {"engine": "funasr", "model": "whisper-base"}]
)
def test_a_known_model_that_writes_no_words_is_refused_before_any_worker_loads_it(decode):
    with pytest.raises(BadRequest, match="does not write words"):
        load_profile("call", {"decode": decode})


def test_an_unknown_profile_lists_the_known_ones():
    with pytest.raises(BadRequest, match="call, meeting"):
        load_profile("no-such-profile")


def test_speakers_without_a_name_are_numbered():
    render = load_profile("call", {"render": {"speakers": ("agent",)}}).render
    assert [render.speaker(c) for c in (0, 1, None)] == ["agent", "speaker 2", "agent"]


@pytest.mark.parametrize(
    ("part", "settings", "cause"),
    [
        ("render", {"speakers": ("agent", "cus\0tomer")}, "NUL"),
        ("render", {"speakers": ("a\udcff",)}, "not UTF-8"),
        ("render", {"speakers": ("x" * 501,)}, "501 characters"),
        ("decode", {"hotwords": ("word",) * 1_001}, "1,001"),
    ],
)
def test_what_the_ledger_cannot_hold_is_no_setting(part, settings, cause):
    with pytest.raises(BadRequest, match=cause):
        load_profile("call", {part: settings})


@pytest.mark.parametrize("engine", get_args(Engine))
def test_every_engine_has_precisions_and_models(engine: str):
    assert PRECISIONS[engine]
    assert engine in RECOGNIZERS
    assert set(TIERS[engine]) == {"fast", "balanced", "accurate"}
