"""No model is loaded from files that are not the ones expected."""

import hashlib

import pytest

from schema.errors import ErrorCode, Misconfigured
from schema.models import ModelFiles
from workers.engines.weights import verify_weights

MODEL = ModelFiles(
    "tiny",
    {
        "config.json": hashlib.sha256(b"{}").hexdigest(),
        "model.bin": hashlib.sha256(b"weights").hexdigest(),
    },
)


@pytest.fixture
def models_dir(tmp_path):
    directory = tmp_path / "tiny"
    directory.mkdir()
    (directory / "config.json").write_bytes(b"{}")
    (directory / "model.bin").write_bytes(b"weights")
    return tmp_path


def test_a_complete_model_is_found(models_dir):
    assert verify_weights(MODEL, models_dir) == models_dir / "tiny"


def test_a_relative_directory_is_returned_absolute(models_dir, monkeypatch):
    monkeypatch.chdir(models_dir.parent)
    assert verify_weights(MODEL, models_dir.relative_to(models_dir.parent)).is_absolute()


def test_a_missing_file_is_named_with_a_remedy(models_dir):
    (models_dir / "tiny" / "model.bin").unlink()
    with pytest.raises(Misconfigured, match=r"model\.bin.*CALLSCRIBE_MODELS") as caught:
        verify_weights(MODEL, models_dir)
    assert caught.value.code == ErrorCode.WEIGHTS_MISSING


def test_a_changed_file_is_refused(models_dir):
    (models_dir / "tiny" / "model.bin").write_bytes(b"weightz")
    with pytest.raises(Misconfigured, match=r"model\.bin") as caught:
        verify_weights(MODEL, models_dir)
    assert caught.value.code == ErrorCode.WEIGHTS_CHANGED
