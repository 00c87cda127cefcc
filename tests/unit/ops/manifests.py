"""Reads what ops holds for deploying: units, images, compose, Kubernetes, examples of settings."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

OPS = Path(__file__).parents[3] / "ops"
ROOT = OPS.parent

UNITS = sorted(
    unit for kind in ("service", "timer", "target") for unit in OPS.glob(f"systemd/*.{kind}")
)
SERVICES = [unit for unit in UNITS if unit.suffix == ".service"]
DOCKERFILES = sorted(OPS.glob("docker/*.Dockerfile"))
COMPOSE = OPS / "compose.yaml"
MANIFESTS = sorted(path for path in OPS.glob("k8s/*.yaml") if path.name != "kustomization.yaml")
EXAMPLES = sorted(OPS.rglob("*.env.example"))

#: Everything that is deployed, by a name for a test's id.
ALL = [*UNITS, *DOCKERFILES, COMPOSE, *OPS.glob("k8s/*.yaml"), *EXAMPLES]

#: What runs a worker, by the start of its arguments.
WORKER_ROLES = ("segments", "reduce", "sweep")


def name(path: Path) -> str:
    return str(path.relative_to(OPS))


def directives(unit: Path, key: str) -> list[str]:
    """Return every value of a directive of a unit, in order."""
    return re.findall(rf"^{key}=(.*)$", unit.read_text(), re.MULTILINE)


def compose() -> dict[str, Any]:
    return yaml.safe_load(COMPOSE.read_text())


def services() -> dict[str, dict[str, Any]]:
    return compose()["services"]


def documents() -> list[dict[str, Any]]:
    """Return every object of Kubernetes that is declared."""
    return [found for path in MANIFESTS for found in yaml.safe_load_all(path.read_text())]


def pods() -> dict[str, dict[str, Any]]:
    """Return the pods that deployments and jobs make, by name."""
    made = {
        found["metadata"]["name"]: found["spec"].get("jobTemplate", found)["spec"]["template"]
        for found in documents()
        if found["kind"] in ("Deployment", "Job", "CronJob")
    }
    return {name: template["spec"] for name, template in made.items()}


def containers() -> dict[str, dict[str, Any]]:
    return {pod: container for pod, spec in pods().items() for container in spec["containers"]}


def instruction(dockerfile: Path, word: str) -> list[str]:
    """Return the arguments of every such instruction, with lines that go on joined."""
    text = dockerfile.read_text().replace("\\\n", " ")
    return re.findall(rf"^{word} (.*)$", text, re.MULTILINE)


def commands() -> Iterator[tuple[str, list[str]]]:
    """Yield every command line that is run of ours, without its interpreter's path."""
    for unit in SERVICES:
        (line,) = directives(unit, "ExecStart")
        words = shlex.split(line.replace("%i", "0"))
        yield name(unit), [words[0].rpartition("/")[2], *words[1:]]
    for service, told in services().items():
        if "callscribe" in told["image"]:
            start = told.get("entrypoint") or _entrypoint(told["image"])
            yield f"compose {service}", [*start, *told.get("command", [])]
    for pod, container in containers().items():
        start = container.get("command") or _entrypoint(container["image"])
        yield f"k8s {pod}", [*start, *container.get("args", [])]


def _entrypoint(image: str) -> list[str]:
    dockerfile = OPS / "docker" / f"{re.findall('callscribe-([a-z]+)', image)[0]}.Dockerfile"
    return yaml.safe_load(instruction(dockerfile, "ENTRYPOINT")[0])


def variables() -> Iterator[tuple[str, str, str]]:
    """Yield every variable of the environment that is set or asked for: where, name, value."""
    for path in EXAMPLES:
        for variable, value in re.findall(r"^([A-Z]\w*)=(.*)$", path.read_text(), re.MULTILINE):
            yield name(path), variable, value
    for unit in SERVICES:
        for assignment in shlex.split(" ".join(directives(unit, "Environment"))):
            variable, _, value = assignment.partition("=")
            yield name(unit), variable, value
    for path in DOCKERFILES:
        for line in [*instruction(path, "ENV"), *instruction(path, "ARG")]:
            for assignment in shlex.split(line):
                variable, _, value = assignment.partition("=")
                yield name(path), variable, value
    for service, told in services().items():
        for variable, value in told.get("environment", {}).items():
            yield f"compose {service}", variable, str(value)
    for variable in re.findall(r"(?<!\$)\$\{(\w+)", COMPOSE.read_text()):
        yield "compose", variable, "${}"
    for found in documents():
        if found["kind"] == "ConfigMap":
            for variable, value in found["data"].items():
                yield "k8s settings", variable, value
    for pod, container in containers().items():
        for told in container.get("env", []):
            yield f"k8s {pod}", told["name"], str(told.get("value", "${}"))
