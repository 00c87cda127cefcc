"""Redis over TLS is spoken to if it proves who it is, and not otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from ops.local.servers import RedisServer
from producer.cli.doctor import CheckResult, CheckVerdict, examine_host
from producer.submit.enqueue import celery_app
from schema.publish import Publisher
from schema.settings import Settings
from schema.store.ledger import Ledger
from schema.wire import QueueLengths
from tests.tlsproxy import TlsProxy


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis"), tcp=True) as server:
        yield server


@pytest.fixture
def proxy(server: RedisServer, tmp_path: Path) -> Iterator[TlsProxy]:
    with TlsProxy(tmp_path, urlsplit(server.url).port) as proxy:
        yield proxy


@pytest.fixture
def url(server: RedisServer, proxy: TlsProxy) -> str:
    """Redis behind the proxy, with nothing said of certificates."""
    return f"rediss://:{urlsplit(server.url).password}@127.0.0.1:{proxy.port}/0"


def settings_with(url: str) -> Settings:
    return Settings(database_url="postgresql://", redis_url=url)


def doctor(url: str, ledger: Ledger) -> CheckResult:
    """Return what ``producer doctor`` finds of Redis."""
    settings = settings_with(url)
    with celery_app(settings) as app:
        checks = examine_host(settings, ledger, app)
        return next(found for found in checks if found.check == "redis")


def test_a_server_with_a_certificate_of_the_named_ca_is_spoken_to(
    url: str, proxy: TlsProxy, ledger: Ledger
):
    named = f"{url}?ssl_ca_certs={proxy.ca}&ssl_cert_reqs=required"

    with celery_app(settings_with(named)) as app:
        assert Publisher(app).queue_lengths() == QueueLengths(0, 0)
    assert doctor(named, ledger).verdict is CheckVerdict.OK
    assert proxy.clients > 0


@pytest.mark.parametrize("wrong", ["no CA", "another CA", "another name"])
def test_a_server_that_cannot_be_trusted_is_told_no_password(
    url: str, proxy: TlsProxy, ledger: Ledger, tmp_path: Path, wrong: str
):
    (tmp_path / "another").mkdir()
    url = {
        "no CA": url,
        "another CA": f"{url}?ssl_ca_certs={TlsProxy(tmp_path / 'another', 0).ca}",
        "another name": f"{url}?ssl_ca_certs={proxy.ca}".replace("127.0.0.1", "localhost"),
    }[wrong]

    found = doctor(url, ledger)

    assert found.verdict is CheckVerdict.FAIL
    assert "certificate is not trusted" in found.detail
    assert "ssl_ca_certs" in found.remedy
    assert proxy.clients == 0


def test_doctor_warns_of_a_server_that_anybody_may_pose_as(url: str, ledger: Ledger):
    found = doctor(f"{url}?ssl_cert_reqs=none", ledger)

    assert found.verdict is CheckVerdict.WARN
    assert "ssl_cert_reqs" in found.remedy
