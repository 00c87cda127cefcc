import os
import signal
from itertools import count, islice

import psutil
import pytest

from producer.intake.reader_pool import ReaderDied, Tick, run_jobs
from schema.errors import ErrorCode, Misconfigured


def work(job):
    """Do as the job says; children import this module to find it."""
    match job:
        case "die":
            os._exit(3)
        case "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "hang":
            signal.pause()
        case "raise":
            raise Misconfigured(ErrorCode.SPOOL_FULL, "call", "it is full", "Empty it.")
        case "allocate":
            return len(bytearray(10 * 1024**3))
        case "chatter":
            os.write(1, b"noise\n")
            os.write(2, b"noise\n")
    return f"done {job}"


def unpicklable(job):
    raise AssertionError("never called")


def a_minute(_):
    return 60.0


def children():
    """Return the pool's children, and not the servers of other tests."""
    ours = psutil.Process().children()
    return [
        child
        for child in ours
        if any("producer.intake.reader_pool" in word for word in child.cmdline())
    ]


def test_every_job_is_done_once():
    results = list(run_jobs(work, range(100), a_minute, max_children=2))

    assert sorted(results) == sorted(f"done {job}" for job in range(100))
    assert children() == []


def test_without_jobs_no_process_starts(monkeypatch):
    monkeypatch.setattr("subprocess.Popen", None)

    assert list(run_jobs(work, [], a_minute)) == []


@pytest.mark.parametrize(
    ("poison", "cause"),
    [("die", "exited with status 3"), ("segfault", f"killed by signal {int(signal.SIGSEGV)}")],
)
def test_a_job_that_kills_its_process_costs_only_itself(poison, cause):
    jobs = [1, 2, poison, 3, 4]

    results = list(run_jobs(work, jobs, a_minute, max_children=1))

    (died,) = [result for result in results if isinstance(result, ReaderDied)]
    assert died.job == poison
    assert cause in died.cause
    assert sorted(set(results) - {died}) == ["done 1", "done 2", "done 3", "done 4"]


def test_a_job_that_hangs_is_given_up():
    def limit_s(job):
        return 0.2 if job == "hang" else 60.0

    # The first job lets the process start before the clock of the second does.
    results = list(run_jobs(work, [1, "hang", 2], limit_s, max_children=1))

    assert results == ["done 1", ReaderDied("hang", "it took too long"), "done 2"]
    assert children() == []


def test_a_long_job_lets_its_caller_do_something_else_meanwhile():
    def limit_s(job):
        return 0.5

    results = list(run_jobs(work, ["hang"], limit_s, max_children=1, tick_s=0.05))

    assert results[-1] == ReaderDied("hang", "it took too long")
    assert {type(result) for result in results[:-1]} == {Tick}


def test_an_allocation_beyond_all_measure_fails_in_the_child():
    with pytest.raises(MemoryError):
        list(run_jobs(work, ["allocate"], a_minute, max_children=1))


def test_what_a_job_raises_is_raised_here_and_ends_everything():
    with pytest.raises(Misconfigured) as caught:
        list(run_jobs(work, [1, "raise", 2], a_minute, max_children=1))

    assert caught.value.code is ErrorCode.SPOOL_FULL
    assert children() == []


def test_jobs_are_taken_only_as_they_are_done():
    jobs_taken = count()
    results = run_jobs(work, (next(jobs_taken) for _ in range(10**9)), a_minute, max_children=2)

    assert len(list(islice(results, 5))) == 5
    assert next(jobs_taken) < 200
    results.close()


def test_closing_the_iteration_leaves_no_process():
    results = run_jobs(work, iter(range(10**9)), a_minute, max_children=2)
    next(results)
    started = children()

    results.close()

    assert started
    assert not any(child.is_running() for child in started)


def test_an_interrupted_iteration_leaves_no_process():
    def jobs():
        yield from range(40)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(run_jobs(work, jobs(), a_minute, max_children=2))

    assert children() == []


def test_a_child_ends_when_its_parent_is_gone():
    results = run_jobs(work, iter(range(10**9)), a_minute, max_children=1)
    next(results)
    (child,) = children()
    frame = results.gi_frame.f_locals["pool"]
    frame._children[0].connection.close()

    child.wait(timeout=30)

    assert not child.is_running()
    results.close()


def test_children_keep_what_libraries_print_to_themselves(capfd):
    assert list(run_jobs(work, ["chatter"], a_minute, max_children=1)) == ["done chatter"]
    assert capfd.readouterr() == ("", "")


def test_children_that_cannot_start_are_the_hosts_fault(monkeypatch):
    monkeypatch.setattr("producer.intake.reader_pool._CHILD_CODE", "raise SystemExit(1)")

    with pytest.raises(Misconfigured, match="cannot start"):
        list(run_jobs(work, [1, 2, 3], a_minute, max_children=1))
