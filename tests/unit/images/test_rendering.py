"""Renditions: exact pixels, small enough, an allowed format, sRGB; what no crop gives is refused with the loss."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from airflow_provider_evoimage.exceptions import InvalidRequestError
from airflow_provider_evoimage.images.channels import CHANNELS, Channel, Rendition
from airflow_provider_evoimage.images.rendering import (
    Encoded,
    checked_focus,
    open_for_rendering,
    plan_for,
    render,
)


def photo(path: Path, size: tuple[int, int], mode: str = "RGB") -> Path:
    noise = Image.effect_noise(size, 60)
    Image.merge("RGB", [noise, noise.rotate(90), noise.rotate(180)]).convert(mode).save(path, "PNG")
    return path


def rendered(path: Path, channel: Channel, fit: str = "cover", background: str | None = None) -> Encoded:
    with Image.open(path) as image:
        plan = plan_for(*image.size, channel, fit=fit, focus="center")
    return render(open_for_rendering(path), channel, plan, background=background)


@pytest.mark.parametrize("channel", CHANNELS.values(), ids=lambda channel: channel.name)
def test_every_channel_gets_its_pixels_format_and_size(tmp_path: Path, channel: Channel):
    path = photo(tmp_path / "photo.png", (1200, 1200))
    is_far = max(channel.ratio, 1 / channel.ratio) > 2.5
    found = rendered(path, channel, "pad" if is_far else "cover", "#ffffff")
    with Image.open(io.BytesIO(found.content)) as image:
        image.load()
        assert image.size == (channel.width, channel.height) == (found.width, found.height)
        assert image.format == found.format.upper()
        assert image.mode == "RGB"
        assert "icc_profile" not in image.info
    assert found.format in channel.formats
    assert channel.max_bytes is None or len(found.content) <= channel.max_bytes


def test_leaderboard_of_a_square_is_refused_with_the_loss():
    with pytest.raises(InvalidRequestError, match=r"would lose 88% of an image of 1024×1024"):
        plan_for(1024, 1024, CHANNELS["google.banner_728x90"], fit="cover", focus="center")


def test_same_image_gives_the_same_bytes(tmp_path: Path):
    path = photo(tmp_path / "photo.png", (640, 480))
    free = rendered(path, Rendition("free", width=400, height=300, format="webp"))
    most = len(free.content) * 0.7
    hero = Rendition("hero", width=400, height=300, format="webp", max_kb=most / 1000)
    found = rendered(path, hero)
    assert found == rendered(path, hero)
    assert len(found.content) <= most
    assert found.quality is not None
    assert found.quality < 92


def test_quality_is_the_best_that_fits(tmp_path: Path):
    path = photo(tmp_path / "photo.png", (640, 480))
    free = rendered(path, Rendition("free", width=400, height=300))
    assert free.quality == 92
    with pytest.raises(InvalidRequestError, match="no quality is small enough as jpeg"):
        rendered(path, Rendition("tiny", width=400, height=300, max_kb=1))


def test_transparency_is_kept_or_needs_a_background(tmp_path: Path):
    path = tmp_path / "logo.png"
    Image.new("RGBA", (300, 300), (255, 0, 0, 0)).save(path)
    kept = rendered(path, CHANNELS["google.logo"])
    assert kept.format == "png"
    with Image.open(io.BytesIO(kept.content)) as image:
        assert image.mode == "RGBA"
    with pytest.raises(InvalidRequestError, match="which has no transparency: set background"):
        rendered(path, Rendition("flat", width=100, height=100))
    white = rendered(path, CHANNELS["amazon.main"])
    with Image.open(io.BytesIO(white.content)) as image:
        assert image.getpixel((5, 5)) == (255, 255, 255)
    with pytest.raises(InvalidRequestError, match="is no colour"):
        rendered(path, Rendition("flat", width=100, height=100), background="very white")


def test_contain_keeps_the_ratio_and_pad_fills_the_rest(tmp_path: Path):
    path = photo(tmp_path / "photo.png", (200, 100))
    own = Rendition("own", width=100, height=100)
    assert (rendered(path, own, "contain").width, rendered(path, own, "contain").height) == (100, 50)
    padded = rendered(path, own, "pad", "#00ff00")
    with Image.open(io.BytesIO(padded.content)) as image:
        assert image.size == (100, 100)
        assert image.getpixel((50, 5))[1] > 200
    with pytest.raises(InvalidRequestError, match="needs a background"):
        rendered(path, own, "pad")
    with pytest.raises(InvalidRequestError, match="differs by 100% in its ratio"):
        rendered(path, CHANNELS["meta.square"], "contain")


def test_colours_become_srgb_and_exif_turns_the_image(tmp_path: Path):
    path = tmp_path / "photo.jpg"
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Image.new("RGB", (60, 40), "blue")
    picture.save(path, icc_profile=lab, exif=exif)
    with Image.open(path) as image:
        assert image.size == (60, 40)
    with pytest.raises(InvalidRequestError, match="has 40×60 pixels upright, not 60×40"):
        rendered(path, Rendition("own", width=60, height=40))
    found = render(
        open_for_rendering(path),
        Rendition("own", width=40, height=60, format="png"),
        plan_for(40, 60, Rendition("own", width=40, height=60), fit="cover", focus="center"),
        background=None,
    )
    with Image.open(io.BytesIO(found.content)) as image:
        assert image.size == (40, 60)
        assert image.getpixel((1, 1))[2] > 240


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_every_mode_is_rendered(tmp_path: Path, mode: str):
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    grey = Image.linear_gradient("L").resize((80, 80))
    image = (
        grey.convert("I").point(lambda value: value * 257).convert("I;16")
        if mode == "I;16"
        else grey.convert(mode)
    )
    image.save(path)
    found = rendered(path, Rendition("own", width=40, height=40, format="png"), background="#ffffff")
    with Image.open(io.BytesIO(found.content)) as result:
        assert result.mode == "RGB"
        if mode in {"L", "I;16", "RGBA"}:
            assert abs(result.getpixel((20, 20))[0] - 128) < 12


def test_focus_moves_the_crop():
    left = plan_for(200, 100, Rendition("own", width=100, height=100), fit="cover", focus=(0.0, 0.5))
    right = plan_for(200, 100, Rendition("own", width=100, height=100), fit="cover", focus=(1.0, 0.5))
    assert (left.box[0], right.box[2]) == (0, 200)
    assert left.cropped == 0.5
    assert checked_focus([0.2, 1]) == (0.2, 1.0)
    for wrong in ("left", (2, 0), (0.1,), (True, 0)):
        with pytest.raises(InvalidRequestError, match="focus must be"):
            checked_focus(wrong)


@given(*[st.integers(1, 4000)] * 4, st.sampled_from(["cover", "contain", "pad"]))
def test_plan_stays_within_the_image_or_is_refused(width: int, height: int, wide: int, high: int, fit: str):
    own = Rendition("own", width=wide, height=high)
    cropped = 1 - min(width / height / own.ratio, own.ratio / (width / height))
    if fit == "cover" and cropped > 0.6:
        with pytest.raises(InvalidRequestError, match="would lose"):
            plan_for(width, height, own, fit=fit, focus=(0.3, 0.9))
        return
    plan = plan_for(width, height, own, fit=fit, focus=(0.3, 0.9))
    left, top, right, bottom = plan.box
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    assert 0 <= plan.cropped <= 0.6 + 1e-6
    assert fit == "contain" or plan.canvas == (wide, high)
