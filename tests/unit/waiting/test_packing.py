"""Ids in little space: every list comes back as it was, and a batch of real ids fits into a database row."""

import random
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_evoimage.exceptions import InvalidRequestError
from airflow_provider_evoimage.waiting.packing import pack_ids, unpack_ids


@given(st.lists(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}", fullmatch=True), max_size=50))
def test_ids_come_back_in_their_order(ids: list[str]) -> None:
    packed = pack_ids(ids)
    assert unpack_ids(packed) == ids
    assert packed.isascii()


def test_two_thousand_real_ids_fit_into_half_of_the_smallest_database_column() -> None:
    chance = random.Random(1)
    letters = string.ascii_lowercase + string.digits
    ids = [
        f"task-unified-{1757156400 + number // 4}-{''.join(chance.choices(letters, k=8))}"
        for number in range(2000)
    ]
    # 64 KB: a TEXT of MySQL. Airflow's encryption of a row adds a third.
    assert len(pack_ids(ids)) < 24_000


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError):
        unpack_ids(f"{text}?")


@pytest.mark.parametrize("text", ["task-unified-1757156400-abcdefgh", "eJw=", "AAAA"])
def test_an_id_is_no_packed_list(text: str) -> None:
    with pytest.raises(InvalidRequestError):
        unpack_ids(text)


def test_packed_ids_with_other_characters_within_are_refused() -> None:
    packed = pack_ids(["task-unified-1757156400-abcdefgh"])
    with pytest.raises(InvalidRequestError):
        unpack_ids(f"{packed[:4]}\n{packed[4:]}")


def test_an_id_of_several_words_is_no_two_ids() -> None:
    assert unpack_ids(pack_ids(["a\tb", "c"])) == ["a\tb", "c"]
