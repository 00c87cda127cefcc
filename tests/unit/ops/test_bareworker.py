"""A comparison is only as fair as its settings are the same."""

from __future__ import annotations

import pytest

from ops.bench.bareworker import create_app
from schema.settings import Settings

#: What names our app and its tasks, and how they arrive: none of it bears on the rate.
_OWN = {"include", "task_queues"}


def test_the_bare_worker_has_the_settings_of_ours(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CALLSCRIBE_DATABASE_URL", "postgresql://nowhere/ledger")
    monkeypatch.setenv("CALLSCRIBE_REDIS_URL", "redis://nowhere")
    settings = Settings()
    from workers.app import create_app as create_ours

    ours, bare = (dict(app(settings).conf.changes) for app in (create_ours, create_app))

    assert {k: v for k, v in bare.items() if k not in _OWN} == {
        k: v for k, v in ours.items() if k not in _OWN
    }
