"""The drawn files: readable, repeatable, and safe with any text."""

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from airflow_provider_evoimage.simulator.images import Picture, contrast, draw, ink_for, shades

NORMAL_TEXT_CONTRAST = 4.5


def picture(prompt="a red fox", **fields):
    given = {
        "model": "gpt-image-1.5",
        "quality": "low",
        "width": 1024,
        "height": 1024,
        "index": 0,
        "count": 1,
    }
    return Picture(prompt=prompt, **(given | fields))


@given(st.text(), st.integers(0, 14))
def test_text_is_readable_on_every_shade(prompt, index):
    prompt = prompt.encode(errors="replace").decode()
    top, bottom = shades(picture(prompt, index=index, count=15))
    ink = ink_for(top, bottom)
    assert min(contrast(ink, top), contrast(ink, bottom)) >= NORMAL_TEXT_CONTRAST


def test_every_image_of_a_generation_has_its_own_shade():
    assert len({shades(picture(index=index, count=15)) for index in range(15)}) == 15


@settings(max_examples=25, deadline=None)
@given(
    st.text(max_size=200),
    st.sampled_from([(1024, 1536), (16, 16), (3840, 16), (16, 3840)]),
    st.sampled_from(["png", "jpeg", "webp"]),
)
def test_any_text_can_be_drawn_at_any_size(prompt, size, file_format):
    prompt = prompt.encode(errors="replace").decode()
    file = draw(picture(prompt, width=size[0], height=size[1], file_format=file_format))
    image = Image.open(io.BytesIO(file))
    image.load()
    assert image.size == size
    assert image.format == file_format.upper()


@pytest.mark.parametrize(
    "prompt", ["日本語の猫 🐈", "naïve café × “quotes”", "line\nbreak\x00\x07", "x" * 3000]
)
def test_letters_the_font_lacks_do_not_crash(prompt):
    assert draw(picture(prompt)).startswith(b"\x89PNG")


def test_prompt_is_really_written():
    written = picture("words words words")
    image = Image.open(io.BytesIO(draw(written))).convert("RGB")
    colours = {colour for _, colour in image.getcolors(maxcolors=2**20)}
    assert ink_for(*shades(written)) in colours


def test_same_picture_gives_the_same_bytes():
    first = draw(picture(width=1536))
    draw.cache_clear()
    assert draw(picture(width=1536)) == first


def test_transparent_background_is_transparent():
    image = Image.open(io.BytesIO(draw(picture(transparent=True))))
    assert image.mode == "RGBA"
    assert image.getpixel((0, 0))[3] == 0
    assert image.getpixel((512, 300))[3] == 255
