"""The upgrade drill runs the other checkout's code, or nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from ops.chaos.upgrade import _check_origin
from ops.local.bootstrap import environment


def test_a_checkouts_own_code_is_what_its_processes_run(tmp_path: Path):
    (tmp_path / "schema").mkdir()
    (tmp_path / "schema" / "__init__.py").touch()

    _check_origin(tmp_path, environment())


def test_the_drill_ends_where_other_code_would_run(tmp_path: Path):
    other, checkout = tmp_path / "other", tmp_path / "checkout"
    for directory in (other, checkout):
        directory.mkdir()
    (other / "schema.py").touch()
    # What is on the path behind an empty checkout, as an installed package is.
    (checkout / "sitecustomize.py").write_text(f"import sys; sys.path.append({str(other)!r})")

    with pytest.raises(SystemExit, match=r"would run .*schema\.py"):
        _check_origin(checkout, environment())
