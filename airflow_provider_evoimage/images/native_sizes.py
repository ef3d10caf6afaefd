"""The size to request for a channel: the one of a model of which the least is cropped and enlarged. Pure."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from airflow_provider_evoimage.evolink.model_facts import MODELS, PixelSizes, facts_of
from airflow_provider_evoimage.exceptions import InvalidRequestError
from airflow_provider_evoimage.images.channels import Channel, channel_named

_FOR = "for:"
_PIXELS = re.compile(r"(\d+)x(\d+)")
_RATIO = re.compile(r"(\d+):(\d+)")


@dataclass(frozen=True, kw_only=True)
class NativeSize:
    """A size of a model, and what a channel makes of it.

    :param size: as EvoLink takes it.
    :param cropped: share of the picture that is cut off to get the channel's ratio, 0 to 1.
    :param scaled: factor from the cropped picture to the channel's pixels; above 1 it is enlarged. None where the
        model's pixels are unknown.
    """

    channel: Channel
    size: str
    cropped: float
    scaled: float | None

    def __str__(self) -> str:
        """Describe it in one line."""
        channel = self.channel
        scaled = "" if self.scaled is None else f", scaled by {self.scaled:.2f}"
        takes = f"{channel.name} ({channel.width}×{channel.height})"
        return f"size={self.size} for {takes}: {self.cropped:.1%} will be cropped{scaled}"


def native_size(model: str, channel: Channel) -> NativeSize:
    """Return the nearest size that a model draws.

    :raises InvalidRequestError: when the sizes of the model are unknown.
    """
    facts = facts_of(model)
    if facts is None:
        raise InvalidRequestError(
            f"size='for:{channel.name}' needs a model whose sizes are known: {', '.join(MODELS)}. Not {model!r}."
        )
    found = []
    if facts.pixel_sizes is not None:
        width, height = _free_size(facts.pixel_sizes, channel)
        if facts.pixel_sizes.allows(width, height):
            found.append(_of_pixels(channel, width, height))
    if not found:
        pixels = [_PIXELS.fullmatch(size) for size in facts.sizes]
        found = [_of_pixels(channel, int(each[1]), int(each[2])) for each in pixels if each]
    if not found:
        ratios = [_RATIO.fullmatch(size) for size in facts.sizes]
        found = [
            NativeSize(
                channel=channel,
                size=each[0],
                cropped=cropped_share(int(each[1]) / int(each[2]), channel.ratio),
                scaled=None,
            )
            for each in ratios
            if each
        ]
    return min(found, key=lambda each: (each.cropped, each.scaled or 0))


def resolved_size(model: str, size: object) -> tuple[object, str]:
    """Replace ``for:channel`` by a size of the model.

    :returns: the size, and what will be lost in words; any other size as it is, with no words.
    :raises InvalidRequestError: when the channel is unknown, or the sizes of the model are.
    """
    if not isinstance(size, str) or not size.strip().startswith(_FOR):
        return size, ""
    found = native_size(model, channel_named(size.strip().removeprefix(_FOR)))
    return found.size, str(found)


def cropped_share(ratio: float, wanted: float) -> float:
    """Return the share of a picture that is cut off to change its ratio."""
    return 1 - min(ratio / wanted, wanted / ratio)


def _of_pixels(channel: Channel, width: int, height: int) -> NativeSize:
    return NativeSize(
        channel=channel,
        size=f"{width}x{height}",
        cropped=cropped_share(width / height, channel.ratio),
        scaled=max(channel.width / width, channel.height / height),
    )


def _free_size(sizes: PixelSizes, channel: Channel) -> tuple[int, int]:
    """Return the smallest free size that covers a channel, within the limits of the model."""

    def up(edge: float) -> int:
        return math.ceil(edge / sizes.multiple_of) * sizes.multiple_of

    width, height = float(channel.width), float(channel.height)
    # The model draws no narrower picture.
    if width > height * sizes.max_ratio:
        height = width / sizes.max_ratio
    elif height > width * sizes.max_ratio:
        width = height / sizes.max_ratio
    grown = max(1.0, math.sqrt(sizes.min_pixels / (width * height)))
    shrunk = min(1.0, sizes.max_edge / max(width, height), math.sqrt(sizes.max_pixels / (width * height)))
    if shrunk < 1:
        step = sizes.multiple_of
        return int(width * shrunk // step * step), int(height * shrunk // step * step)
    wide, high = up(width * grown), up(height * grown)
    # Rounding up the long edge may have gone beyond the widest ratio.
    if wide > high * sizes.max_ratio:
        high += sizes.multiple_of
    elif high > wide * sizes.max_ratio:
        wide += sizes.multiple_of
    return wide, high
