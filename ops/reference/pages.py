"""Every reference page, by its file's name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ops.reference import (
    commands,
    error_codes,
    exit_codes,
    export_formats,
    metrics,
    settings,
    views,
)

PAGES: Mapping[str, Callable[[], str]] = {
    "settings.md": settings.page,
    "commands.md": commands.page,
    "error-codes.md": error_codes.page,
    "exit-codes.md": exit_codes.page,
    "metrics.md": metrics.page,
    "json.md": export_formats.json_page,
    "parquet.md": export_formats.parquet_page,
    "views.md": views.page,
}
