"""An installation without the workers' extras has all that the producer and Flower import."""

from __future__ import annotations

import configparser
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[3]


def declared(*extras: str) -> Iterator[Requirement]:
    """Yield what setup.cfg asks for."""
    parser = configparser.ConfigParser(inline_comment_prefixes=("#",))
    parser.read(ROOT / "setup.cfg")
    texts = [parser["options"]["install_requires"]]
    texts += [parser["options.extras_require"][extra] for extra in extras]
    for line in "\n".join(texts).splitlines():
        if line.strip():
            yield Requirement(line)


def brought(*extras: str) -> set[str]:
    """Return every distribution that comes with callscribe and these extras."""
    found: set[str] = set()
    waiting = [(requirement, frozenset[str]()) for requirement in declared(*extras)]
    seen = set()
    while waiting:
        requirement, wanted_by = waiting.pop()
        name = canonicalize_name(requirement.name)
        environments = [{"extra": extra} for extra in wanted_by or {""}]
        if requirement.marker and not any(map(requirement.marker.evaluate, environments)):
            continue
        if (name, frozenset(requirement.extras)) in seen:
            continue
        seen.add((name, frozenset(requirement.extras)))
        found.add(name)
        for line in distribution(name).requires or ():
            waiting.append((Requirement(line), frozenset(requirement.extras)))
    return found


#: Imports the first argument's modules as if the second's packages were not installed.
_WITHOUT = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
missing = set(sys.argv[2].split())
sys.meta_path.insert(0, Missing())
for module in sys.argv[1].split():
    __import__(module)
"""


@pytest.mark.parametrize(
    ("modules", "extras"),
    [
        ("producer.cli.main kombu.transport.redis", ()),
        ("producer.cli.main workers.app workers.tasks flower.command", ("flower",)),
    ],
    ids=["producer", "flower"],
)
def test_what_is_imported_is_installed(modules: str, extras: tuple[str, ...]):
    installed = {*brought(*extras), "callscribe", "setuptools", "pip"}
    missing = [
        package
        for package, owners in packages_distributions().items()
        if not {canonicalize_name(owner) for owner in owners} & installed
    ]
    assert "torch" in missing

    told = {"CALLSCRIBE_DATABASE_URL": "postgresql://", "CALLSCRIBE_REDIS_URL": "redis://"}
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT, modules, " ".join(missing)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, **told},
    )

    assert done.returncode == 0, done.stderr
