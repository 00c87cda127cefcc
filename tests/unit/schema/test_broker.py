"""What Redis refuses is named for what it is."""

from __future__ import annotations

import pytest

from schema.broker import explain_redis_error


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ("NOPERM this user has no permissions to run the 'llen' command", "right to llen"),
        ("NOPERM User x has no permissions to run the 'script|load' command", "script|load"),
        ("No permissions to access a channel: this user has no permissions to access", "a channel"),
        ("WRONGPASS invalid username-password pair or user is disabled.", "refuses the password"),
        ("NOAUTH Authentication required.", "requires a password"),
        ("ERR DB index is out of range", "no database of that number"),
        ("MOVED 1234 10.0.0.7:6379", "Cluster"),
        ("SELECT is not allowed in cluster mode", "Cluster"),
        ("READONLY You can't write against a read only replica.", "replica"),
        ("OutOfMemoryError: command not allowed when used memory > 'maxmemory'.", "memory is full"),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", "another type"),
        ("OOM command not allowed when used memory > 'maxmemory'.", "memory is full"),
        ("MISCONF Redis is configured to save RDB snapshots", "disk"),
        ("ERR unknown command 'LLEN', with args", "Sentinel"),
        ("Protocol Error: b'TTP/1.1 400 Bad Request'", "no Redis"),
        ("[SSL: WRONG_VERSION_NUMBER] wrong version number", "not speak TLS"),
        ("Connection closed by server.", "closes the connection"),
        ("Error 111 connecting to 10.0.0.7:6379. Connection refused.", "nobody listens"),
        ("Error -2 connecting to redis:6379. Name or service not known.", "host name"),
        ("Timeout reading from socket", "in time"),
        ("who knows", "it does not answer (RuntimeError)"),
    ],
)
def test_each_refusal_has_a_cause_and_a_remedy(said: str, cause: str):
    error = RuntimeError("wrapped by kombu")
    error.__cause__ = ConnectionError(said)

    found, remedy = explain_redis_error(error)

    assert cause in found
    assert remedy.endswith((".", "?"))
    assert "10.0.0.7" not in found + remedy
