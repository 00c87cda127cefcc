"""Write the reference pages to ops/docs/reference.

python -m ops.reference            write them
python -m ops.reference --check    only name the pages that are out of date; they end with code 1
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ops.reference.pages import PAGES

DIRECTORY = Path(__file__).resolve().parents[1] / "docs" / "reference"


def outdated_pages() -> list[str]:
    """Return the names of the pages that are not what the code says."""
    return [name for name, page in PAGES.items() if _read(DIRECTORY / name) != page()]


def main(arguments: Sequence[str]) -> int:
    """Write the pages, or check them; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m ops.reference", description=__doc__)
    parser.add_argument("--check", action="store_true", help="only name what is out of date")
    if parser.parse_args(arguments).check:
        names = outdated_pages()
        for name in names:
            print(f"{DIRECTORY / name} is out of date: run python -m ops.reference")
        return 1 if names else 0
    texts = {name: page() for name, page in PAGES.items()}
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (DIRECTORY / name).write_text(text, encoding="utf-8")
    return 0


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
