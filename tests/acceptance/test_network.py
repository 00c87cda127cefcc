"""Two worker hosts on networks of their own: parted from a server, they cost time and no word."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import text

from ops.chaos.field import Field, Words, wait_for
from ops.chaos.network import Network
from tests.acceptance.hosts import FAR, NEAR, check, decoding_on, undisturbed

pytestmark = pytest.mark.models


@pytest.fixture(scope="module")
def field(make_field, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    with make_field(tmp_path_factory.mktemp("shared")) as field:
        yield field


@pytest.fixture(scope="module")
def baseline(field: Field) -> Words:
    return undisturbed(field)


@pytest.fixture(autouse=True)
def _afterwards(network: Network, field: Field) -> Iterator[None]:
    yield
    network.mend()
    field.heal()
    field.ledger.transact(lambda c: c.execute(text("truncate submissions cascade")))


def test_every_worker_is_on_a_host_of_its_own(field: Field, baseline: Words):
    with field.held():
        submission = field.submit()
        owners = field.wait_until_all_decode().values()
        addresses = field.scalar(
            "select count(distinct client_addr) from pg_stat_activity where client_addr is not null"
        )
    assert {owner.partition(":")[0] for owner in owners} == {NEAR, FAR}
    assert addresses == 2
    check(field, submission, baseline)


def test_a_host_parted_from_postgres_is_replaced_and_then_fenced(
    network: Network, field: Field, baseline: Words
):
    fenced = field.logged("write_fenced")
    with field.held(NEAR):
        submission = field.submit()
        parted = decoding_on(field, NEAR)
        network.cut(NEAR, "postgres")
        wait_for(
            lambda: field.scalar("select state from segments where id = :i", i=parted) == "done",
            what="the far host's finish",
        )
        network.mend()

    check(field, submission, baseline)
    wait_for(lambda: field.logged("write_fenced") > fenced, what="the late one's refusal")
    assert field.scalar("select attempts from segments where id = :i", i=parted) == 2


def test_a_host_parted_from_redis_still_stores_what_it_has(
    network: Network, field: Field, baseline: Words
):
    with field.held(NEAR):
        submission = field.submit()
        parted = decoding_on(field, NEAR)
        network.cut(NEAR, "redis")

    check(field, submission, baseline)
    assert field.scalar("select attempts from segments where id = :i", i=parted) == 1

    network.mend()
    with field.held():
        again = field.submit()
        field.wait_until_all_decode()
    check(field, again, baseline)
