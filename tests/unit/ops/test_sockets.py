import os

import pytest

from ops.local import sockets
from ops.local.process import ServerError
from ops.local.sockets import SOCKET_PATH_MAX, make_private, socket_directory


def test_a_short_and_plain_directory_holds_its_own_sockets(tmp_path):
    assert socket_directory(tmp_path) == tmp_path / "run"


def test_looking_for_a_place_leaves_nothing_behind(tmp_path):
    socket_directory(tmp_path)

    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["deep" * 40, "with a space", "caf\u00e9", "100%"])
def test_other_directories_get_a_place_elsewhere_and_always_the_same(tmp_path, name):
    state = tmp_path / name

    place = socket_directory(state)

    assert tmp_path not in place.parents
    assert len(os.fsencode(place / ".s.PGSQL.5432")) <= SOCKET_PATH_MAX
    assert socket_directory(state) == place
    assert socket_directory(tmp_path / f"other{name}") != place


def test_a_private_directory_is_private(tmp_path):
    make_private(tmp_path / "run")

    assert (tmp_path / "run").stat().st_mode & 0o077 == 0


def test_somebody_elses_directory_is_refused(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    monkeypatch.setattr(sockets.os, "geteuid", lambda: 4242)
    monkeypatch.setattr(sockets, "server_uid", lambda: 4242)

    with pytest.raises(ServerError, match="belongs to somebody else"):
        make_private(tmp_path / "run")


def test_a_link_is_refused(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(ServerError, match="belongs to somebody else"):
        make_private(tmp_path / "run")
