"""Results whose texts are sealed, and the keys that do it."""

from __future__ import annotations

import json
import stat
from datetime import date, timedelta
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidTag
from hypothesis import given
from hypothesis import strategies as st

from schema import seal as seals
from schema.errors import ErrorCode, Misconfigured
from schema.seal import KeyDestroyed, KeyDirectory, SealedResult, read_result, seal, unseal
from schema.span import Span
from schema.words import SegmentResult, Word

TODAY = date(2026, 5, 4)


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KeyDirectory:
    monkeypatch.setattr(seals, "_today", lambda: TODAY)
    directory = KeyDirectory(tmp_path / "keys")
    directory.rotate()
    return directory


def result(*texts: str) -> SegmentResult:
    words = tuple(Word(text, 300 * i, 300 * i + 200, 0.5) for i, text in enumerate(texts))
    tags = {"doubts": [[0, 100, 0.5, -1.0]], "sounds": [[0, 100, "secret"]]}
    return SegmentResult(words, (Span(0, 900),), "en", tags)


def test_sealed_texts_come_back_and_are_nowhere_in_between(keys: KeyDirectory):
    clear = result("four", "one")
    key = keys.public_key()

    sealed = seal(clear, "decode", key)

    stored = json.dumps(sealed.to_json())
    assert "four" not in stored
    assert "secret" not in stored
    assert sealed.word_count == 2
    assert sealed.tags == {"doubts": clear.tags["doubts"]}
    again = read_result(json.loads(stored))
    assert isinstance(again, SealedResult)
    assert unseal(again, "decode", keys.private_key(key.id)) == clear


def test_what_is_sealed_opens_for_its_own_decode_and_key_alone(keys: KeyDirectory, tmp_path: Path):
    sealed = seal(result("four"), "decode", keys.public_key())
    with pytest.raises(InvalidTag):
        unseal(sealed, "another", keys.private_key(sealed.key_id))
    other = KeyDirectory(tmp_path / "other")
    (made,), _ = other.rotate()
    with pytest.raises(InvalidTag):
        unseal(sealed, "decode", other.private_key(made))


@given(st.lists(st.text(max_size=8), max_size=12))
def test_any_texts_survive(texts: list[str]):
    directory = _shared_keys()
    clear = SegmentResult(tuple(Word(t, 0, 0) for t in texts), ())
    sealed = seal(clear, "k", directory.public_key())
    assert unseal(sealed, "k", directory.private_key(sealed.key_id)) == clear


_made: list[KeyDirectory] = []


def _shared_keys() -> KeyDirectory:
    if not _made:
        import tempfile

        _made.append(KeyDirectory(Path(tempfile.mkdtemp())))
        _made[0].rotate()
    return _made[0]


def test_keys_are_made_once_a_day_and_destroyed_after_three(
    keys: KeyDirectory, monkeypatch: pytest.MonkeyPatch
):
    first = keys.public_key().id
    assert keys.rotate() == ([], [])
    monkeypatch.setattr(seals, "_today", lambda: TODAY + timedelta(days=1))
    (second,), _ = keys.rotate()
    assert keys.public_key().id == second
    keys.private_key(first)
    monkeypatch.setattr(seals, "_today", lambda: TODAY + timedelta(days=3))
    made, destroyed = keys.rotate()
    assert destroyed == [first]
    assert keys.public_key().id == made[0]
    with pytest.raises(KeyDestroyed):
        keys.private_key(first)
    keys.private_key(second)


def test_nobody_seals_to_a_key_that_is_about_to_go(
    keys: KeyDirectory, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(seals, "_today", lambda: TODAY + timedelta(days=2))
    with pytest.raises(Misconfigured) as raised:
        keys.public_key()
    assert raised.value.code == ErrorCode.SEAL_KEY_MISSING


def test_a_host_without_a_key_says_so(keys: KeyDirectory, tmp_path: Path):
    key = keys.public_key()
    for directory in (KeyDirectory(None), KeyDirectory(tmp_path / "none")):
        with pytest.raises(Misconfigured, match="CALLSCRIBE_SEAL_KEYS"):
            directory.public_key()
        with pytest.raises(Misconfigured, match=key.id):
            directory.private_key(key.id)


def test_a_private_key_is_its_owners_alone_and_a_name_leads_nowhere_else(keys: KeyDirectory):
    key = keys.public_key()
    assert keys.path is not None
    private = keys.path / f"{key.id}.private.pem"
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    private.rename(keys.path.parent / "elsewhere.private.pem")
    with pytest.raises(KeyDestroyed):
        keys.private_key("../elsewhere")


@pytest.mark.parametrize("content", [b"", b"-----BEGIN PUBLIC KEY-----\nMCow", b"\xff" * 99])
def test_a_key_that_is_half_copied_is_missing_and_no_fault_of_the_call(
    keys: KeyDirectory, content: bytes
):
    key = keys.public_key()
    assert keys.path is not None
    for kind in ("public", "private"):
        (keys.path / f"{key.id}.{kind}.pem").write_bytes(content)
    with pytest.raises(Misconfigured, match="cannot be read"):
        keys.public_key()
    with pytest.raises(Misconfigured, match="cannot be read"):
        keys.private_key(key.id)


def test_a_directory_that_is_none_is_missing(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Misconfigured, match="cannot be read"):
        KeyDirectory(tmp_path / "file").public_key()


def test_a_public_key_that_was_exchanged_is_not_used(keys: KeyDirectory, tmp_path: Path):
    other = KeyDirectory(tmp_path / "other")
    other.rotate()
    mine, theirs = keys.public_key().id, other.public_key().id
    assert keys.path is not None
    assert other.path is not None
    exchanged = (other.path / f"{theirs}.public.pem").read_bytes()
    (keys.path / f"{mine}.public.pem").write_bytes(exchanged)
    with pytest.raises(Misconfigured, match="not the key that its name says"):
        keys.public_key()
