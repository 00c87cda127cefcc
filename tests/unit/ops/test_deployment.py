"""What is deployed exists, waits long enough, may little, and holds no secrets."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from producer.cli.main import app
from schema.settings import NAMESPACE, Address, Limits, Settings
from tests.unit.ops import manifests as m
from workers.__main__ import main as workers_main

#: Variables of others: libraries, images, the shell, and what compose.yaml asks of its env file.
FOREIGN = {
    *("PATH", "HOME", "PYTHONDONTWRITEBYTECODE", "PYTHONSAFEPATH", "PYTHONUNBUFFERED"),
    *("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "NUMBA_CACHE_DIR"),
    *("CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY", "NVIDIA_DRIVER_CAPABILITIES"),
    *("FLOWER_BASIC_AUTH", "FLOWER_COOKIE_SECRET", "FLOWER_DB"),
    *("POSTGRES_USER", "POSTGRES_DB", "POSTGRES_PASSWORD"),
    *("PGHOST", "PGUSER", "PGDATABASE", "PGPASSWORD"),
    *("GF_SECURITY_ADMIN_PASSWORD", "GF_AUTH_ANONYMOUS_ENABLED", "GF_USERS_ALLOW_SIGN_UP"),
    *("CALLSCRIBE_DASHBOARDS", "PROMETHEUS_URL"),  # of ops/grafana/provisioning
    *("GF_ANALYTICS_REPORTING_ENABLED", "GF_ANALYTICS_CHECK_FOR_UPDATES"),
}
COMPOSE_OWN = set(
    re.findall(r"^([A-Z]\w*)=", (m.OPS / "compose.env.example").read_text(), re.MULTILINE)
) | {"WORKER_NAME"}

SETTINGS = {f"CALLSCRIBE_{name}".upper() for name in Settings.model_fields if name != "limits"} | {
    f"CALLSCRIBE_MAX_{name}".upper() for name in Limits.model_fields
}

#: What a worker needs beside its soft shutdown, to hand back and to leave.
_MARGIN_S = 60


def shutdown_s() -> int:
    return Settings.model_fields["shutdown_s"].default


def workers(found: dict[str, list[str]]) -> list[str]:
    return [where for where, words in found.items() if words[1:3] == ["-m", "workers"]]


COMMANDS = dict(m.commands())


# What runs


@pytest.mark.parametrize("way", ["systemd", "compose", "k8s"])
@pytest.mark.parametrize(
    "part",
    [
        *("-m workers segments", "-m workers reduce", "-m workers metrics"),
        *("producer migrate --roles", "producer forget --older-than", " flower "),
    ],
)
def test_each_way_deploys_every_part(way: str, part: str):
    lines = [" ".join(words) for where, words in COMMANDS.items() if where.startswith(way)]
    assert any(part in line for line in lines)


@pytest.mark.parametrize("where", workers(COMMANDS))
def test_every_worker_is_started_with_a_command_that_it_understands(where: str, capsys):
    with pytest.raises(SystemExit) as caught:
        workers_main([*COMMANDS[where][3:], "--help"])
    assert caught.value.code == 0


@pytest.mark.parametrize("where", [k for k, words in COMMANDS.items() if words[0] == "producer"])
def test_every_command_of_producer_exists(where: str):
    words = COMMANDS[where][1:]
    command = get_command(app)
    if words:
        name, sub, rest = command.resolve_command(command.make_context("producer", words), words)
        assert sub.make_context(name, rest).params is not None


@pytest.mark.parametrize("where", [k for k, words in COMMANDS.items() if "flower" in words])
def test_flower_is_started_with_its_configuration(where: str):
    (conf,) = [w.partition("=")[2] for w in COMMANDS[where] if w.startswith("--conf=")]
    assert importlib.util.find_spec(COMMANDS[where][2])
    inside = conf.removeprefix("/opt/callscribe/current/ops/").removeprefix("/opt/callscribe/")
    assert (m.OPS / inside).is_file()


def test_each_unit_of_a_host_serves_its_figures_somewhere_else():
    unit = (m.OPS / "systemd" / "asr-worker@.service").read_text()
    (template,) = re.findall(r"^Environment=CALLSCRIBE_METRICS=(.*)$", unit, re.MULTILINE)
    others = re.findall(
        r"CALLSCRIBE_METRICS=([\d.:]+)$",
        "\n".join(path.read_text() for path in (m.OPS / "systemd").glob("*.service")),
        re.MULTILINE,
    )

    served = [template.replace("%i", str(instance)) for instance in range(256)] + others

    assert len(others) == 2
    assert len({Address.parse(text) for text in served}) == len(served)
    assert all(Address.parse(text).host.startswith("127.") for text in served)


def test_nothing_else_is_run():
    known = {*workers(COMMANDS), *(k for k, words in COMMANDS.items() if "flower" in words)}
    known |= {k for k, words in COMMANDS.items() if words[0] == "producer"}
    known |= {k for k, words in COMMANDS.items() if words == ["nvidia-cuda-mps-control", "-f"]}
    assert known == set(COMMANDS)


def test_probes_ping_the_worker_by_the_name_it_was_given():
    for pod in ("worker", "reducer"):
        container = m.containers()[pod]
        (name,) = container["args"][container["args"].index("--name") + 1 :]
        for probe in ("startupProbe", "livenessProbe"):
            command = container[probe]["exec"]["command"]
            assert command == ["python", "-m", "workers", "alive", "--name", name]
    for service, told in m.services().items():
        if "WORKER_NAME" in told.get("environment", {}):
            assert told["command"][-1] == told["environment"]["WORKER_NAME"], service


@pytest.mark.parametrize("dockerfile", m.DOCKERFILES, ids=m.name)
def test_an_image_copies_only_what_is_there_and_let_in(dockerfile: Path):
    let_in = re.findall(r"^!(.*)$", (m.ROOT / ".dockerignore").read_text(), re.MULTILINE)
    for line in m.instruction(dockerfile, "COPY"):
        if not line.startswith("--from"):
            for source in line.split()[:-1]:
                assert (m.ROOT / source).exists()
                assert any(source == path or source.startswith(f"{path}/") for path in let_in)


def test_every_file_that_compose_mounts_is_there():
    mounted = [
        volume.partition(":")[0]
        for told in m.services().values()
        for volume in told.get("volumes", [])
        if isinstance(volume, str) and volume.startswith("./")
    ]
    assert mounted
    assert [v for v in mounted if not (m.OPS / v).exists()] == []


def test_prometheus_beside_compose_asks_every_process_that_serves_figures():
    told = yaml.safe_load((m.OPS / "docker" / "prometheus.yml").read_text())
    asked = set()
    for job in told["scrape_configs"]:
        asked |= {t for static in job.get("static_configs", []) for t in static["targets"]}
        asked |= {f"{n}:{d['port']}" for d in job.get("dns_sd_configs", []) for n in d["names"]}
    serving = {
        f"{name}:{told['environment']['CALLSCRIBE_METRICS'].rpartition(':')[2]}"
        for name, told in m.services().items()
        if "CALLSCRIBE_METRICS" in told.get("environment", {}) and name != "producer"
    }
    assert asked == serving


def test_grafana_is_told_what_its_provisioning_asks_for():
    files = [path for path in (m.OPS / "grafana" / "provisioning").rglob("*") if path.is_file()]
    asked = {v for path in files for v in re.findall(r"\$\{(\w+)\}", path.read_text())}
    assert asked <= set(m.services()["grafana"]["environment"])
    assert asked


def test_kustomize_knows_every_manifest():
    listed = yaml.safe_load((m.OPS / "k8s" / "kustomization.yaml").read_text())["resources"]
    assert sorted(listed) == [path.name for path in m.MANIFESTS]


# What they are told


def test_every_variable_is_a_setting_or_another_programs():
    own = {"compose": COMPOSE_OWN, "docker": {"TORCH", "TORCH_INDEX", "EXTRAS"}}
    unknown = {
        (where, variable)
        for where, variable, _ in m.variables()
        if variable not in SETTINGS | FOREIGN | own.get(re.split(r"\W", where)[0], set())
    }
    assert unknown == set()


def test_compose_asks_for_nothing_that_its_example_does_not_list():
    asked = set(re.findall(r"(?<!\$)\$\{(\w+)", m.COMPOSE.read_text()))
    assert asked <= COMPOSE_OWN
    # And lists nothing that is not asked for, but what compose itself reads.
    assert COMPOSE_OWN - asked == {"WORKER_NAME", "COMPOSE_PROFILES"}


@pytest.mark.parametrize("path", m.ALL, ids=m.name)
def test_no_credentials_are_written_down(path: Path):
    text = path.read_text()
    for password in re.findall(r"://[^\s/@:]*:([^\s/@]+)@", text):
        assert password.startswith(("${", "...")), password


def test_a_secret_has_no_value():
    written = [
        (where, variable)
        for where, variable, value in m.variables()
        if re.search(r"PASSWORD|SECRET|BASIC_AUTH", variable)
        and not re.fullmatch(r"(\$\{(\w+:[-?])?\})?", value)
    ]
    assert written == []


def test_the_filled_in_examples_are_not_committed():
    ignored = (m.ROOT / ".gitignore").read_text().splitlines()
    assert "*.env" in ignored


# What of a GPU they see

WORKER_UNIT = m.OPS / "systemd" / "asr-worker@.service"
MPS_UNIT = m.OPS / "systemd" / "callscribe-mps.service"


def environment(unit: Path) -> dict[str, str]:
    """Return what a unit itself tells its process, without its files."""
    return {name: value for where, name, value in m.variables() if where == m.name(unit)}


def test_workers_look_for_mps_where_it_listens():
    mps, worker = environment(MPS_UNIT), environment(WORKER_UNIT)
    (runtime,) = m.directives(MPS_UNIT, "RuntimeDirectory")
    (logs,) = m.directives(MPS_UNIT, "LogsDirectory")

    assert mps["CUDA_MPS_PIPE_DIRECTORY"] == worker["CUDA_MPS_PIPE_DIRECTORY"] == f"/run/{runtime}"
    assert mps["CUDA_MPS_LOG_DIRECTORY"] == f"/var/log/{logs}"
    # Its pipes are written to, in a file system that is read-only otherwise.
    assert m.directives(WORKER_UNIT, "ReadWritePaths") == [f"-/run/{runtime}"]


def test_mps_serves_the_workers_user_and_numbers_gpus_as_they_do():
    assert m.directives(MPS_UNIT, "User") == m.directives(WORKER_UNIT, "User")
    assert "CUDA_VISIBLE_DEVICES" not in environment(MPS_UNIT)
    orders = {environment(unit)["CUDA_DEVICE_ORDER"] for unit in (MPS_UNIT, WORKER_UNIT)}
    assert orders == {"PCI_BUS_ID"}


def test_workers_start_after_mps_and_restart_with_it():
    for key in ("After", "PartOf"):
        (others,) = m.directives(WORKER_UNIT, key)
        assert MPS_UNIT.name in others.split()
    for key in ("Wants", "Requires", "BindsTo"):  # most hosts have none
        assert MPS_UNIT.name not in " ".join(m.directives(WORKER_UNIT, key))


def test_what_an_instance_alone_is_told_comes_last():
    files = m.directives(WORKER_UNIT, "EnvironmentFile")
    assert files[-1] == "-/etc/callscribe/worker@%i.env"
    assert not any(file.startswith("-") for file in files[:-1])


@pytest.mark.parametrize("unit", [WORKER_UNIT, MPS_UNIT], ids=m.name)
@pytest.mark.parametrize(
    "directive",
    # Each leaves a part of /dev alone; before systemd 253 ProtectClock leaves the clock.
    ["ProtectClock", "PrivateDevices", "DeviceAllow", "DevicePolicy"],
)
def test_a_unit_hides_no_gpu(unit: Path, directive: str):
    assert m.directives(unit, directive) == []


def test_no_image_asks_for_gpus_that_it_was_not_given():
    told = [(where, name) for where, name, _ in m.variables() if name == "NVIDIA_VISIBLE_DEVICES"]
    assert told == []
    worker = {n: v for where, n, v in m.variables() if where == "docker/worker.Dockerfile"}
    assert worker["NVIDIA_DRIVER_CAPABILITIES"] == "compute,utility"


def test_every_unit_that_an_operator_starts_is_in_the_guide():
    guide = (m.OPS / "docs" / "operate" / "deployment.md").read_text()
    for unit in m.UNITS:
        assert unit.stem.rstrip("@") in guide, unit.name


# How they end


@pytest.mark.parametrize("unit", [u for u in m.SERVICES if u.name.startswith("asr-")], ids=m.name)
def test_a_unit_waits_for_longer_than_the_soft_shutdown(unit: Path):
    (timeout,) = m.directives(unit, "TimeoutStopSec")
    assert int(timeout) >= shutdown_s() + _MARGIN_S
    # The parent alone is told; its child ends the segment. A child that dies stops no unit.
    assert m.directives(unit, "KillMode") == ["mixed"]
    assert m.directives(unit, "KillSignal") == ["SIGTERM"]
    assert m.directives(unit, "OOMPolicy") == ["continue"]
    assert m.directives(unit, "MemoryMax")


@pytest.mark.parametrize("where", [w for w in workers(COMMANDS) if w.startswith("compose ")])
def test_compose_waits_for_longer_than_the_soft_shutdown(where: str):
    told = m.services()[where.partition(" ")[2]]
    own = int(told["environment"]["CALLSCRIBE_SHUTDOWN_S"])
    assert int(told["stop_grace_period"].removesuffix("s")) >= own + _MARGIN_S
    assert told["stop_signal"] == "SIGTERM"


@pytest.mark.parametrize("pod", ["worker", "reducer", "metrics"])
def test_kubernetes_waits_for_longer_than_the_soft_shutdown(pod: str):
    (settings,) = [d["data"] for d in m.documents() if d["kind"] == "ConfigMap"]
    own = int(settings["CALLSCRIBE_SHUTDOWN_S"])
    assert m.pods()[pod]["terminationGracePeriodSeconds"] >= own + _MARGIN_S


# What they erase


@pytest.mark.parametrize("way", ["systemd", "compose", "k8s"])
def test_retention_erases_nothing_until_somebody_says_so(way: str):
    if way == "systemd":
        units = [unit.name for unit in m.UNITS if "forget" in unit.name]
        assert units == ["callscribe-forget@.service", "callscribe-forget@.timer"]
        (service,) = [u for u in m.SERVICES if "forget" in u.name]
        assert m.directives(service, "WantedBy") == []  # by its timer alone, if that is enabled
    elif way == "compose":
        told = m.services()["forget"]
        assert told["profiles"] == ["retention"]
        assert "${RETENTION:-}" in told["command"]
        assert re.search(r"^RETENTION=$", (m.OPS / "compose.env.example").read_text(), re.MULTILINE)
    else:
        (job,) = [d for d in m.documents() if d["kind"] == "CronJob"]
        assert job["spec"]["suspend"] is True
        assert job["spec"]["concurrencyPolicy"] == "Forbid"


def test_what_erases_logs_in_as_a_producer():
    (service,) = [u for u in m.SERVICES if "forget" in u.name]
    assert "/etc/callscribe/producer.env" in m.directives(service, "EnvironmentFile")
    url = m.services()["forget"]["environment"]["CALLSCRIBE_DATABASE_URL"]
    assert url.startswith("postgresql://submitter:")
    secrets = [each.get("secretRef") for each in m.containers()["forget"]["envFrom"]]
    assert {"name": "callscribe-producer"} in secrets


@pytest.mark.parametrize("way", ["systemd", "compose", "k8s"])
def test_every_part_that_reaches_redis_is_told_the_namespace(way: str):
    """The migration alone never asks Redis."""
    if way == "systemd":
        told = {
            example.name
            for example in (m.OPS / "systemd" / "etc").iterdir()
            if "#CALLSCRIBE_NAMESPACE=" in example.read_text()
        }
        units = {unit.stem: set(map(_file, _files(unit))) for unit in m.SERVICES if _files(unit)}
        untold = {name for name, files in units.items() if not files & told}
        assert untold == {"callscribe-migrate"}
    elif way == "compose":
        reaching = {
            name: service["environment"]
            for name, service in m.services().items()
            if "CALLSCRIBE_REDIS_URL" in service.get("environment", {})
        }
        untold = {name for name, told in reaching.items() if "CALLSCRIBE_NAMESPACE" not in told}
        assert untold == {"migrate"}
    else:
        untold = {
            name
            for name, pod in m.containers().items()
            if {"configMapRef": {"name": "callscribe"}} not in pod["envFrom"]
            and "CALLSCRIBE_NAMESPACE" not in {each["name"] for each in pod.get("env", ())}
        }
        assert untold == {"migrate"}
        (settings,) = [each for each in m.documents() if each["kind"] == "ConfigMap"]
        assert settings["data"]["CALLSCRIBE_NAMESPACE"] == NAMESPACE


def _files(unit: Path) -> list[str]:
    return m.directives(unit, "EnvironmentFile")


def _file(named: str) -> str:
    return f"{Path(named).name}.example"


@pytest.mark.parametrize("way", ["systemd", "compose", "k8s"])
def test_what_erases_notes_it_where_no_dump_of_the_ledger_is(way: str):
    if way == "systemd":
        (service,) = [u for u in m.SERVICES if "forget" in u.name]
        example = (m.OPS / "systemd" / "etc" / "callscribe.env.example").read_text()
        register = re.search(r"CALLSCRIBE_ERASURES=(\S+)", example)[1]
        writes = m.directives(service, "ReadWritePaths")
        assert f"-{Path(register).parent}" in writes
    elif way == "compose":
        for name in ("forget", "producer"):
            told = m.services()[name]
            register = told["environment"]["CALLSCRIBE_ERASURES"]
            (mount,) = [v for v in told["volumes"] if v["target"] == str(Path(register).parent)]
            assert not mount.get("read_only")
    else:
        pod = m.containers()["forget"]
        register = {each["name"]: each["value"] for each in pod["env"]}["CALLSCRIBE_ERASURES"]
        mounts = {each["mountPath"] for each in pod["volumeMounts"] if not each.get("readOnly")}
        assert str(Path(register).parent) in mounts


# What they may


def test_images_are_pinned_by_tag():
    images = [line.split()[0] for d in m.DOCKERFILES for line in m.instruction(d, "FROM")]
    images += [re.sub(r"\$\{\w+:-(.*)\}", r"\1", told["image"]) for told in m.services().values()]
    kustomization = yaml.safe_load((m.OPS / "k8s" / "kustomization.yaml").read_text())
    images += [f"{image['name']}:{image['newTag']}" for image in kustomization["images"]]
    named = {image["name"] for image in kustomization["images"]}
    assert {container["image"] for container in m.containers().values()} <= named
    for image in images:
        assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+[\w.-]*", image), image


def test_our_images_bear_our_version():
    (version,) = re.findall(r"^version = (.*)$", (m.ROOT / "setup.cfg").read_text(), re.MULTILINE)
    kustomization = yaml.safe_load((m.OPS / "k8s" / "kustomization.yaml").read_text())
    assert {image["newTag"] for image in kustomization["images"]} == {version}
    assert set(re.findall(r"_TAG:-([^}]*)\}", m.COMPOSE.read_text())) == {version}


@pytest.mark.parametrize("unit", m.SERVICES, ids=m.name)
def test_no_unit_runs_as_root(unit: Path):
    users = m.directives(unit, "User")
    assert m.directives(unit, "DynamicUser") == ["yes"] or users not in ([], ["root"], ["0"])


@pytest.mark.parametrize("dockerfile", m.DOCKERFILES, ids=m.name)
def test_no_image_runs_as_root(dockerfile: Path):
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", m.instruction(dockerfile, "USER")[-1])


@pytest.mark.parametrize("service", m.services())
def test_a_service_of_compose_may_little(service: str):
    told = m.services()[service]
    assert told["user"].partition(":")[0] not in ("root", "0")
    assert told["read_only"] is True
    assert told["cap_drop"] == ["ALL"]
    assert told["security_opt"] == ["no-new-privileges:true"]
    assert set(told["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}
    for port in told.get("ports", []):
        assert port.startswith(("127.0.0.1:", "${BIND_ADDRESS:-127.0.0.1}:"))


@pytest.mark.parametrize("service", m.services())
def test_a_service_of_compose_that_stays_says_how_it_is(service: str):
    told = m.services()[service]
    assert told["restart"] == "no" or "healthcheck" in told


@pytest.mark.parametrize("pod", m.pods())
def test_a_pod_may_little(pod: str):
    spec, container = m.pods()[pod], m.containers()[pod]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert "memory" in container["resources"]["limits"]


def test_a_worker_of_kubernetes_has_one_gpu():
    resources = m.containers()["worker"]["resources"]
    assert resources["limits"]["nvidia.com/gpu"] == resources["requests"]["nvidia.com/gpu"] == 1


def test_each_gpu_of_compose_has_one_worker():
    for index in range(8):
        told = m.services()[f"worker-gpu{index}"]
        (device,) = told["deploy"]["resources"]["reservations"]["devices"]
        assert device["device_ids"] == [str(index)]
        assert told["profiles"] == [f"gpu{n}" for n in (1, 2, 4, 8) if index < n]


def test_redis_keeps_what_it_is_given_and_asks_for_a_password():
    configuration = m.services()["redis"]["command"][2]
    for line in ("appendonly yes", "maxmemory-policy noeviction", "requirepass $$REDIS_PASSWORD"):
        assert f"{line}\n" in configuration


def test_scaling_reads_the_ledger_as_a_reader():
    (scaled,) = [d for d in m.documents() if d["kind"] == "ScaledObject"]
    (trigger,) = scaled["spec"]["triggers"]
    (login,) = [d for d in m.documents() if d["kind"] == "TriggerAuthentication"]
    assert trigger["type"] == "postgresql"
    assert set(trigger["metadata"]) == {
        "query",
        "targetQueryValue",
        "activationTargetQueryValue",
    }
    assert trigger["authenticationRef"]["name"] == login["metadata"]["name"]
    assert login["spec"]["secretTargetRef"] == [
        {
            "parameter": "connection",
            "name": "callscribe-reader",
            "key": "CALLSCRIBE_DATABASE_URL",
        }
    ]
    (target,) = [d for d in m.documents() if d["metadata"]["name"] == "worker"][:1]
    assert scaled["spec"]["scaleTargetRef"]["name"] == target["metadata"]["name"]
    assert "replicas" not in target["spec"]  # else each apply would undo what was scaled
