"""The channels, and the size that is requested for each: nearest to what the channel takes, and one the model has."""

from __future__ import annotations

import math
import re
from datetime import date
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_provider_evoimage.evolink.model_facts import MODELS, PixelSizes
from airflow_provider_evoimage.exceptions import InvalidRequestError
from airflow_provider_evoimage.images.channels import CHANNELS, FORMATS, Channel, Rendition, channels_of
from airflow_provider_evoimage.images.native_sizes import _free_size, native_size, resolved_size


@pytest.mark.parametrize("channel", CHANNELS.values(), ids=lambda channel: channel.name)
def test_each_channel_has_a_source_a_date_and_possible_figures(channel: Channel):
    assert channel.source
    assert date.fromisoformat(channel.as_of) <= date(2026, 12, 31)
    assert set(channel.formats) <= set(FORMATS)
    assert channel.width > 0
    assert 0 <= channel.safe_top + channel.safe_bottom < channel.height
    assert channel.max_bytes is None or channel.max_bytes >= 150_000


def test_channels_have_the_published_pixels():
    pixels = {name: (channel.width, channel.height) for name, channel in CHANNELS.items()}
    assert pixels["google.landscape"] == (1200, 628)
    assert pixels["google.square"] == (1200, 1200)
    assert pixels["google.portrait"] == (960, 1200)
    assert pixels["meta.feed"] == (1080, 1350)
    assert pixels["meta.square"] == (1080, 1080)
    assert pixels["meta.story"] == (1080, 1920)
    assert (CHANNELS["meta.story"].safe_top, CHANNELS["meta.story"].safe_bottom) == (250, 340)
    assert min(pixels["amazon.main"]) >= 1000
    assert CHANNELS["amazon.main"].background == "#ffffff"
    assert all(CHANNELS[name].max_bytes == 150_000 for name in CHANNELS if "banner" in name)


def test_page_lists_every_channel_as_the_table_has_it():
    page = (Path(__file__).parents[3] / "docs" / "renditions.md").read_text(encoding="utf-8")
    for channel in CHANNELS.values():
        row = next(line for line in page.splitlines() if line.startswith(f"| `{channel.name}` |"))
        assert f"| {channel.width}×{channel.height} | {', '.join(channel.formats)} |" in row
        assert channel.source in row
        assert channel.as_of in row
        assert f"{channel.max_bytes:,}" in row
        assert channel.note in row


def test_story_of_gpt_image_2_loses_almost_nothing():
    found = native_size("gpt-image-2", CHANNELS["meta.story"])
    assert found.size == "1088x1920"
    assert round(found.cropped * 100, 1) == 0.7
    assert found.scaled == 1.0
    assert str(found) == "size=1088x1920 for meta.story (1080×1920): 0.7% will be cropped, scaled by 1.00"


def test_story_of_gpt_image_1_5_loses_a_sixth_and_is_enlarged():
    found = native_size("gpt-image-1.5", CHANNELS["meta.story"])
    assert found.size == "1024x1536"
    assert round(found.cropped * 100, 1) == 15.6
    assert found.scaled == 1.25


def test_model_of_ratios_has_the_nearest_ratio():
    found = native_size("gpt-image-2-beta", CHANNELS["meta.story"])
    assert (found.size, found.cropped, found.scaled) == ("9:16", 0.0, None)


@given(st.sampled_from(sorted(MODELS)), st.integers(1, 16_383), st.integers(1, 16_383))
def test_every_model_has_a_size_for_every_channel_that_it_takes(model: str, width: int, height: int):
    found = native_size(model, Rendition("own", width=width, height=height))
    assert MODELS[model].allows_size(found.size)
    assert 0 <= found.cropped < 1


FREE = PixelSizes(
    multiple_of=16, min_edge=16, max_edge=3840, min_pixels=655_360, max_pixels=8_294_400, max_ratio=2.5
)


@given(st.integers(1, 16_383), st.integers(1, 16_383))
@example(1640, 656)
@example(656, 1640)
def test_free_size_covers_a_channel_that_the_model_can_draw(width: int, height: int):
    wide, high = _free_size(FREE, Rendition("own", width=width, height=height))
    long = max(width, height)
    short = max(min(width, height), long / FREE.max_ratio)
    if long > FREE.max_edge or long * short > FREE.max_pixels:
        return
    assert FREE.allows(wide, high)
    assert wide >= width
    assert high >= height
    # And not more than that: a rounded edge is 15 pixels longer at the most, and once more to keep the ratio.
    area = max(long * short, FREE.min_pixels)
    assert (
        wide * high
        <= (math.sqrt(area * FREE.max_ratio) + 32) * (math.sqrt(area / FREE.max_ratio) + 32) + 32 * long
    )


def test_size_for_a_channel_is_replaced_and_others_stay():
    assert resolved_size("gpt-image-2", " for:meta.story")[0] == "1088x1920"
    assert resolved_size("gpt-image-2", "1:1") == ("1:1", "")
    assert resolved_size("gpt-image-2", None) == (None, "")
    with pytest.raises(
        InvalidRequestError, match=r"Unknown channel 'tiktok'. Available channels: google\.landscape"
    ):
        resolved_size("gpt-image-2", "for:tiktok")
    with pytest.raises(InvalidRequestError, match="needs a model whose sizes are known"):
        resolved_size("somebody-elses", "for:meta.story")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "a/b"}, "name of a rendition"),
        ({"width": 0}, "width and height"),
        ({"height": 20_000}, "width and height"),
        ({"width": True}, "width and height"),
        ({"format": "gif"}, "format must be one of jpeg, png, webp"),
        ({"max_kb": 0}, "max_kb must be above 0"),
    ],
)
def test_impossible_rendition_is_refused(arguments: dict[str, object], message: str):
    with pytest.raises(InvalidRequestError, match=re.escape(message)):
        Rendition(**{"name": "hero", "width": 2400, "height": 1000} | arguments)


def test_renditions_are_names_or_objects_and_differ():
    hero = Rendition("hero", width=2400, height=1000, format="webp", max_kb=150)
    assert channels_of(["meta.story", hero]) == [CHANNELS["meta.story"], hero]
    assert (hero.formats, hero.max_bytes) == (("webp",), 150_000)
    for wrong in ([], [hero, hero]):
        with pytest.raises(InvalidRequestError, match="must be different names"):
            channels_of(wrong)
