"""What a profile may name as its model, and how a model of one's own is described."""

from __future__ import annotations

import hashlib
from functools import partial

import pytest

from producer.cli.models import NEEDS, digest_files, list_models, profile_section
from schema.errors import BadRequest
from schema.models import KNOWN_MODELS
from schema.profile import load_profile


def test_a_known_model_is_ready_only_if_every_byte_is_its_own(tmp_path, monkeypatch):
    assert {model.state for model in list_models(tmp_path)} == {"not there"}
    assert {model.name for model in list_models(tmp_path)} >= KNOWN_MODELS.keys()
    directory = tmp_path / "fsmn-vad"
    directory.mkdir()
    for name in KNOWN_MODELS["fsmn-vad"].files:
        (directory / name).write_bytes(b"else")
    [fsmn] = [model for model in list_models(tmp_path) if model.name == "fsmn-vad"]
    assert (fsmn.state, fsmn.size_bytes) == ("changed", 4 * len(KNOWN_MODELS["fsmn-vad"].files))
    digest = hashlib.sha256(b"else").hexdigest()
    for name in KNOWN_MODELS["fsmn-vad"].files:
        monkeypatch.setitem(KNOWN_MODELS["fsmn-vad"].files, name, digest)
    [fsmn] = [model for model in list_models(tmp_path) if model.name == "fsmn-vad"]
    assert fsmn.state == "ready"


def test_what_is_printed_of_a_model_is_a_profile_that_names_it(tmp_path):
    directory = tmp_path / "our-paraformer"
    directory.mkdir()
    (directory / "model.pt").write_bytes(b"weights")
    (directory / "config.yaml").write_bytes(b"config")
    (directory / ".hidden").write_bytes(b"no part of it")
    path = tmp_path / "ours.toml"
    path.write_text(profile_section(directory, "funasr"))
    profile = load_profile(str(path))
    assert (profile.decode.engine, profile.decode.precision) == ("funasr", "float32")
    assert profile.model_files.name == "our-paraformer"
    assert profile.model_files.files == {
        "config.yaml": hashlib.sha256(b"config").hexdigest(),
        "model.pt": hashlib.sha256(b"weights").hexdigest(),
    }


@pytest.mark.parametrize("part", ["punctuation", "voices"])
def test_a_model_that_decodes_nothing_is_named_where_words_are_dressed(tmp_path, part: str):
    directory = tmp_path / "our-own"
    directory.mkdir()
    (directory / "model.bin").write_bytes(b"weights")
    path = tmp_path / "ours.toml"
    path.write_text(profile_section(directory, part))

    named = getattr(load_profile(str(path)).render, part)

    assert named.model_files.name == "our-own"
    assert named.model_files.files == {"model.bin": hashlib.sha256(b"weights").hexdigest()}


def test_models_are_listed_with_what_chooses_them_and_what_they_need(tmp_path):
    (tmp_path / "our-own").mkdir()
    (tmp_path / "our-own" / "model.pt").write_bytes(b"weights")
    found = {model.name: model for model in list_models(tmp_path)}
    assert (found["our-own"].state, found["our-own"].size_bytes) == ("yours", 7)
    assert (found["our-own"].tiers, found["our-own"].needs) == ("", None)
    assert found["whisper-base"].tiers == "whisper: fast, balanced"
    assert found["whisper-base"].needs == NEEDS["whisper-base"]
    assert found["fun-asr-nano"].state == "not there"


def test_a_model_beside_the_known_ones_is_found_by_its_name(tmp_path):
    directory = tmp_path / "our-paraformer"
    directory.mkdir()
    (directory / "model.pt").write_bytes(b"weights")
    changes = {"decode": {"engine": "funasr", "model": "our-paraformer"}}
    found = load_profile("call", changes, find=partial(digest_files, tmp_path))
    assert found.model_files.files == {"model.pt": hashlib.sha256(b"weights").hexdigest()}
    assert digest_files(tmp_path, "another") == {}


def test_other_weights_are_another_decode_key(tmp_path):
    directory = tmp_path / "own"
    directory.mkdir()
    keys = set()
    for weights in (b"one", b"two"):
        (directory / "model.pt").write_bytes(weights)
        path = tmp_path / "own.toml"
        path.write_text(profile_section(directory, "funasr"))
        keys.add(load_profile(str(path)).decode_key("0" * 64, 16_000))
    assert len(keys) == 2


@pytest.mark.parametrize("is_there", [True, False])
def test_a_directory_without_a_model_is_refused(tmp_path, is_there):
    directory = tmp_path / "empty"
    if is_there:
        directory.mkdir()
    with pytest.raises(BadRequest):
        profile_section(directory, "funasr")
