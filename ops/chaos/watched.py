"""A fleet that is watched: every part serves figures, and a real Prometheus scrapes them.

Prometheus has our own configuration and rules, but scrapes and evaluates every second; and its
rules may be hastened, so that nobody waits hours for an alert: an hour is a minute then, and a
minute a second, in how far back a rule looks, how long its condition must hold, and how old a thing
may be. What it asks is as it was.
"""

from __future__ import annotations

import json
import math
import re
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import yaml

from ops.chaos.disk import SmallDisk
from ops.chaos.field import Field
from ops.local import debian
from ops.local.bootstrap import ROOT
from ops.local.process import Child, ProcessError
from ops.local.sockets import free_port
from schema.seal import KeyDirectory

PROMETHEUS = ROOT / "ops" / "prometheus"
DASHBOARD = ROOT / "ops" / "grafana" / "dashboards" / "callscribe.json"

#: Of the file system in memory that the spool has here.
_RESERVE_BYTES = 64 * 1024**2

_HASTE = 60
_WINDOW = re.compile(r"\[(\d+)([mh])\]")
_FOR = re.compile(r"^(\s+for: \d+)([mh])$", re.MULTILINE)
_AGE = re.compile(r"(_seconds\)) > (\d[\d *]*\d)")
_SHORTER = {"m": "s", "h": "m"}


def hastened(rules: str) -> str:
    """Return rules for which an hour is a minute: windows, ``for:``, and limits of an age."""
    rules = _WINDOW.sub(lambda found: f"[{found[1]}{_SHORTER[found[2]]}]", rules)
    rules = _FOR.sub(lambda found: found[1] + _SHORTER[found[2]], rules)
    return _AGE.sub(rf"\1 > \2 / {_HASTE}", rules)


def dashboard_queries() -> Mapping[str, str]:
    """Return the panel that each query of the dashboard is of."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return {
        target["expr"]: panel["title"] for panel in panels for target in panel.get("targets", ())
    }


class Prometheus:
    """A Prometheus that scrapes the parts of a fleet, once it is started.

    ``ports`` are those at which parts serve on loopback, by the names of our configuration's jobs.

    Raises:
        ProcessError: there is none on this host; the message says how to get it.
    """

    def __init__(
        self, directory: Path, ports: Mapping[str, Sequence[int]], *, hasty: bool = False
    ) -> None:
        program = debian.find_prometheus() / "prometheus"
        directory.mkdir(parents=True, exist_ok=True)
        rules = (PROMETHEUS / "rules.yml").read_text()
        (directory / "rules.yml").write_text(hastened(rules) if hasty else rules)
        (directory / "prometheus.yml").write_text(yaml.safe_dump(_configured(ports)))
        self.port = free_port()
        self._child = Child(
            "prometheus",
            [
                str(program),
                f"--config.file={directory / 'prometheus.yml'}",
                f"--storage.tsdb.path={directory / 'data'}",
                f"--web.listen-address=127.0.0.1:{self.port}",
            ],
            directory / "prometheus.log",
        )

    def asked(self, what: str, **parameters: str) -> Any:
        """Return what it answers, or None while it does not."""
        url = f"http://127.0.0.1:{self.port}/api/v1/{what}?{urlencode(parameters)}"
        try:
            with urlopen(url) as answer:
                return json.load(answer)["data"]
        except URLError:
            return None

    def unanswered(self, queries: Iterable[str]) -> list[str]:
        """Return those of some queries that have no result now."""
        answers = ((query, self.asked("query", query=query)) for query in queries)
        return [query for query, answer in answers if not (answer and answer["result"])]

    def answers(self, query: str) -> bool:
        """Tell whether a query has a result now."""
        return not self.unanswered([query])

    def all_up(self) -> bool:
        """Tell whether the last scrape of every target was answered."""
        found = (self.asked("targets", state="active") or {"activeTargets": ()})["activeTargets"]
        return bool(found) and all(target["health"] == "up" for target in found)

    def alerts(self) -> dict[str, dict[str, Any]]:
        """Return the alerts that are pending or firing, by name; of one that is both, firing.

        Raises:
            ProcessError: Prometheus does not answer, so that nobody knows.
        """
        answer = self.asked("alerts")
        if answer is None:
            raise ProcessError("prometheus does not answer")
        found = sorted(answer["alerts"], key=lambda alert: alert["state"] == "firing")
        return {alert["labels"]["alertname"]: alert for alert in found}

    def fired(self, since_s: float) -> dict[str, float]:
        """Return when each alert that fired since then did first, as a Unix time."""
        found = self.asked(
            "query_range",
            query='ALERTS{alertstate="firing"}',
            # And what went in the second before is not of this one.
            start=f"{math.ceil(since_s)}",
            # What was evaluated in this very second is found from the next one on.
            end=f"{time.time() + 1:.0f}",
            step="1",
        )
        first: dict[str, float] = {}
        for series in (found or {"result": ()})["result"]:
            name, begun = series["metric"]["alertname"], float(series["values"][0][0])
            first[name] = min(begun, first.get(name, begun))
        return first

    def __enter__(self) -> Self:
        self._child.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._child.stop()


def _configured(ports: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    every_second = ("scrape_interval", "scrape_timeout", "evaluation_interval")
    config["global"] |= dict.fromkeys(every_second, "1s")
    for job in config["scrape_configs"]:
        job.pop("scrape_interval", None)
        targets = [f"127.0.0.1:{port}" for port in ports[job["job_name"]]]
        job["static_configs"] = [{"targets": targets}]
    return config


class Watched:
    """A field whose workers, reducer and ledger serve figures; a Prometheus may scrape them.

    The spool has a small disk of its own where one may be mounted, and with ``device`` workers
    show the memory of a device that they do not have: see :mod:`ops.chaos.worker`.
    """

    def __init__(
        self,
        directory: Path,
        *,
        models: Path,
        workers: int = 3,
        lease_s: int | None = None,
        device: bool = False,
        flower: bool = False,
    ) -> None:
        # All by the right clock: Flower goes by theirs.
        own = {"CHAOS_CLOCK_S": "0", **({"CHAOS_DEVICE": "yes"} if device else {})}
        self.field = Field(
            directory,
            models=models,
            workers=workers,
            own=lambda _: own,
            flower=flower,
            metrics=True,
        )
        stack = self.field.stack
        stack.environment["CALLSCRIBE_SPOOL_RESERVE_BYTES"] = str(_RESERVE_BYTES)
        stack.environment["CALLSCRIBE_NOTIFY_SECRET"] = secrets.token_hex()
        keys = KeyDirectory(directory / "keys")
        keys.rotate()
        stack.environment["CALLSCRIBE_SEAL_KEYS"] = str(keys.path)
        if lease_s is not None:
            stack.environment["CALLSCRIBE_LEASE_S"] = str(lease_s)
        self.spool = _small_disk(stack.state / "spool")
        self._directory = directory

    def prometheus(self, *, hasty: bool = False) -> Prometheus:
        """Return a Prometheus for this fleet, not started yet.

        Raises:
            ProcessError: there is none on this host; the message says how to get it.
        """
        jobs = {"reducer": "callscribe-reducers", "metrics": "callscribe-ledger"}
        ports: dict[str, list[int]] = {}
        for name, port in self.field.stack.metrics_ports.items():
            ports.setdefault(jobs.get(name, "callscribe-workers"), []).append(port)
        name = "prometheus-hasty" if hasty else "prometheus"
        return Prometheus(self._directory / name, ports, hasty=hasty)

    def page(self, name: str) -> str:
        """Return what a part serves: "asr0", "reducer" or "metrics"."""
        port = self.field.stack.metrics_ports[name]
        with urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            text: str = answer.read().decode()
            return text

    def __enter__(self) -> Self:
        self.field.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.field.__exit__()
        if self.spool is not None:
            self.spool.unmount()


def _small_disk(directory: Path) -> SmallDisk | None:
    try:
        return SmallDisk(directory)
    except OSError:
        return None
