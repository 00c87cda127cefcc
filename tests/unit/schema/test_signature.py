"""A signature is what any library of Standard Webhooks would make of the same."""

from __future__ import annotations

from uuid import UUID

from schema.signature import signed_headers

ID = UUID(int=7)
SECRET = "nobody could ever guess this one"  # noqa: S105 - the test's own


def test_the_headers_name_the_event_and_the_attempt():
    headers = signed_headers(SECRET, ID, 1_614_265_330, b"{}")

    assert headers["webhook-id"] == str(ID)
    assert headers["webhook-timestamp"] == "1614265330"


def test_the_signature_is_of_id_timestamp_and_body():
    """Made with ``openssl dgst -sha256 -hmac`` of the same."""
    headers = signed_headers("a secret of 24 characters", ID, 1_614_265_330, b'{"a": 1}')

    assert headers["webhook-signature"] == "v1,tEQk7qGEx9+o5QSE2fY8d55ma+GeuAfhzaoFPKao/gg="


def test_another_secret_id_moment_or_body_is_another_signature():
    made = {
        signed_headers(secret, event_id, at_s, body)["webhook-signature"]
        for secret in (SECRET, SECRET[::-1])
        for event_id in (ID, UUID(int=8))
        for at_s in (1, 2)
        for body in (b"{}", b"{ }")
    }
    assert len(made) == 16
