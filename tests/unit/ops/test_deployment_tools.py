"""What is deployed, examined by the tools of those who made the formats."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from ops.local import debian
from ops.local.process import ProcessError
from tests.unit.ops import manifests as m

#: systemd's own measure of what a service may, from 0 (nothing) to 10 (all of it).
_MOST_EXPOSED = 2.0
#: Beside these no unit of systemd's is wanted.
_SYSTEMD = Path("/usr/lib/systemd/system")


def run(*command: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    told = [str(word) for word in command]
    return subprocess.run(told, capture_output=True, text=True, check=False, **options)


def tool(name: str, package: str) -> str:
    """Return a tool that pip installed, or that the machine has."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is missing: install {package}")
    return found


@pytest.fixture(scope="module")
def systemd_analyze() -> str:
    if not _SYSTEMD.is_dir():
        pytest.skip("systemd-analyze is missing: install systemd")
    return tool("systemd-analyze", "systemd")


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A host's root with our units, a release, NVIDIA's tools and systemd's own units in it."""
    root = tmp_path_factory.mktemp("host")
    release = root / "opt/callscribe/current/.venv/bin"
    release.mkdir(parents=True)
    tools = root / "usr/bin"
    tools.mkdir(parents=True)
    (root / "bin").symlink_to("usr/bin")
    others = (tools / name for name in ("nvidia-cuda-mps-control", "sh"))
    for program in (release / "python", release / "producer", *others):
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    (root / "usr/lib/systemd").mkdir(parents=True)
    shutil.copytree(_SYSTEMD, root / "usr/lib/systemd/system", symlinks=True)
    (root / "lib").symlink_to("usr/lib")
    units = root / "etc/systemd/system"
    units.mkdir(parents=True)
    for unit in m.UNITS:
        shutil.copy(unit, units)
    return root


def verified(analyze: str, root: Path, names: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return run(analyze, "verify", "--man=no", "--recursive-errors=yes", f"--root={root}", *names)


def test_systemd_understands_every_unit(systemd_analyze: str, host: Path):
    done = verified(systemd_analyze, host, [u.name.replace("@.", "@0.") for u in m.UNITS])

    # Of a directive that it does not know it only warns.
    assert (done.returncode, done.stderr) == (0, "")


def test_systemd_would_say_what_it_does_not_understand(systemd_analyze: str, host: Path):
    unit = host / "etc/systemd/system/slip.service"
    text = (m.OPS / "systemd/asr-reducer.service").read_text()
    unit.write_text(text.replace("TimeoutStopSec=", "TimeoutStopSecs="))

    assert "TimeoutStopSecs" in verified(systemd_analyze, host, [unit.name]).stderr


@pytest.mark.parametrize("unit", m.SERVICES, ids=m.name)
def test_systemd_finds_no_unit_exposed(systemd_analyze: str, host: Path, unit: Path):
    done = run(
        systemd_analyze,
        "security",
        f"--root={host}",
        "--offline=yes",
        f"--threshold={_MOST_EXPOSED * 10:.0f}",
        unit.name.replace("@.", "@0."),
        env={**os.environ, "SYSTEMD_COLORS": "0"},
    )

    assert done.returncode == 0, done.stdout


def test_compose_is_what_its_specification_says():
    check = tool("check-jsonschema", "the extra test")

    done = run(check, "--builtin-schema", "vendor.compose-spec", m.COMPOSE)

    assert done.returncode == 0, done.stdout


def test_compose_with_a_slip_is_not(tmp_path: Path):
    check = tool("check-jsonschema", "the extra test")
    slip = tmp_path / "compose.yaml"
    slip.write_text(m.COMPOSE.read_text().replace("stop_grace_period", "stop_graceperiod"))

    done = run(check, "--builtin-schema", "vendor.compose-spec", slip)

    assert "stop_graceperiod" in done.stdout


@pytest.mark.parametrize("path", m.MANIFESTS, ids=m.name)
def test_kubernetes_knows_every_field(path: Path):
    from kubernetes_validate import validate

    for document in yaml.safe_load_all(path.read_text()):
        if not document["apiVersion"].startswith("keda.sh/"):  # which is no part of Kubernetes
            validate(document, "1.37", strict=True)
            validate(document, "1.28", strict=True)


def test_kubernetes_knows_no_field_with_a_slip():
    from kubernetes_validate import ValidationError, validate

    (document,) = [d for d in m.documents() if d["kind"] == "Job"]
    document["spec"]["template"]["spec"]["restartpolicy"] = "Never"

    with pytest.raises(ValidationError, match="restartpolicy"):
        validate(document, "1.37", strict=True)


@pytest.mark.parametrize("dockerfile", m.DOCKERFILES, ids=m.name)
def test_hadolint_finds_nothing_in_an_image(dockerfile: Path):
    done = run(tool("hadolint", "the extra test"), "--failure-threshold=style", dockerfile)

    assert (done.returncode, done.stdout) == (0, "")


def test_prometheus_understands_its_configuration_beside_compose(tmp_path: Path):
    try:
        promtool = debian.find_prometheus() / "promtool"
    except ProcessError as error:
        pytest.skip(str(error))
    for source in ("docker/prometheus.yml", "prometheus/rules.yml"):
        shutil.copy(m.OPS / source, tmp_path)

    done = run(promtool, "check", "config", tmp_path / "prometheus.yml")

    assert done.returncode == 0, done.stdout + done.stderr
