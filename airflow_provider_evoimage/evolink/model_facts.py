"""What each model accepts and its documented defaults, with the page each fact comes from.

EvoLink's pages contradict one another for some models. A value is *certain* to be wrong only if every
documented version forbids it; a value that some version allows and another does not is *disputed*: it is
sent, with a warning. Models that are not listed here pass through as they are.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field, replace
from typing import Literal

_SIX_SIZES = ("1:1", "2:3", "3:2", "1024x1024", "1024x1536", "1536x1024")
_RATIOS_OF_GPT_IMAGE_2 = (
    *("1:1", "1:2", "2:1", "1:3", "3:1", "2:3", "3:2", "3:4", "4:3", "4:5", "5:4"),
    *("9:16", "16:9", "9:21", "21:9"),
)
_PIXELS = re.compile(r"(\d{1,5})x(\d{1,5})")


@dataclass(frozen=True, kw_only=True)
class PixelSizes:
    """Which free pixel sizes ``WxH`` a model takes."""

    multiple_of: int
    min_edge: int
    max_edge: int
    min_pixels: int
    max_pixels: int
    max_ratio: float

    def allows(self, width: int, height: int) -> bool:
        """Tell whether an image of this many pixels can be requested."""
        short, long = sorted((width, height))
        return (
            width % self.multiple_of == 0
            and height % self.multiple_of == 0
            and self.min_edge <= short
            and long <= self.max_edge
            and self.min_pixels <= width * height <= self.max_pixels
            and long <= short * self.max_ratio
        )

    def __str__(self) -> str:
        return (
            f"WxH with edges that are multiples of {self.multiple_of} from {self.min_edge} to {self.max_edge}, "
            f"{self.min_pixels:,} to {self.max_pixels:,} pixels, at most {self.max_ratio:g}:1"
        )


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """One model as its pages describe it.

    :param sizes: documented values of ``size``.
    :param pixel_sizes: rule for free pixel sizes besides ``sizes``.
    :param default_size: what EvoLink documents for a request without ``size``.
    :param qualities: documented values of ``quality``; empty where the model has no such field.
    :param disputed_qualities: values that one page allows and another does not.
    :param default_quality: likewise; None where the model has no ``quality``.
    :param max_n: the most images one request may ask for, by the widest page.
    :param disputed_n_above: above this ``n`` the pages disagree; None where they agree.
    :param has_n: whether the model takes ``n`` at all.
    :param max_references: the most ``image_urls``, by the widest page.
    :param disputed_references_above: above this count the pages disagree.
    :param max_prompt_characters: documented limit; a longer prompt is sent with a warning, because the
        pages give it in tokens in one place and in characters in another.
    :param extra_values: documented values of fields that go through ``extra_body``.
    :param source: the page.
    :param note: what the pages disagree about.
    """

    sizes: tuple[str, ...]
    default_size: str
    qualities: tuple[str, ...]
    default_quality: str | None
    max_n: int
    source: str
    pixel_sizes: PixelSizes | None = None
    disputed_qualities: tuple[str, ...] = ()
    disputed_n_above: int | None = None
    has_n: bool = True
    max_references: int = 16
    disputed_references_above: int | None = None
    max_prompt_characters: int = 2000
    extra_values: dict[str, tuple[str, ...]] = field(default_factory=dict)
    note: str = ""

    def allows_size(self, size: str) -> bool:
        """Tell whether any documented version of the model takes this ``size``."""
        if size in self.sizes:
            return True
        pixels = _PIXELS.fullmatch(size)
        if pixels is None or self.pixel_sizes is None:
            return False
        return self.pixel_sizes.allows(int(pixels[1]), int(pixels[2]))

    @property
    def described_sizes(self) -> str:
        """The allowed sizes in words, for a message."""
        listed = ", ".join(self.sizes)
        return f"{listed}, or {self.pixel_sizes}" if self.pixel_sizes else listed


_GPT_IMAGE_2_SIZES = PixelSizes(
    multiple_of=16, min_edge=16, max_edge=3840, min_pixels=655_360, max_pixels=8_294_400, max_ratio=3
)
_GPT_IMAGE_2_EXTRAS = {
    "resolution": ("1K", "2K", "4K"),
    "background": ("opaque", "transparent"),
    "output_format": ("png", "jpeg", "webp"),
}


def _gpt_image_2(qualities: tuple[str, ...], page: str) -> ModelFacts:
    return ModelFacts(
        sizes=("auto", *_RATIOS_OF_GPT_IMAGE_2),
        pixel_sizes=_GPT_IMAGE_2_SIZES,
        default_size="auto",
        qualities=qualities,
        default_quality="medium",
        max_n=10,
        disputed_n_above=1,
        max_prompt_characters=32_000,
        extra_values=_GPT_IMAGE_2_EXTRAS,
        source=page,
        note="the page takes n up to 10 and warns that more than 1 often yields a single image",
    )


MODELS: dict[str, ModelFacts] = {
    "gpt-image-1": ModelFacts(
        sizes=_SIX_SIZES,
        default_size="1024x1024",
        qualities=("low", "medium", "high"),
        default_quality="high",
        max_n=10,
        source="evolink.ai/gpt-image-1",
    ),
    "gpt-image-1.5": ModelFacts(
        sizes=_SIX_SIZES,
        default_size="1024x1024",
        qualities=("low", "medium", "high"),
        disputed_qualities=("auto",),
        default_quality="high",
        max_n=10,
        disputed_n_above=1,
        source="docs.evolink.ai, image-series/gpt-image-1.5",
        note="current documentation takes n=1 only and no quality 'auto'; a product page takes n up to 10, "
        "and older documentation took 'auto'",
    ),
    "gpt-image-1.5-beta": ModelFacts(
        sizes=_SIX_SIZES,
        default_size="1:1",
        qualities=("auto", "low", "medium", "high"),
        default_quality="auto",
        max_n=10,
        disputed_n_above=1,
        disputed_references_above=10,
        source="evolink.ai/gpt-image-1-5",
        note="one page gives n as 1-10 and also speaks of one image per request; its form takes 10 references, "
        "its schema 16",
    ),
    "gpt-image-2": _gpt_image_2(("low", "medium", "high"), "docs.evolink.ai, image-series/gpt-image-2"),
    "gpt-image-2.5-flare": _gpt_image_2(
        ("low", "medium", "high", "xhigh", "max"), "docs.evolink.ai, image-series/gpt-image-2.5-flare"
    ),
    "gpt-image-2.5-sunburst": _gpt_image_2(
        ("low", "medium", "high", "xhigh", "max"), "docs.evolink.ai, image-series/gpt-image-2.5-sunburst"
    ),
    "gpt-image-2-beta": ModelFacts(
        sizes=("auto", *_RATIOS_OF_GPT_IMAGE_2),
        default_size="auto",
        qualities=(),
        default_quality=None,
        max_n=1,
        has_n=False,
        # Earlier pages knew 2K and 4K tiers, today's only 1K.
        extra_values={"resolution": ("1K", "2K", "4K")},
        source="docs.evolink.ai, image-series/gpt-image-2-beta",
    ),
}


def like_known(model: str) -> str:
    """Return `` (did you mean X?)`` for a model that is not in the catalogue and resembles one; else an empty text."""
    near = difflib.get_close_matches(model.strip().lower(), MODELS, n=1, cutoff=0.75)
    return f" (did you mean {near[0]}?)" if near and model not in MODELS else ""


def facts_of(model: str) -> ModelFacts | None:
    """Return what is known of a model, or None where it is not in the catalogue."""
    return MODELS.get(model)


MEGABYTE = 1024 * 1024

_JPEG, _PNG, _WEBP, _GIF = "image/jpeg", "image/png", "image/webp", "image/gif"

Mask = Literal["none", "png", "alpha"]


@dataclass(frozen=True, kw_only=True)
class ReferenceRules:
    """The references of one model as its page describes them.

    :param least: the fewest ``image_urls``; above 0 for models that only edit.
    :param most: the most ``image_urls``.
    :param max_bytes: size of one file; None where the page names none.
    :param types: accepted Content-Types, of those that EvoLink takes as uploads.
    :param edges: shortest and longest edge in pixels; None where the page names none.
    :param max_pixels: width times height; None where the page names none.
    :param mask: ``alpha``: ``mask_url`` is a PNG with an alpha channel, as large as the first reference;
        ``png``: a PNG of that size; ``none``: the model has no mask.
    :param source: the page.
    """

    source: str
    least: int = 0
    most: int = 16
    max_bytes: int | None = 50 * MEGABYTE
    types: tuple[str, ...] = (_JPEG, _PNG, _WEBP)
    edges: tuple[int, int] | None = None
    max_pixels: int | None = None
    mask: Mask = "none"


def _page(name: str) -> str:
    return f"docs.evolink.ai, image-series/{name}"


_GPT_IMAGE_1 = ReferenceRules(source="evolink.ai/gpt-image-1")
_GPT_IMAGE_1_5 = ReferenceRules(source=_page("gpt-image-1.5"))
_GPT_IMAGE_1_5_BETA = ReferenceRules(source="evolink.ai/gpt-image-1-5")
_GPT_IMAGE_2 = ReferenceRules(
    source=_page("gpt-image-2"), edges=(1, 23_170), max_pixels=178_956_970, mask="alpha"
)
_GEMINI = ReferenceRules(source=_page("nanobanana"), most=14, max_bytes=20 * MEGABYTE)
_SEEDREAM_4 = ReferenceRules(
    source=_page("seedream"),
    most=14,
    max_bytes=10 * MEGABYTE,
    types=(_JPEG, _PNG, _WEBP, _GIF),
    # "side > 14 px", "up to 6000x6000".
    edges=(15, 36_000_000),
    max_pixels=36_000_000,
)
_SEEDREAM_5 = ReferenceRules(
    source=_page("seedream"), most=10, max_bytes=30 * MEGABYTE, types=(_JPEG, _PNG, _WEBP, _GIF)
)
_LAYERIZE = ReferenceRules(
    source=_page("seedream"),
    least=1,
    most=1,
    max_bytes=30 * MEGABYTE,
    types=(_JPEG, _PNG),
    edges=(512, 36_000_000),
)
_QWEN_3 = ReferenceRules(source=_page("qwen"), most=3, max_bytes=None, edges=(384, 3072))

REFERENCE_RULES: dict[str, ReferenceRules] = {
    "gpt-image-1": _GPT_IMAGE_1,
    "gpt-image-1.5": _GPT_IMAGE_1_5,
    "gpt-image-1.5-beta": _GPT_IMAGE_1_5_BETA,
    "gpt-image-1.5-lite": _GPT_IMAGE_1_5_BETA,
    "gpt-image-2": _GPT_IMAGE_2,
    "gpt-image-2.5-flare": replace(_GPT_IMAGE_2, source=_page("gpt-image-2.5-flare")),
    "gpt-image-2.5-sunburst": replace(_GPT_IMAGE_2, source=_page("gpt-image-2.5-sunburst")),
    "gpt-image-2-beta": ReferenceRules(source=_page("gpt-image-2-beta"), max_bytes=None),
    "gpt-4o-image": ReferenceRules(
        source=_page("gpt-4o"),
        most=5,
        max_bytes=10 * MEGABYTE,
        # Its page asks for a PNG; another says that white, not transparency, marks what is edited.
        mask="png",
    ),
    "gemini-3-pro-image-preview": _GEMINI,
    "gemini-3.1-flash-image-preview": _GEMINI,
    "gemini-3.1-flash-lite-image": _GEMINI,
    "nano-banana-2-beta": _GEMINI,
    "nano-banana-2-lite-beta": _GEMINI,
    "nano-banana-pro-beta": replace(_GEMINI, most=10, max_bytes=10 * MEGABYTE),
    "nano-banana-beta": replace(_GEMINI, most=5, max_bytes=10 * MEGABYTE),
    "doubao-seedream-4.0": _SEEDREAM_4,
    "doubao-seedream-4.5": _SEEDREAM_4,
    "doubao-seedream-5.0-lite": _SEEDREAM_4,
    "doubao-seedream-5.0-pro": _SEEDREAM_5,
    "doubao-seedream-5.0-flash": _SEEDREAM_5,
    "doubao-seedream-5.0-pro-layerize": _LAYERIZE,
    "doubao-seedream-5.0-flash-layerize": _LAYERIZE,
    "qwen-image-3.0": _QWEN_3,
    "qwen-image-3.0-pro": _QWEN_3,
    "qwen-image-edit": replace(_QWEN_3, least=1),
    "qwen-image-edit-plus": replace(_QWEN_3, least=1, edges=None),
    "wan2.5-image-to-image": ReferenceRules(
        source=_page("wan2.5"), least=1, most=2, max_bytes=10 * MEGABYTE, edges=(384, 5000)
    ),
    "wan2.5-text-to-image": ReferenceRules(source=_page("wan2.5"), most=0),
    "z-image-turbo": ReferenceRules(source=_page("z-image-turbo"), most=0),
    "krea-2-turbo": ReferenceRules(source=_page("krea"), most=0),
    "grok-imagine-image-2.0": ReferenceRules(source=_page("grok"), most=3, max_bytes=None),
}


def reference_rules_of(model: str) -> ReferenceRules | None:
    """Return what is known of a model's references, or None where it is not listed."""
    return REFERENCE_RULES.get(model)
