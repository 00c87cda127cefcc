"""What people do at the command line that nobody planned: said plainly, and at no one's cost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from schema.records import Notice
from schema.store.intake import cancel, submissions
from schema.store.ledger import Ledger
from tests.factories import added, quarantined, recording, submission, transcribed, utterance
from tests.integration.command import Producer


def test_a_retry_of_what_was_cancelled_says_what_to_do(ledger: Ledger, producer: Producer):
    to = submission(ledger)
    added(ledger, recording("a"), recording("b"), quarantined(), to=to)
    ledger.transact(lambda c: cancel.cancel_submission(c, to.id))

    ran = producer("retry")

    assert f"Submission {str(to.id)[:8]} has no failed recordings." in ran.out
    assert "2 cancelled: submit these files again." in ran.err
    assert "1 quarantined: repair these files and submit them again." in ran.err
    assert json.loads(producer("retry", "--json").out)["cancelled"] == 2


def test_who_shares_the_words_is_named_before_anything_is_erased(
    ledger: Ledger, producer: Producer
):
    to = submission(ledger)
    gone, twin = (transcribed(ledger, item=recording("a"), to=to) for _ in range(2))

    ran = producer("forget", "--recording", str(gone))

    said = f"Transcripts stay with 1 other recording of the same audio: {str(twin)[:8]}"
    assert said in ran.err.replace("\n", " ")
    listed = json.loads(producer("forget", "--recording", str(gone), "--json").out)
    assert (listed["erased"], listed["shared"]) == (False, [str(twin)])


@pytest.mark.parametrize("count", [1, 3, 4])
def test_a_few_notices_are_printed_and_many_are_counted(
    ledger: Ledger, producer: Producer, tmp_path: Path, count: int, monkeypatch
):
    calls = tmp_path / "calls"
    calls.mkdir()
    monkeypatch.setenv("CALLSCRIBE_ROOTS", f"calls={calls}")
    (calls / "broken.wav").write_bytes(b"no audio")
    rows = "".join(f"gone{number}.wav,ACD-{number}\n" for number in range(count))
    (calls / "calls.csv").write_text(f"file,call_id\nbroken.wav,ACD\n{rows}")

    ran = producer("submit", str(calls), "--manifest", str(calls / "calls.csv"))

    assert ran.err.count("manifest.unmatched-row") == (count if count <= 3 else 0)
    assert (f"{count} notices" in ran.err) == (count > 3)


@pytest.mark.parametrize(
    "options",
    [
        *(("--since", ""), ("--until", ""), ("--line", ""), ("--speaker", " ")),
        ("--since", " "),
    ],
)
def test_an_option_that_a_script_left_empty_widens_nothing(producer: Producer, options: tuple):
    for command in (("forget", "--older-than", "1h"), ("search", "hello")):
        ran = producer(*command, *options)
        assert ran.code == 2, command
        assert options[0] in ran.err


ENVIRONMENT = {"PATH": os.environ["PATH"], "CALLSCRIBE_REDIS_URL": "redis://127.0.0.1:1/0"}


def run(ledger: Ledger, *arguments: str, **options) -> subprocess.CompletedProcess[bytes]:
    url = ledger.engine.url.render_as_string(hide_password=False)
    added_environment = options.pop("environment", {})
    environment = {**ENVIRONMENT, "CALLSCRIBE_DATABASE_URL": url, **added_environment}
    program = [sys.executable, "-c", "from producer.cli.main import main; main()"]
    command = [*options.pop("before", ()), *program, *arguments]
    return subprocess.run(
        command, env=environment, capture_output=True, check=False, timeout=120, **options
    )


def test_a_terminal_that_lacks_characters_ends_no_command(ledger: Ledger):
    to = submission(ledger)
    mine = recording("a")
    mine = replace(mine, source=replace(mine.source, path="Müller 退款 😀.wav".encode()))
    transcribed(ledger, utterance("agent", "我要退款 😀"), item=mine, to=to)
    added(ledger, quarantined(), to=to)
    notice = Notice("scan.left-out", "Müller", "1 file is no audio 😀")
    ledger.transact(lambda c: submissions.add_notices(c, to.id, [notice]))
    ledger.transact(lambda c: submissions.seal_submission(c, to.id))
    environment = {"PYTHONIOENCODING": "ascii"}

    for arguments in (
        ["status"],
        ["search", "退款"],
        ["search", "退款", "--json"],
        ["export", "--format", "jsonl", "--out", "-"],
        ["forget", "--submission", str(to.id)],
        ["submit", "--help"],
    ):
        ran = run(ledger, *arguments, environment=environment)
        assert b"Traceback" not in ran.stderr, arguments
        shown = ran.stdout.decode("ascii")
        if arguments[-1] in ("--json", "-"):
            assert "我要退款 😀" in json.dumps(json.loads(shown), ensure_ascii=False)


@pytest.mark.parametrize(
    "redirected", ["2>/dev/full", "2>&-", "2> >(exec 0<&-; sleep 0.2)", "2>/dev/full 0<&-"]
)
def test_messages_that_nobody_can_read_change_no_result(ledger: Ledger, redirected: str):
    transcribed(ledger, utterance("agent", "hello there"))
    within = ["bash", "-c", f'"$@" {redirected}', "bash"]

    missing = run(ledger, "status", "nope-nope", before=within)
    exported = run(
        ledger, "export", "--format", "jsonl", "--out", "-", "--since", "2020-01-01", before=within
    )

    assert missing.returncode == 4
    assert exported.returncode == 0
    assert json.loads(exported.stdout)["recording"]


def test_a_standard_output_that_is_closed_ends_no_command(ledger: Ledger):
    ran = run(ledger, "status", "--all", "--json", before=["bash", "-c", '"$@" >&-', "bash"])

    assert (ran.returncode, b"Traceback" in ran.stderr) == (0, False)


def test_a_user_whom_no_file_knows_and_who_has_no_home_runs(ledger: Ledger):
    """A container's user, or a service's, is a number."""
    stranger = ["unshare", "--user", "--map-user=54321"]
    if subprocess.run([*stranger, "true"], check=False).returncode:
        pytest.skip("this kernel lets nobody be somebody else")

    for arguments in (["--help"], ["models", "--json"], ["status", "--all"]):
        ran = run(ledger, *arguments, before=stranger)
        assert b"Traceback" not in ran.stderr, ran.stderr.decode()
        # Nor may it enter this test's directory, in which the server's socket lies.
        assert ran.stdout or b"Is Postgres up" in ran.stderr


def test_who_has_no_home_looks_for_weights_where_the_host_keeps_them(
    monkeypatch: pytest.MonkeyPatch,
):
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.delenv("CALLSCRIBE_MODELS", raising=False)
    from schema.settings import Settings

    settings = Settings(database_url="postgresql://", redis_url="redis://localhost/0")
    assert settings.models == Path("/var/cache/callscribe/models")


def test_a_reader_that_goes_away_is_no_failure_of_a_table_either(ledger: Ledger):
    to = submission(ledger)
    for _ in range(30):
        transcribed(ledger, utterance("agent", "hello " * 400), to=to)
    url = ledger.engine.url.render_as_string(hide_password=False)
    program = f"{sys.executable} -c 'from producer.cli.main import main; main()'"
    for command in ("status --all", "search hello --limit 9999", "submit --help"):
        ran = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {program} {command} | true"],
            env={**ENVIRONMENT, "CALLSCRIBE_DATABASE_URL": url},
            capture_output=True,
            check=False,
            timeout=60,
        )
        assert (ran.returncode, ran.stderr) == (0, b""), command


def test_a_disk_that_is_full_is_named(ledger: Ledger):
    url = ledger.engine.url.render_as_string(hide_password=False)
    program = f"{sys.executable} -c 'from producer.cli.main import main; main()'"
    ran = subprocess.run(
        ["bash", "-c", f"{program} status --all > /dev/full"],
        env={**ENVIRONMENT, "CALLSCRIBE_DATABASE_URL": url},
        capture_output=True,
        check=False,
        timeout=60,
    )

    assert b"Traceback" not in ran.stderr
    assert (ran.returncode, b"No space left" in ran.stderr) == (6, True)
    assert b"[file.unwritable] standard output" in ran.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["status", "caf\udce9"],
        ["forget", "--call", "caf\udce9"],
        ["search", "hi", "--line", "caf\udce9"],
        ["release", "caf\udce9"],
    ],
)
def test_an_argument_of_another_country_is_refused(producer: Producer, arguments: list[str]):
    ran = producer(*arguments)

    assert ran.code == 2
    assert "option.invalid" in ran.err


@pytest.mark.parametrize("asked", ["", " ", "a"])
def test_what_is_in_whatever_there_is_is_not_looked_for(producer: Producer, asked: str):
    assert producer("forget", "--check", asked).code == 2


def test_a_hold_of_a_call_that_nobody_knows_is_placed_and_questioned(producer: Producer):
    ran = producer("hold", "ACD-9", "--reason", "claim")

    assert ran.code == 0
    assert "No recording has this call id or line yet" in ran.err
    assert producer("hold", "ACD-9", "--reason", " ").code == 2
