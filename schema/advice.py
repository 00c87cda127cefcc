"""What to do about each error code: ``producer explain`` prints it.

The meanings are in :mod:`schema.errors`; here is what an operator asks next. ``python -m
ops.troubleshooting`` makes the page of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from schema.errors import ErrorCode as Code


@dataclass(frozen=True, slots=True)
class Advice:
    """What to know of an error code, in sentences.

    ``example`` is a message as it is printed, or kept in the ledger; empty for a code that is
    only ever seen alone.
    """

    causes: str
    by_itself: str
    do: str
    example: str = ""


_QUARANTINED = (
    "The recording is quarantined: nothing of it is decoded, the other files go on, and `submit` "
    "ends with exit code 3."
)
_GIVEN_UP = (
    "Where a worker finds it, the segment is given up at once, since another attempt would end the "
    "same; its recording is `partial` or `failed`, and its transcript says what is missing."
)
_POSTPONED = (
    "The segment goes back and is tried again by whichever worker is free, after 5 s, then 10 s, "
    "up to 5 minutes, for as long as it takes; no strike is counted. `producer status` says what "
    "is waited for."
)
_ENDS = "The command ends; whatever it had committed stays, and the same command goes on from there"
_NOTICED = "It is noted beside the submission (`producer status`)"
_NOTHING_DONE = "The command ends with exit code 2 and has changed nothing."

ADVICE: Mapping[Code, Advice] = {
    Code.AUDIO_EMPTY: Advice(
        "A recorder that opened its file and wrote nothing; a full disk where it writes; a header "
        "without samples.",
        _QUARANTINED,
        "Look at the recorder. If the call exists elsewhere, hand in that file.",
        "[audio.empty] a.wav: the file has 0 bytes. Look why the recorder wrote nothing.",
    ),
    Code.AUDIO_NOT_AUDIO: Advice(
        "Another file under a call's name: an error page that was downloaded, a text, an archive, "
        "an encrypted recording; a pipe or a device.",
        _QUARANTINED,
        "Look at it with `file`. Headless telephone audio is named by `--raw`.",
        "[audio.not-audio] a.wav: no decoder can read it (Invalid data found when processing "
        "input). Convert it to WAV or FLAC, or leave it out if it is no recording.",
    ),
    Code.AUDIO_TRUNCATED: Advice(
        "A copy that was broken off, or one that is still under way; a disk or a network that lost "
        "a part of it. The message says where it breaks.",
        f"{_QUARANTINED} A drop folder (`--watch`) waits ten minutes longer for it first.",
        "Copy it again and submit it. To have what it holds transcribed, submit it with "
        "`--truncated take`: the recording is flagged with where it breaks.",
        "[audio.truncated] a.wav: it breaks at 11.00 s: its header promises 132.13 s and it holds "
        "11.00 s. Hand in the complete file, or take what it holds: --truncated take.",
    ),
    Code.AUDIO_BAD_HEADER: Advice(
        "A recorder that died before it wrote its header; an encoding that no decoder here knows.",
        _QUARANTINED,
        "Convert it to WAV or FLAC with a tool of whoever made the recorder.",
        "[audio.bad-header] a.wav: no decoder knows its encoding (wav). Convert it to WAV or FLAC, "
        "or leave it out if it is no recording.",
    ),
    Code.AUDIO_BAD_RATE: Advice(
        "A damaged header, or audio that is no speech.",
        _QUARANTINED,
        "Resample it to between 4,000 Hz and `CALLSCRIBE_MAX_RATE_HZ`.",
        "[audio.bad-rate] a.wav: its sample rate is 1 Hz, not 4000 to 192000 Hz. Look at what "
        "wrote the file, or resample it.",
    ),
    Code.AUDIO_NO_CHANNELS: Advice(
        "A damaged header.",
        _QUARANTINED,
        "Look at what wrote the file.",
        "[audio.no-channels] a.wav: its header says 0 channels. Look at what wrote the file.",
    ),
    Code.AUDIO_TOO_MANY_CHANNELS: Advice(
        "A conference or a studio recorder: which of its channels are speakers nobody has said.",
        _QUARANTINED,
        "Submit it again with `--channels split` (each is a speaker) or `--channels mix`.",
        "[audio.too-many-channels] a.wav: it has 6 channels, and --channels auto takes 2. Submit "
        "it with --channels mix, which decodes their mean, or with --channels split, which takes "
        "each for a speaker.",
    ),
    Code.AUDIO_TOO_SHORT: Advice(
        "A call that was never answered, or a recorder that was started and stopped at once.",
        _QUARANTINED,
        "Nothing: no word fits into a tenth of a second.",
        "[audio.too-short] a.wav: it lasts 40 ms, less than 100 ms. Nothing can be heard in it; "
        "leave it out.",
    ),
    Code.AUDIO_TOO_LONG: Advice(
        "A recorder that was never stopped, or a header that lies.",
        _QUARANTINED,
        "Split it, or raise `CALLSCRIBE_MAX_DURATION_S` where you submit, and submit it again.",
        "[audio.too-long] a.wav: it lasts 86400 s, more than 43200 s. Split it, or raise "
        "CALLSCRIBE_MAX_DURATION_S.",
    ),
    Code.AUDIO_TOO_BIG: Advice(
        "As `audio.too-long`, or a studio's rate and width.",
        _QUARANTINED,
        "Split it, or raise `CALLSCRIBE_MAX_BYTES` where you submit, and submit it again.",
        "[audio.too-big] a.wav: it has 5368709120 bytes, more than 4294967296. Split it, or raise "
        "CALLSCRIBE_MAX_BYTES.",
    ),
    Code.AUDIO_RAW_UNKNOWN: Advice(
        "Samples without a header: nothing in the file says how they are written. Or its suffix "
        "would mean one channel, and its samples are those of two in turn (Asterisk's MixMonitor).",
        _QUARANTINED,
        "Ask whoever runs the exchange, and say it: `--raw .ulaw=mulaw:8000`. A wrong guess is "
        "noise, and is transcribed as such.",
        "[audio.raw-unknown] a.raw: a .raw file has no header that says what it holds. Say it, for "
        "instance --raw .raw=s16le:8000.",
    ),
    Code.AUDIO_CHANGED: Advice(
        "A file that was submitted while it was written; one that was replaced, trimmed or "
        "encoded anew between its submission and its decoding.",
        f"Where the producer sees it: {_QUARANTINED[0].lower()}{_QUARANTINED[1:]} {_GIVEN_UP} "
        "Words of samples that nobody planned are never stored.",
        "Submit the file again, once nobody writes to it. Drop folders: raise `--settle`, or copy "
        "under another name (`call.wav.part`) and rename.",
        "[audio.changed] a.wav: its samples are not those that were planned. Submit it again.",
    ),
    Code.AUDIO_READER_DIED: Advice(
        "A file, broken or made to, that crashes or hangs a decoder's C code, or makes it want "
        "more memory than a reader may have.",
        f"Each file is read in a process of its own, with limits: that alone dies. {_QUARANTINED}",
        "Convert it with another tool, and do not trust it. Where every file ends so, a library is "
        "broken: run what the message says.",
        "[audio.reader-died] a.m4a: its reader was killed by signal 11. Convert it to WAV or FLAC "
        "with another tool, and submit that.",
    ),
    Code.FILE_UNREADABLE: Advice(
        "Permissions; a share that is mounted for somebody else; a key of S3 without "
        "`s3:GetObject`. Of an export: a directory that cannot be written to.",
        f"{_QUARANTINED} {_GIVEN_UP} A directory that cannot be read is noted, and what is in it "
        "left out.",
        "Let the user who submits, and the workers' user, read it (`ls -l`, `namei -l`). Then "
        "submit it again, or `producer retry` where workers could not.",
        "[file.unreadable] a.wav: Permission denied. Let this user read it.",
    ),
    Code.FILE_VANISHED: Advice(
        "A file that was moved or removed after it was found, or before it was decoded: a "
        "recorder's own clean-up, a rotation, a typing error in the command.",
        f"{_QUARANTINED} {_GIVEN_UP} A mistyped path ends the command, with exit code 2.",
        "Put it back, then submit it again. Files must stay until they are transcribed.",
        "[file.vanished] a.wav: it was there when it was handed in. Put it back, then submit it "
        "again.",
    ),
    Code.PATH_OUTSIDE_ROOTS: Advice(
        "The file lies, or a symbolic link leads, where no worker would read.",
        _QUARANTINED,
        "Move it below a root, or add its directory to `CALLSCRIBE_ROOTS` **on every host**, "
        "restart the workers, and submit again. Beside `ops/quickstart --keep`: "
        "`ops/quickstart DIR --keep` adds DIR.",
        "[path.outside-roots] /home/me/a.wav: /home/me/a.wav lies under none of the directories "
        "that workers may read (calls=/srv/calls). Add its directory to CALLSCRIBE_ROOTS: "
        "name=/home/me.",
    ),
    Code.PATH_LOOP: Advice(
        "A symbolic link that leads back into a directory above it, or to itself.",
        f"{_NOTICED}, and the link is not followed. A recording whose path turns into a loop later "
        "is given up.",
        "Remove the link.",
        "[path.loop] /srv/calls/again: a link leads back into a directory above it; it was not "
        "followed.",
    ),
    Code.MANIFEST_INVALID: Advice(
        "No column `file`, a row with more columns, a date that is none, a line that is no JSON, a "
        "workbook.",
        "A row or a field costs itself, and is noted beside the submission. A manifest of which "
        "nothing is understood ends the command, with exit code 2.",
        "Mend the line that it names; save a workbook as CSV.",
        "[manifest.invalid] calls.csv, line 3: it has not 4 columns. A manifest is a CSV whose "
        "header names 'file', or JSON Lines.",
    ),
    Code.MANIFEST_DUPLICATE: Advice(
        "Two rows name one file, perhaps one by its path and one by its name.",
        _NOTHING_DONE,
        "Keep one of the two lines that it names.",
        "[manifest.duplicate] calls.csv: lines 3 and 9 both describe a.wav. Keep one of them.",
    ),
    Code.MANIFEST_UNMATCHED_ROW: Advice(
        "A call whose recording is missing; a row with a name that several files have.",
        f"{_NOTICED}, the files are transcribed, and `submit` ends with exit code 3.",
        "Look for the recording; where several have the name, write the path of one.",
        "[manifest.unmatched-row] calls.csv, line 3: b.wav: no file of this name was submitted.",
    ),
    Code.MANIFEST_UNMATCHED_FILE: Advice(
        "A recording of which the manifest says nothing.",
        f"{_NOTICED}; it is transcribed all the same, without call id or agent.",
        "If it should have a row, add it and submit again: nothing is decoded twice.",
        "[manifest.unmatched-file] calls/c.wav: no row of calls.csv describes it; it is submitted "
        "without.",
    ),
    Code.SIDECAR_INVALID: Advice(
        "A `call.json` that is no JSON, too large, or has a date that is none.",
        f"{_NOTICED}; its call is transcribed without it, or without the field that it names.",
        "Mend it and submit again: nothing is decoded twice.",
        "[sidecar.invalid] calls/a.json: it is no JSON object; the recording is submitted without "
        "it.",
    ),
    Code.OPTION_INVALID: Advice(
        "A misspelt option, profile, model, language or date; options that exclude each other.",
        _NOTHING_DONE,
        "The message says what is known; `producer COMMAND --help` has examples.",
        "[option.invalid] profile nope: neither a built-in profile nor a file. Built in are call, "
        "meeting, lecture, noisy, fast.",
    ),
    Code.HELD: Advice(
        "Somebody holds the call, or its whole line: for a claim, an audit, a court.",
        "`forget` and retention spare it, and erase the others. The command ends with exit code 3.",
        "`producer hold` says why it is held. Whoever may decide lets go: `producer release`.",
        "[held] 1 recordings: they are held, and were not erased (7c2e1b90). Why, and how they are "
        "let go: producer hold",
    ),
    Code.TRANSCRIPT_UNREADABLE: Advice(
        "A newer release stored the transcript, or somebody changed a table by hand.",
        "Its recording is left out and named, `export` and `forget` go on, and `export` ends with "
        "exit code 3.",
        "Export with the release that stored it. If nobody knows one, `producer forget` the "
        "recording and hand its file in again.",
        "[transcript.unreadable] call-7.wav: version 2 of its transcript is not as this release "
        "writes them. Export it with the release that stored it, or hand its file in again.",
    ),
    Code.NOT_FOUND: Advice(
        "An id that is mistyped, that fits several submissions, or that was forgotten; a directory "
        "without recordings; a login for another ledger.",
        "The command ends with exit code 4 and has changed nothing.",
        "`producer status --all` lists submissions. Headless files are left out unless `--raw` "
        "names their suffix.",
        "[not-found] submission 1f3a: there is no such submission. List them: producer status "
        "--all.",
    ),
    Code.SPOOL_FULL: Advice(
        "Copies of what cannot be read in place fill the spool down to "
        "`CALLSCRIBE_SPOOL_RESERVE_BYTES`; or `TMPDIR` is full while objects of S3 are examined.",
        f"{_ENDS}. Copies go when their recordings end, looked through every ten minutes by the "
        "reducer.",
        "Make room, or let the backlog be done; then the same command again. Never delete copies "
        "by hand.",
        "[spool.full] a.mp3: its copy does not fit into the spool (/srv/callscribe/spool). Free "
        "space there, or lower CALLSCRIBE_SPOOL_RESERVE_BYTES; then submit again.",
    ),
    Code.LEDGER_UNREACHABLE: Advice(
        "Postgres is down, starting, full of connections or behind a network that is; a wrong "
        "`CALLSCRIBE_DATABASE_URL`; a transaction of somebody else that holds a lock.",
        "Commands and workers try each transaction again for 20 s, workers then for as long as "
        f"they run. {_ENDS}, with exit code 5.",
        "Bring it back; nothing has to be requeued. If it is up: `producer doctor`, "
        "`pg_stat_activity`, the disk.",
        "[ledger.unreachable] ledger: no answer for 20 s (connection refused). Is Postgres up, and "
        "CALLSCRIBE_DATABASE_URL right?",
    ),
    Code.LEDGER_OUTDATED: Advice(
        "The tables are of an older release than this command, or of a newer one after a rollback.",
        "The command ends with exit code 6 and has changed nothing. Workers of the release before "
        "go on.",
        "Older tables: `producer migrate`, as their owner. Newer tables: use the newer `producer`.",
        "[ledger.outdated] ledger: its revision is 0005, this version needs 0006. Run: producer "
        "migrate.",
    ),
    Code.LEDGER_UNFIT: Advice(
        "A database in SQL_ASCII or LATIN1; one that another application uses, whose tables have "
        "names of ours or that Alembic migrates, too; a standby; a server before Postgres 14.",
        _NOTHING_DONE.replace("2", "6"),
        "The message says which it is. callscribe wants a database of its own in UTF-8: `createdb "
        "--encoding=UTF8 --template=template0 --owner=callscribe callscribe`.",
        "[ledger.unfit] ledger: its encoding is SQL_ASCII, and names and words are UTF-8. Make "
        "another: createdb --encoding=UTF8 --template=template0 NAME",
    ),
    Code.LEDGER_FORBIDDEN: Advice(
        "A login in another role than its process needs, say a reader's for `submit`; a table made "
        "by a migration that did not know the roles.",
        f"{_ENDS}, with exit code 6.",
        "Put the login in its role (README, Security); `producer migrate --roles` grants anew.",
        "[ledger.forbidden] ledger: permission denied for table recordings. Use a login in the "
        "role that this process needs; README.md says which.",
    ),
    Code.BROKER_UNREACHABLE: Advice(
        "Redis is down, full, or refuses the password. Kept for scripts: today's `producer` says "
        "so in a line and goes on, and `doctor` names the cause.",
        "Whatever was not sent is in the ledger, and the sweep sends it when Redis is back.",
        "Bring Redis back, with or without its data; nothing has to be submitted again.",
        "Redis takes no messages: nobody listens there. Is Redis up, and the URL right? The sweep "
        "sends the work when it does.",
    ),
    Code.WEIGHTS_MISSING: Advice(
        "A model that is on some hosts only; `CALLSCRIBE_MODELS` that names another directory, or "
        "one that the workers' user cannot read.",
        f"{_POSTPONED} A host that lacks them pauses, so that others take the work.",
        "On that host: `python -m ops.local.models`, or copy the directory; no restart is needed.",
        "[weights.missing] model whisper-base: /srv/models/whisper-base/model.bin cannot be read: "
        "No such file or directory. Put the model's files there, or point CALLSCRIBE_MODELS at "
        "where they are.",
    ),
    Code.WEIGHTS_CHANGED: Advice(
        "A download that was broken off, a disk that errs, another version of the model, or "
        "somebody who put something else there.",
        f"The file is not loaded. {_POSTPONED}",
        "Fetch it again. If nobody replaced it, look at the disk, and at who may write there.",
        "[weights.changed] model whisper-base: /srv/models/whisper-base/model.bin has the SHA-256 "
        "77..., not d01c.... Fetch the model again.",
    ),
    Code.MEMORY_SHORT: Advice(
        "A model larger than a worker's GPU, or than what other processes leave of it; on a CPU, "
        "than the host's free memory or the service's limit.",
        f"{_POSTPONED} A host on which the profile's `[decode.fallback]` fits decodes with that, "
        "and the recording is flagged `smaller-model`.",
        "See what else holds the memory; choose a smaller model or tier; or name a fallback in "
        "the profile. `producer models` says what models take.",
        "[memory.short] model whisper-large-v3-turbo: it takes 1,620 MB, and 944 MB are free on "
        "cuda:0. Make room, choose a smaller model, or name one as the profile's fallback.",
    ),
    Code.DEVICE_UNUSABLE: Advice(
        "A driver that is older than torch's CUDA wants, or is not loaded; a GPU that another "
        "process has to itself, or that is lost; no cuBLAS 12, which CTranslate2 wants. "
        "A worker tries its device out with a second of silence before it takes a segment.",
        f"{_POSTPONED} Other hosts decode meanwhile.",
        "Run `producer doctor` on that host: it says which driver, CUDA and libraries are there. "
        "Install the extra `cuda` beside `worker`; look at `nvidia-smi`; then restart the worker.",
        "[device.unusable] device cuda:0: CUDA driver version is insufficient for CUDA runtime "
        "version. See the driver, CUDA and libraries of this host: producer doctor.",
    ),
    Code.SETTING_MISSING: Advice(
        "A `CALLSCRIBE_*` variable that is not set or makes no sense; a root that this host does "
        "not know; keys of S3 that are refused; a recording that must be copied, and no spool.",
        f"A command ends with exit code 6; a worker does not start. Of a root: {_POSTPONED}",
        "Set it as on the other hosts; README lists all. `producer doctor` there shows the rest.",
        "[setting.missing] CALLSCRIBE_DATABASE_URL: it is not set. ops/quickstart sets everything "
        "up on one machine; README.md lists the variables.",
    ),
    Code.NAMESPACE_TAKEN: Advice(
        "Two fleets are told one Redis, one of its databases and one namespace: a test beside the "
        "night's fleet, or a copy of its settings. Or a ledger was restored into a new cluster or "
        "database, and the key of the old one's sweep has not expired yet.",
        "Whoever comes second does not start, and hands nothing in: a worker, `submit` and "
        "`recheck --retry` end with exit code 6. Workers that began unseen leave within half a "
        "minute. The fleet that was there first goes on, and logs `namespace_overwritten` if the "
        "other wrote over its key. The key expires two minutes after the last sweep.",
        "Give one of the two fleets a `CALLSCRIBE_NAMESPACE` of its own, on all its hosts, its "
        "producers and Flower. After a restore wait; supervisors start again what ended.",
        "[namespace.taken] namespace callscribe: the fleet of another ledger uses it in this "
        "Redis: database 16384 of cluster 7441526376311422981, not 16390 of 7441526376311422981. "
        "Set CALLSCRIBE_NAMESPACE to another name on all hosts of one of the two. If that fleet "
        "has ended, as before a restore, wait 97 s.",
    ),
    Code.STORAGE_UNREACHABLE: Advice(
        "A share that is not mounted or hangs, an error of a disk, a bucket that does not answer; "
        "a spool that cannot be written to.",
        f"{_POSTPONED} A `submit` ends, with exit code 5 or 6; the same command goes on.",
        "Mount it, or bring the server back. Work goes on by itself.",
        "[storage.unreachable] root calls: /srv/calls is no directory. Is it mounted?",
    ),
    Code.ENGINE_FAILED: Advice(
        "An error while decoding: of the device (CUDA, its driver), of memory, of a library, or of "
        "ours; a decode beyond its time limit.",
        "A strike, and another attempt after a pause; three, and the segment is given up, its "
        "recording `partial` or `failed`. After an error of the device the process is replaced. "
        "Memory that ran out on the device alone costs no strike: minibatches are halved.",
        "Read the traceback (`segment_failed` in the worker's log). Mend it, then `producer retry "
        "ID`. If it is always the same recording and any host, report it with the traceback.",
        "[engine.failed] RuntimeError: CUDA error: an illegal memory access was encountered",
    ),
    Code.ATTEMPTS_EXHAUSTED: Advice(
        "A segment whose worker was killed each time: the kernel's out-of-memory killer, a crash "
        "in a library's C code; or hosts that were lost 20 times.",
        "The segment is given up, so that it kills no more; its recording is `partial` or "
        "`failed`, and its transcript says which stretch is missing.",
        "`dmesg` or the journal of that host, about memory. Give workers more, run fewer on it, "
        "then `producer retry ID`.",
        "[attempts.exhausted] given up after 3 attempts, 3 failed; the last error was: the worker "
        "process died while decoding it",
    ),
    Code.LEASE_LOST: Advice(
        "A worker that stood still, or was cut off from Postgres, for longer than its lease; a "
        "submission that was cancelled or forgotten while it was decoded.",
        "Another worker has the segment; what this one made is not stored. Nothing is doubled.",
        "Nothing for one. For many: `CallscribeLeasesExpiring` in the runbook.",
        "[lease.lost] segment 0a1b2c3d-...: another worker has taken it over, or its recording was "
        "cancelled.",
    ),
    Code.CANCELLED: Advice(
        "`producer cancel`.",
        "What waited is not decoded, and what ran is left within seconds; finished transcripts "
        "stay.",
        "Submit the directory again to have the rest: what is known is not decoded twice.",
    ),
}
