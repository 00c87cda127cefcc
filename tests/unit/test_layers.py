"""Imports point down: ops to producer and workers, both to schema, and no torch in a producer."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

#: What each layer may import of ours.
ALLOWED = {
    "schema": {"schema"},
    "producer": {"schema", "producer"},
    "workers": {"schema", "workers"},
    "ops": {"schema", "producer", "workers", "ops"},
}
MODEL_LIBRARIES = {"torch", "funasr", "faster_whisper", "ctranslate2", "wetext"}


#: What only a worker that decodes needs. soundfile reads a segment's audio.
DECODING_LIBRARIES = MODEL_LIBRARIES | {"soxr", "soundfile"}


def imports(path: Path) -> Iterator[str]:
    """Yield the names of modules that a file imports, in functions and for types as well."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def import_graph() -> dict[str, set[str]]:
    """Return which of our modules each of our modules imports."""
    paths = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path
        for layer in ALLOWED
        for path in (ROOT / layer).rglob("*.py")
        if path.name != "__init__.py"
    }
    return {module: set(imports(path)) & set(paths) for module, path in paths.items()}


def loaded_by(statement: str, **settings: str) -> set[str]:
    """Return the packages that a new process has loaded after a statement, with these settings."""
    code = f"import sys; {statement}; print(*{{name.split('.')[0] for name in sys.modules}})"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CALLSCRIBE_")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment | settings,
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    return set(done.stdout.split())


@pytest.mark.parametrize("layer", ALLOWED)
def test_a_layer_imports_nothing_above_it(layer: str):
    above = set(ALLOWED) - ALLOWED[layer]
    breaches = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in (ROOT / layer).rglob("*.py")
        for name in imports(path)
        if name.split(".")[0] in above
    ]
    assert breaches == []


def test_only_some_modules_know_a_model_library():
    knowing = {
        str(path.relative_to(ROOT))
        for layer in ("schema", "producer", "workers")
        for path in (ROOT / layer).rglob("*.py")
        if {name.split(".")[0] for name in imports(path)} & MODEL_LIBRARIES
    }
    assert knowing == {
        "workers/engines/funasr/checkpoint.py",
        "workers/engines/funasr/cif.py",
        "workers/engines/device.py",
        "workers/engines/funasr/networks.py",
        "workers/engines/features.py",
        "workers/engines/vad/fsmn.py",
        "workers/engines/funasr/recognizer.py",
        "workers/engines/funasr/isolation.py",
        "workers/engines/funasr/cuda_graphs.py",
        "workers/engines/funasr/sanm.py",
        "workers/engines/voices/campplus.py",
        "workers/engines/voices/ge2e.py",
        "workers/engines/whisper.py",
        "workers/process/memory.py",
        "workers/transcript/text_normalisation.py",
    }


def test_no_modules_import_each_other_in_a_circle():
    try:
        TopologicalSorter(import_graph()).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("module", ["producer.cli.main", "producer.intake.examine"])
def test_a_producer_loads_no_model_library_and_no_worker(module: str):
    assert not loaded_by(f"import {module}") & (MODEL_LIBRARIES | {"workers", "ops"})


@pytest.mark.parametrize(
    "modules",
    [
        "workers.app, workers.tasks, workers.transcript.reduce",
        "workers.background.sweeper, workers.background.webhooks",
        "workers.background.fleet_metrics",
    ],
    ids=["the reducer", "the sweep", "the metrics"],
)
def test_what_decodes_nothing_loads_no_library_of_models_or_audio(modules: str):
    assert not loaded_by(f"import {modules}", CALLSCRIBE_REDIS_URL="redis://") & DECODING_LIBRARIES


def test_flower_needs_no_ledger_and_loads_no_library_of_models_or_audio():
    loaded = loaded_by("import workers.app", CALLSCRIBE_REDIS_URL="redis://")
    assert not loaded & DECODING_LIBRARIES


def test_no_dependency_installs_a_package_of_our_names():
    ours = set(ALLOWED)
    others = {
        (distribution.metadata["Name"], str(file).split("/")[0])
        for distribution in distributions()
        if distribution.metadata["Name"] != "callscribe"
        for file in distribution.files or ()
        if str(file).split("/")[0] in ours or str(file) in {f"{name}.py" for name in ours}
    }
    assert others == set()
