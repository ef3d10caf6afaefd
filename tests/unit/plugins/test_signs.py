"""Pictures of words: readable as XML whatever the words are."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_evoimage.plugins.signs import sign


def words_of(picture: bytes) -> str:
    root = ET.fromstring(picture)
    return " ".join(each.text or "" for each in root.iter("{http://www.w3.org/2000/svg}text"))


def test_sign_names_reason_and_folder():
    words = words_of(sign("Its folder is not listed.", "s3://shop/campaign/a.png"))
    assert words == "Not shown. Its folder is not listed. s3://shop/campaign"


def test_markup_is_shown_as_text():
    picture = sign("<script>alert(1)</script>", "")
    assert b"<script" not in picture
    assert "<script>alert(1)</script>" in words_of(picture)


@given(reason=st.text(), path=st.text(max_size=2_000))
def test_every_text_gives_a_readable_picture_of_bounded_size(reason: str, path: str):
    root = ET.fromstring(sign(reason, path))
    folder_lines = 4
    assert int(root.attrib["height"]) <= 24 + 18 * (len(reason) + 2 + folder_lines)
