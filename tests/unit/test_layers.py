"""Imports point down: ops to producer and workers, both to schema, and no torch in a producer."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
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


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


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


def test_only_the_engines_the_memory_and_the_polish_know_a_model_library():
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
        "workers/engines/whisper.py",
        "workers/process/memory.py",
        "workers/transcript/text_normalisation.py",
    }


@pytest.mark.parametrize("module", ["producer.cli.main", "producer.intake.examine"])
def test_a_producer_loads_no_model_library_and_no_worker(module: str):
    code = f"import sys, {module}; print(*{{name.split('.')[0] for name in sys.modules}})"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout.split()
    assert not set(loaded) & (MODEL_LIBRARIES | {"workers", "ops"})


def test_the_parent_of_a_worker_loads_no_model_library():
    code = (
        "import os, sys;"
        "os.environ.update(CALLSCRIBE_DATABASE_URL='postgresql://', CALLSCRIBE_REDIS_URL='redis://');"
        "import workers.app, workers.tasks; print(*{name.split('.')[0] for name in sys.modules})"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout.split()
    assert not set(loaded) & MODEL_LIBRARIES


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
