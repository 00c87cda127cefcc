"""Damage that can be repeated, and that reaches what it is aimed at."""

import io

import pytest
import soundfile

from ops.chaos.mutate import MOST_BYTES, Dice, mutated, split
from ops.chaos.ogg import pages, with_checksums
from ops.chaos.seeds import Seed, seeds
from tests.unit.producer import sounds


@pytest.fixture(scope="module")
def all_seeds():
    return seeds()


def vorbis():
    file = io.BytesIO()
    soundfile.write(file, sounds.voice(2), 8_000, format="OGG")
    return file.getvalue()


def test_seeds_are_the_same_each_time(all_seeds):
    assert seeds() == all_seeds


def test_a_case_depends_on_the_seed_and_its_number_alone(all_seeds):
    sound = all_seeds[0]

    def damaged(seed, number):
        return mutated(sound, all_seeds, Dice(seed, number))

    assert damaged(1, 7) == damaged(1, 7)
    assert len({damaged(1, 7), damaged(1, 8), damaged(2, 7)}) == 3


def test_any_seed_can_be_damaged_and_none_grows_without_bound(all_seeds):
    for number in range(300):
        dice = Dice(5, number)
        assert len(mutated(dice.pick(all_seeds), all_seeds, dice)) <= MOST_BYTES


def test_what_is_left_of_a_file_can_be_damaged_further():
    empty = Seed("empty", ".wav", b"", 8_000, 1)

    assert all(isinstance(mutated(empty, [empty], Dice(1, number)), bytes) for number in range(200))


def test_chunks_are_found_and_join_to_the_file_again(all_seeds):
    assert all(b"".join(split(seed.data)) == seed.data for seed in all_seeds)
    chunks = {seed.label: split(seed.data) for seed in all_seeds}
    assert [chunk[:4] for chunk in chunks["wav float"][1:5]] == [b"fmt ", b"fact", b"PEAK", b"data"]
    assert sum(chunk.startswith(b"OggS") for chunk in chunks["ogg vorbis"]) > 10
    assert any(chunk[4:8] == b"stts" for chunk in chunks["m4a aac"])


def test_checksums_are_those_that_libvorbis_writes():
    data = vorbis()

    assert len(list(pages(data))) > 2
    assert with_checksums(data) == data
    assert with_checksums(data, serial=9) != data
    assert len(soundfile.read(io.BytesIO(with_checksums(data, serial=9)))[0]) == 16_000
