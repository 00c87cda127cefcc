"""The options that all measurements share."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from ops.eval.corpus import Case, read_cases
from ops.eval.decode import Decodes
from ops.eval.sweep import plan_settings
from ops.eval.swept import Swept, sweep
from schema.profile import SCENES, load_profile


def parser_of(doc: str) -> argparse.ArgumentParser:
    """Return a parser that knows the shared options."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("directory", type=Path, help="audio with references beside it")
    parser.add_argument("--language", default="en", help="ISO 639-1 code, or auto")
    parser.add_argument("--scene", choices=SCENES, default="call")
    parser.add_argument(
        "--cache", type=Path, default=Path(".callscribe/eval"), help="where decodes are kept"
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=len(os.sched_getaffinity(0)),
        help="processes that decode, each with models of its own (default: one a core)",
    )
    return parser


def add_sweep(parser: argparse.ArgumentParser, segment_s: int, shifts: int) -> None:
    """Add the options of a sweep, with their defaults."""
    parser.add_argument("--segment", type=int, default=segment_s, help="length in seconds")
    parser.add_argument("--overlap", type=int, default=8, help="length in seconds")
    parser.add_argument("--shifts", type=int, default=shifts, help="layouts of each recording")
    parser.add_argument("--fixed", action="store_true", help="cut at fixed times, not where quiet")


def decodes_of(arguments: argparse.Namespace) -> Decodes:
    """Return the decodes that the options ask for."""
    decode = {"language": arguments.language}
    profile = load_profile(arguments.scene, {"decode": decode})
    return Decodes(profile, arguments.cache, arguments.jobs)


def cases_of(
    arguments: argparse.Namespace, fits: Callable[[Case], bool], needed: str
) -> list[Case]:
    """Return the recordings that ``fits`` takes; end the program where there are none."""
    cases = [case for case in read_cases(arguments.directory) if fits(case)]
    if not cases:
        sys.exit(f"{arguments.directory} holds no audio with {needed}")
    return cases


def sweep_of(arguments: argparse.Namespace, wholes: int = 1) -> tuple[Decodes, list[Swept]]:
    """Sweep the recordings that have a seam in each of their layouts; the last is the shortest."""
    settings = plan_settings(arguments.segment, arguments.overlap, fixed=arguments.fixed)
    least_ms = 1000 * (2 * settings.segment_s + settings.min_tail_s)
    cases = cases_of(
        arguments,
        lambda case: bool(case.reference) and case.duration_ms > least_ms,
        f"a reference that lasts {least_ms // 1000} s",
    )
    decodes = decodes_of(arguments)
    return decodes, sweep(decodes, cases, settings, arguments.shifts, wholes)


def layouts_of(arguments: argparse.Namespace) -> str:
    """Return how a sweep was laid out, for a title."""
    cuts = "at fixed times" if arguments.fixed else "where it is quiet"
    return f"{arguments.shifts} layouts, segments of {arguments.segment} s cut {cuts}"
