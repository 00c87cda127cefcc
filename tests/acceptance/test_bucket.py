"""Two worker hosts that read recordings by ranges from a bucket, and one that is parted from it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ops.chaos.field import Field, wait_for
from ops.chaos.network import Network
from tests.acceptance.hosts import NAME, NEAR, check, decoding_on, undisturbed
from tests.s3server import S3Server

pytestmark = pytest.mark.models


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with S3Server(everywhere=True) as server:
        yield server


@pytest.fixture(scope="module")
def field(
    make_field,
    network: Network,
    server: S3Server,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Field]:
    """A field whose producer sees a directory, and whose workers see a copy in a bucket."""

    def own(host: str) -> dict[str, str]:
        there = server.environment_at(network.address(host, "store"))
        return {"CALLSCRIBE_ROOTS": "calls=s3://audio", **there}

    with make_field(tmp_path_factory.mktemp("bucket"), own) as field:
        client = server.client()
        client.create_bucket(Bucket="audio")
        client.upload_file(str(field.calls / NAME), "audio", NAME)
        yield field


def test_a_host_parted_from_the_bucket_tries_again(
    network: Network, field: Field, server: S3Server
):
    baseline = undisturbed(field)
    reads = [asked for asked in server.asked if asked.method == "GET" and asked.range]
    assert reads, "the workers read ranges"

    with field.held(NEAR):
        submission = field.submit()
        parted = decoding_on(field, NEAR)
        network.cut(NEAR, "store")
    reason = "select error_code from segments where id = :i"
    wait_for(
        lambda: field.scalar(reason, i=parted) == "storage.unreachable",
        what="the near host's giving up",
    )
    network.mend()

    check(field, submission, baseline)
    assert field.scalar("select max(strikes) from segments") == 0
