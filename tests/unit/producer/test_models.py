"""What a profile may name as its model, and how a model of one's own is described."""

from __future__ import annotations

import hashlib

import pytest

from producer.models import known_models, profile_section
from schema.errors import BadRequest
from schema.models import KNOWN
from schema.profile import load_profile


def test_a_known_model_is_ready_only_if_every_byte_is_its_own(tmp_path, monkeypatch):
    assert {model.state for model in known_models(tmp_path)} == {"not there"}
    assert [model.name for model in known_models(tmp_path)] == sorted(KNOWN)
    directory = tmp_path / "fsmn-vad"
    directory.mkdir()
    for name in KNOWN["fsmn-vad"].files:
        (directory / name).write_bytes(b"else")
    [fsmn] = [model for model in known_models(tmp_path) if model.name == "fsmn-vad"]
    assert (fsmn.state, fsmn.size_bytes) == ("changed", 4 * len(KNOWN["fsmn-vad"].files))
    digest = hashlib.sha256(b"else").hexdigest()
    for name in KNOWN["fsmn-vad"].files:
        monkeypatch.setitem(KNOWN["fsmn-vad"].files, name, digest)
    [fsmn] = [model for model in known_models(tmp_path) if model.name == "fsmn-vad"]
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
