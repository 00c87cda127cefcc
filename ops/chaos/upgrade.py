"""Two versions of the code side by side: a rolling upgrade and its rollback, under load. One table.

    python -m ops.chaos.upgrade REVISION [--rounds 3]

The ledger has this version's tables. In each round recordings are submitted while every process of
the fleet, one after the other, is stopped as a rollout stops it and started again from a checkout
of REVISION, and in the next round from this one's; each with a login of the role for it. The
producer is this version's, since an older one refuses a newer ledger. Every second submission is
urgent, and a receiver is told of each. Each call is there in stereo and mixed down, and every
second submission has the speakers of mixed calls told by their voices. Nothing may be lost,
doubled, untold or left over; words may be either version's. Not among the tests, since it needs the
history.
"""

from __future__ import annotations

import argparse
import secrets
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from uuid import UUID

import soundfile
from sqlalchemy import make_url, text

from ops import tables
from ops.chaos.field import Field, Words, wait_for
from ops.chaos.oracle import broken
from ops.chaos.soak import compose_calls
from ops.local.bootstrap import ROOT
from ops.local.models import fetch
from schema.migrate import migrate_ledger
from schema.roles import Role
from schema.store.connection import create_ledger_engine

_HEADINGS = ("what", "count")

_UNTOLD = """
select (select count(*) from events where state <> 'delivered')
     + (select count(*) from submissions b where b.receiver_id is not null and not exists (
           select from events e where e.submission_id = b.id and e.recording_id is null))
"""


_GUESSED = "select count(*) from transcripts where speakers_from = 'guessed'"
_UNKNOWN = "select count(*) from transcripts where flags ? 'speakers-unknown'"


def main() -> int:
    """Roll to and fro, then look."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("revision", help="of git, say HEAD~20")
    parser.add_argument("--rounds", type=int, default=3, help="rollbacks, each with its upgrade")
    arguments = parser.parse_args()
    models = fetch()
    with tempfile.TemporaryDirectory(prefix="callscribe-upgrade-") as scratch:
        other = Path(scratch) / "other"
        _git("worktree", "add", "--detach", str(other), arguments.revision)
        try:
            field = Field(Path(scratch) / "field", models=models)
            field.stack.environment["CALLSCRIBE_NOTIFY_SECRET"] = secrets.token_hex()
            with field, _receiving() as url:
                compose_calls(Path(scratch) / "samples", field.calls)
                mix_down(field.calls)
                return _drill(field, other, arguments.rounds, arguments.revision, url)
        finally:
            _git("worktree", "remove", "--force", str(other))


def mix_down(directory: Path) -> None:
    """Put a mono twin beside each call of two channels."""
    for path in sorted(directory.rglob("*.wav")):
        samples, rate_hz = soundfile.read(path, always_2d=True)
        if samples.shape[1] > 1:
            soundfile.write(path.with_stem(f"{path.stem}-mono"), samples.mean(axis=1), rate_hz)


@contextmanager
def _receiving() -> Iterator[str]:
    """Serve a receiver that takes whatever it is told; yield its URL."""

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def _drill(field: Field, other: Path, rounds: int, revision: str, url: str) -> int:
    _check_origin(other, field.stack.environment)
    first = field.submit()
    field.wait(first)
    baseline = field.words(first)
    _take_rights(field)
    submissions: list[UUID] = []
    for number in range(2 * rounds):
        directory = ROOT if number % 2 else other
        for process in [*field.workers, field.reducer]:
            urgent = ["--priority", "--diarize", "auto"] if len(submissions) % 2 else []
            submissions.append(field.submit("--notify", url, *urgent))
            # As a rollout does: asked to end, then started from the other version.
            process.stop(grace_s=60)
            process.directory = directory
            login = {
                "CALLSCRIBE_DATABASE_URL": _url(field, Role.WORKER),
                "PYTHONPATH": str(directory),
            }
            process.environment = {**(process.environment or {}), **login}
            process.start()
    for submission in submissions:
        field.wait(submission, 600)
    wait_for(lambda: field.scalar(_UNTOLD) == 0, what="the last notification")
    found = [field.words(submission) for submission in submissions]
    wrong = broken(field.ledger)
    lost = sum(len(baseline.keys() - words.keys()) for words in found)
    rows = {
        "restarts into the other version": 3 * 2 * rounds,
        "recordings": len(submissions) * len(baseline),
        "segments": field.scalar("select count(*) from segments"),
        "claims beyond the first": field.scalar(
            "select coalesce(sum(attempts - 1), 0) from segments where attempts > 1"
        ),
        "most strikes of a segment": field.scalar("select max(strikes) from segments"),
        "decoded by another version than planned them": field.logged("segment_of_another_version"),
        "recordings lost": lost,
        "mixed calls told by their voices": field.scalar(_GUESSED),
        "mixed calls whose voices were missing": field.scalar(_UNKNOWN),
        "notifications delivered": field.scalar(
            "select count(*) from events where state = 'delivered'"
        ),
        "words doubled or left out, against this version's": _moved(baseline, found),
        **{f"BROKEN: {name}": count for name, count in wrong.items()},
    }
    cells = [[name, f"{count:,}"] for name, count in rows.items()]
    title = f"This version and {revision}, to and fro"
    tables.print_table(title, _HEADINGS, cells, tables.measured_now(), width=90)
    return 1 if lost or wrong else 0


def _take_rights(field: Field) -> None:
    """Make a login in each role of this version, and have submits use the producer's."""
    engine = create_ledger_engine(field.stack.postgres.url)
    migrate_ledger(engine, roles=True)
    with engine.begin() as connection:
        for role in Role:
            connection.execute(text(f"create role login_{role} login in role {role}"))
    engine.dispose()
    field.stack.environment["CALLSCRIBE_DATABASE_URL"] = _url(field, Role.PRODUCER)


def _check_origin(directory: Path, environment: Mapping[str, str]) -> None:
    """End the program unless processes of a checkout run its code, and not ours."""
    command = [sys.executable, "-c", "import schema; print(schema.__file__)"]
    env = {**environment, "PYTHONPATH": str(directory)}
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
    if not Path(done.stdout.strip()).is_relative_to(directory):
        sys.exit(f"a process of {directory} would run {done.stdout.strip()}")


def _url(field: Field, role: Role) -> str:
    url = make_url(field.stack.postgres.url).set(username=f"login_{role}")
    return url.render_as_string(hide_password=False)


def _moved(baseline: dict[str, Words], found: list[dict[str, Words]]) -> int:
    """Return by how many words transcripts are longer or shorter than this version's."""
    return sum(
        abs(len(words[name]) - len(baseline[name]))
        for words in found
        for name in words.keys() & baseline.keys()
    )


def _git(*arguments: str) -> None:
    subprocess.run(["git", "-C", str(ROOT), *arguments], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    sys.exit(main())
