"""The drawn files: readable, repeatable, and safe with any text."""

import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from airflow_provider_evoimage.simulator.drawing import fonts
from airflow_provider_evoimage.simulator.drawing.images import contrast, draw, ink_for, shades
from airflow_provider_evoimage.simulator.drawing.pictures import Picture, Reference

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


DEJAVU = "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf"


@pytest.fixture
def system_fonts(monkeypatch):
    """Choose which fonts this machine has."""

    def use(*paths):
        monkeypatch.setattr(fonts, "SYSTEM_FONTS", paths)
        fonts.lettering.cache_clear()

    yield use
    fonts.lettering.cache_clear()


@pytest.mark.parametrize("prompt", ["a red fox", "Żółć naïve café — “quotes” ½ Ærø", "line\nbreak\x00\u200b"])
def test_latin_text_looks_the_same_on_every_machine(system_fonts, prompt):
    system_fonts()
    alone = fonts.lettering(prompt)
    system_fonts(DEJAVU)
    assert fonts.lettering(prompt) == alone
    assert alone.path is None


@pytest.mark.parametrize(
    "prompt", ["日本語の猫", "가나다 한국어", "中文提示词", "🐈🦊 fox", "مرحبا", "हिन्दी"]
)
def test_letters_no_font_has_are_boxes_and_counted(system_fonts, prompt):
    system_fonts("/nowhere/NotoSansCJK-Regular.ttc")
    letters = fonts.lettering(prompt)
    assert letters.path is None
    assert letters.missing >= 2
    bare = draw(picture(prompt))
    assert bare.startswith(b"\x89PNG")


@pytest.mark.skipif(not Path(DEJAVU).is_file(), reason="DejaVu Sans is not installed")
@pytest.mark.parametrize(
    ("prompt", "to_the_left"), [("Ελληνικά", False), ("привет, мир", False), ("שלום fox 12", True)]
)
def test_system_font_is_used_where_it_has_the_letters(system_fonts, prompt, to_the_left):
    system_fonts(DEJAVU)
    letters = fonts.lettering(prompt)
    assert (letters.path, letters.missing, letters.right_to_left) == (DEJAVU, 0, to_the_left)
    assert letters.text == prompt
    assert draw(picture(prompt)).startswith(b"\x89PNG")


def test_text_to_the_left_is_ordered_without_help_of_the_font_library(monkeypatch):
    monkeypatch.setattr(fonts.features, "check", lambda name: False)
    assert fonts.visual("אבג abc 12") == "12 abc גבא"
    assert fonts.visual("abc") == "abc"


@pytest.mark.parametrize("count", [1, 16])
@pytest.mark.parametrize("size", [(16, 16), (3840, 16), (1024, 1024)])
def test_any_references_can_be_shown_at_any_size(count, size):
    file = io.BytesIO()
    Image.new("RGBA", (192, 20), (255, 0, 0, 128)).save(file, "PNG")
    shown = tuple(Reference(f"{number}-{'x' * 300}.png", file.getvalue()) for number in range(count))
    image = Image.open(io.BytesIO(draw(picture(width=size[0], height=size[1], references=shown))))
    assert image.size == size
