"""A URL that could be misread is refused, and nothing of it is said."""

from __future__ import annotations

import ssl

import pytest

from schema.errors import Misconfigured
from schema.settings import Settings, load_settings
from schema.urls import check_database_url, check_receiver_url, check_redis_url, engine_url
from schema.wire import BROKER_SETTINGS, broker_settings

SOUND = [
    ("postgresql://", "redis://"),
    ("postgresql://me:hush@db:5432/calls?sslmode=verify-full", "redis://:hush@redis:6379/0"),
    ("postgresql://me:hush@/calls?host=%2Frun&port=5432", "redis+socket:///run/redis.sock"),
    ("postgresql://me:h,sh@a,b:5433/calls?target_session_attrs=read-write", "redis://redis"),
    ("postgresql+psycopg://me:h%40sh@db/calls", "rediss://me:h%40sh@redis:6379/0"),
]


@pytest.mark.parametrize(("database", "redis"), SOUND)
def test_sound_urls_are_taken(database: str, redis: str):
    check_database_url(database)
    check_redis_url(redis)


def test_several_servers_stand_in_a_database_url_as_in_libpq():
    url = engine_url("postgresql://me:h%40sh@a,b:5433/calls?target_session_attrs=read-write")

    assert url.query == {"target_session_attrs": "read-write", "host": ("a:5432", "b:5433")}
    assert (url.username, url.password, url.host, url.database) == ("me", "h@sh", None, "calls")
    assert engine_url("postgresql://me:h,sh@a:1/calls").host == "a"


@pytest.mark.parametrize("url", ["redis://:hush@h/x", "redis://h/0/1", "rediss://h/-1"])
def test_a_database_of_redis_is_a_number(url: str):
    with pytest.raises(ValueError, match="no number of a database"):
        check_redis_url(url)


@pytest.mark.parametrize(
    ("option", "cause"),
    [
        ("pgbouncer=true", "none of libpq's"),
        ("foo=1", "none of libpq's"),
        ("port=hush", "no value that it can have"),
    ],
)
def test_an_option_that_no_server_has_is_refused_unquoted(option: str, cause: str):
    with pytest.raises(ValueError, match=cause) as caught:
        check_database_url(f"postgresql://me:hush@db/calls?{option}")
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "hush",
        "mysql://me:hush@db/calls",
        "postgresql://me:hu@sh@db/calls",
        "postgresql://me:hu@sh@a,b/calls",
        "postgresql:hush@db",
    ],
)
def test_a_database_url_that_could_be_misread_is_refused_unquoted(url: str):
    with pytest.raises(ValueError, match=r"postgresql://|Postgres|password") as caught:
        check_database_url(url)

    assert "hu" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "hush",
        "amqp://me:hush@redis",
        "sentinel://:hush@redis",
        *(f"redis://:hu{special}sh@redis:6379/0" for special in "/#?"),
        "redis://:1/hush@redis:6379/0",
        "redis://:hush@one:6379/0;redis://:hush@two:6379/0",
        "redis://:hush@redis:6379/0?ssl_cert_reqs=required",
        "rediss://:hush@redis:6379/0?ssl_cert_reqs=hush",
        "rediss://:hush@redis:6379/0?ssl_password=hush",
    ],
)
def test_a_redis_url_that_could_be_misread_is_refused_unquoted(url: str):
    with pytest.raises(ValueError, match=r"redis|password|ssl") as caught:
        check_redis_url(url)

    assert "hu" not in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "url"),
    [
        ("CALLSCRIBE_DATABASE_URL", "postgresql://me:hu@sh@db/calls"),
        ("CALLSCRIBE_REDIS_URL", "redis://:hu/sh@redis:6379/0"),
    ],
)
def test_settings_with_a_url_that_could_be_misread_name_it_alone(
    monkeypatch: pytest.MonkeyPatch, variable: str, url: str
):
    monkeypatch.setenv("CALLSCRIBE_DATABASE_URL", "postgresql://")
    monkeypatch.setenv("CALLSCRIBE_REDIS_URL", "redis://")
    monkeypatch.setenv(variable, url)

    with pytest.raises(Misconfigured, match=variable) as caught:
        load_settings()

    assert "hu" not in str(caught.value)
    assert caught.value.__cause__ is None


def broker(url: str) -> dict:
    return broker_settings(Settings(database_url="postgresql://", redis_url=url))


def test_without_tls_a_broker_is_its_url():
    assert broker("redis://h:1/0") == {**BROKER_SETTINGS, "broker_url": "redis://h:1/0"}


def test_unless_told_a_namespace_keys_are_those_of_earlier_releases():
    options = broker("redis://h:1/0")["broker_transport_options"]
    assert options["global_keyprefix"] == "callscribe:"


@pytest.mark.parametrize("url", ["redis://h:1/0", "rediss://h:1/0"])
def test_a_namespace_is_before_every_key_and_changes_nothing_else(url: str):
    settings = Settings(database_url="postgresql://", redis_url=url, namespace="night")
    told = broker_settings(settings)

    options = told.pop("broker_transport_options")
    assert options.pop("global_keyprefix") == "night:"
    usual = broker(url)
    rest = usual.pop("broker_transport_options")
    rest = {name: value for name, value in rest.items() if name != "global_keyprefix"}
    assert (told, options) == (usual, rest)


@pytest.mark.parametrize("options", ["", "?ssl_ca_certs=/etc/ca.pem"])
def test_certificates_are_verified_unless_the_url_says_otherwise(options: str):
    settings = broker(f"rediss://:hush@redis:6379/0{options}")

    assert settings["broker_url"] == "rediss://:hush@redis:6379/0"
    assert settings["broker_use_ssl"]["ssl_cert_reqs"] is ssl.CERT_REQUIRED
    assert settings["broker_use_ssl"]["ssl_check_hostname"] is True


def test_what_the_url_says_of_tls_is_said_to_celery():
    url = "rediss://redis?ssl_cert_reqs=none&ssl_certfile=/a.pem&ssl_keyfile=/b.pem"

    assert broker(url)["broker_use_ssl"] == {
        "ssl_cert_reqs": ssl.CERT_NONE,
        "ssl_check_hostname": True,
        "ssl_certfile": "/a.pem",
        "ssl_keyfile": "/b.pem",
    }


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://crm.example/hook?token=hush", "crm.example"),
        ("http://CRM.example:8080", "crm.example"),
        ("http://[::1]:8080/", "::1"),
    ],
)
def test_a_receiver_is_known_by_its_host(url: str, host: str):
    assert check_receiver_url(url, ()) == host
    assert check_receiver_url(url, {host, "other.example"}) == host


@pytest.mark.parametrize(
    "url",
    [
        "hush",
        "file:///etc/hush",
        "gopher://hush",
        "https:///hush",
        "https://me:hush@crm.example/",
        "https://hush@crm.example/",
        "https://crm.example:0/hush",
        "https://crm.example:99999/hush",
        "https://crm.example/#hush",
        "https://crm.example/hush\r\nhost: other",
        "https://crm.example/h ush",
        "https://crm.exämple/hush",
        "https://[hush/",
        "https://crm.example/" + "hush" * 500,
    ],
)
def test_a_receiver_that_could_be_misread_or_holds_a_password_is_refused_unquoted(url: str):
    with pytest.raises(ValueError, match="it ") as caught:
        check_receiver_url(url, ())

    assert "hush" not in str(caught.value)


def test_a_receiver_that_is_not_among_those_allowed_is_refused():
    with pytest.raises(ValueError, match=r"crm\.example is not among CALLSCRIBE_NOTIFY_HOSTS"):
        check_receiver_url("https://crm.example/hush", {"other.example"})
