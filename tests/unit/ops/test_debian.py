"""Prometheus' programs: on PATH, or unpacked from Debian's package without root."""

from __future__ import annotations

from pathlib import Path

import pytest

from ops.local import debian
from ops.local.process import ProcessError


def program(path: Path, script: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host with nothing on PATH, but what a test puts in this directory, and a shell's own."""
    monkeypatch.setattr(debian, "_UNPACKED", tmp_path / "debian")
    on_path = tmp_path / "bin"
    on_path.mkdir()
    for name in ("mkdir", "touch", "chmod", "cp"):
        program(on_path / name, f'exec /bin/{name} "$@"')
    monkeypatch.setenv("PATH", str(on_path))
    return on_path


def with_apt(host: Path, lists: str = "true") -> None:
    """Give a host an apt-get, which downloads if its lists say so, and a dpkg-deb."""
    fails = "{ echo 'E: Unable to locate package' >&2; exit 100; }"
    program(
        host / "apt-get",
        f'case "$*" in *update*) ;; *) {lists} || {fails}; touch prometheus_2_amd64.deb;; esac',
    )
    program(
        host / "dpkg-deb",
        'mkdir -p "$3/usr/bin"; for p in promtool prometheus; do'
        ' cp "$0" "$3/usr/bin/$p"; chmod 755 "$3/usr/bin/$p"; done',
    )


def test_what_is_on_path_is_taken(host: Path):
    for name in ("promtool", "prometheus"):
        program(host / name, "true")

    assert debian.fetch() == debian.find_prometheus() == host.resolve()


def test_a_host_without_it_says_exactly_what_it_takes(host: Path):
    with pytest.raises(ProcessError, match=r"apt install prometheus, or python -m ops\.local"):
        debian.fetch()


def test_debians_package_is_unpacked_and_kept(host: Path, tmp_path: Path):
    with_apt(host)

    found = debian.fetch()

    assert found == tmp_path / "debian" / "prometheus" / "usr" / "bin"
    (host / "apt-get").unlink()
    assert debian.fetch() == found, "it is not fetched again"
    assert [path.name for path in (tmp_path / "debian").iterdir()] == ["prometheus"]


def test_a_host_whose_lists_are_old_takes_fresh_ones_of_its_own(host: Path):
    with_apt(host, lists='case "$*" in *lists=*) true;; *) false;; esac')

    assert (debian.fetch() / "promtool").exists()


def test_a_mirror_that_does_not_answer_is_quoted(host: Path, tmp_path: Path):
    with_apt(host, lists="false")

    with pytest.raises(ProcessError, match="Unable to locate package"):
        debian.fetch()
    assert list((tmp_path / "debian").iterdir()) == []
