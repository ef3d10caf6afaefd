"""The pictures that advertising and shop channels take, and those of your own. Pure; DAG files import it.

Each row has its source and the day on which it was read. Channels change their rules, and sources disagree on some:
see ``note``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from airflow_provider_evoimage.exceptions import InvalidRequestError

Format = Literal["jpeg", "png", "webp"]
FORMATS: tuple[Format, ...] = get_args(Format)

_MOST_EDGE_PIXELS = 16_383  # A WebP has no more.
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,59}", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Channel:
    """One picture of one channel.

    :param width: pixels; likewise ``height``.
    :param formats: file formats that it takes; the first is the preferred one.
    :param ratio_tolerance: by how much the ratio of the edges may differ, as a share.
    :param max_bytes: the largest file; None where none is known.
    :param safe_top: pixels at the top that the channel covers with its own elements; likewise ``safe_bottom``.
    :param background: colour that the channel asks for behind the product.
    :param source: where the figures were read.
    :param as_of: the day on which they were read.
    :param note: what sources disagree about.
    """

    name: str
    width: int
    height: int
    formats: tuple[Format, ...] = ("jpeg", "png")
    ratio_tolerance: float = 0.01
    max_bytes: int | None = None
    safe_top: int = 0
    safe_bottom: int = 0
    background: str | None = None
    source: str = ""
    as_of: str = ""
    note: str = ""

    @property
    def ratio(self) -> float:
        """Width by height."""
        return self.width / self.height


class Rendition(Channel):
    """A picture of your own.

    :param name: goes into file names.
    :param width: pixels; likewise ``height``.
    :param format: ``jpeg``, ``png`` or ``webp``.
    :param max_kb: the largest file in units of 1,000 bytes.
    :raises InvalidRequestError: when a value is impossible.
    """

    def __init__(
        self,
        name: str,
        *,
        width: int,
        height: int,
        format: Format = "jpeg",  # noqa: A002 (the word of every image library)
        max_kb: float | None = None,
    ) -> None:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise InvalidRequestError(
                f"The name of a rendition has letters, digits, '.', '_' and '-', at most 60, not {name!r}."
            )
        for edge in (width, height):
            if isinstance(edge, bool) or not isinstance(edge, int) or not 1 <= edge <= _MOST_EDGE_PIXELS:
                raise InvalidRequestError(
                    f"Rendition {name!r}: width and height are 1 to {_MOST_EDGE_PIXELS:,} pixels, not {edge!r}."
                )
        if format not in FORMATS:
            raise InvalidRequestError(
                f"Rendition {name!r}: format must be one of {', '.join(FORMATS)}, not {format!r}."
            )
        if max_kb is not None and not max_kb > 0:
            raise InvalidRequestError(f"Rendition {name!r}: max_kb must be above 0, not {max_kb!r}.")
        super().__init__(
            name=name,
            width=width,
            height=height,
            formats=(format,),
            max_bytes=None if max_kb is None else int(max_kb * 1000),
            source="the DAG",
        )


_READ = "2026-11-27"
_GOOGLE = "ppcbetter.com, google-display-ad-formats; spilnoagency.com.ua, google-ads-creative-sizes-2026"
_BANNERS = "ppcbetter.com, google-display-ad-formats (150 KB); thebrief.ai, google-ad-specs (sizes)"
_META = "imagefactory.co.kr, meta-ads-all-sizes; marketertools.fyi, meta-ad-sizes-safe-zones-2026"
_AMAZON = "mercatuslab.com, amazon-product-image-requirements; picovert.com, image-size-for-amazon (10 MB)"


def _google(name: str, width: int, height: int, *, is_logo: bool = False, note: str = "") -> Channel:
    return Channel(
        name=f"google.{name}",
        width=width,
        height=height,
        # A logo keeps its transparency.
        formats=("png", "jpeg") if is_logo else ("jpeg", "png"),
        max_bytes=5_120_000,
        source=_GOOGLE,
        as_of=_READ,
        note=note,
    )


def _banner(width: int, height: int) -> Channel:
    return Channel(
        name=f"google.banner_{width}x{height}",
        width=width,
        height=height,
        max_bytes=150_000,
        source=_BANNERS,
        as_of=_READ,
    )


_ROWS = (
    _google("landscape", 1200, 628),
    _google("square", 1200, 1200),
    _google("portrait", 960, 1200, note="some guides give 1200×1500, which has the same ratio"),
    _google("logo", 1200, 1200, is_logo=True),
    _google("logo_wide", 1200, 300, is_logo=True),
    _banner(300, 250),
    _banner(300, 600),
    _banner(728, 90),
    Channel(name="meta.feed", width=1080, height=1350, max_bytes=30_000_000, source=_META, as_of=_READ),
    Channel(name="meta.square", width=1080, height=1080, max_bytes=30_000_000, source=_META, as_of=_READ),
    Channel(
        name="meta.story",
        width=1080,
        height=1920,
        safe_top=250,
        safe_bottom=340,
        max_bytes=30_000_000,
        source=_META,
        as_of=_READ,
        note="sources disagree on what stays free: 250 and 340 pixels, 250 twice, 14 % and 20 %, and more for reels",
    ),
    Channel(
        name="amazon.main",
        width=2000,
        height=2000,
        background="#ffffff",
        max_bytes=10_000_000,
        source=_AMAZON,
        as_of=_READ,
        note="1,000 pixels at least; 1,600 or 2,000 are recommended. Some sources say that main images must be "
        "photographs",
    ),
)
CHANNELS: dict[str, Channel] = {channel.name: channel for channel in _ROWS}


def channel_named(name: str) -> Channel:
    """Return a row of the table.

    :raises InvalidRequestError: when there is none.
    """
    try:
        return CHANNELS[name.strip()]
    except KeyError:
        raise InvalidRequestError(
            f"Unknown channel {name!r}. Available channels: {', '.join(CHANNELS)}."
        ) from None


def channels_of(wanted: Iterable[str | Channel]) -> list[Channel]:
    """Return rows of the table by name; renditions of your own stay as they are.

    :raises InvalidRequestError: when one is unknown, or two have one name.
    """
    found = [each if isinstance(each, Channel) else channel_named(each) for each in wanted]
    names = [channel.name for channel in found]
    if not found or len(set(names)) < len(names):
        raise InvalidRequestError(f"renditions must be different names, at least one, not {names}.")
    return found
