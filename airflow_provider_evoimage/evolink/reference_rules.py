"""What each model takes as reference images and masks, with the page each fact comes from.

Where pages disagree the widest stands here, as only certain mistakes are errors. A model that is not listed
takes whatever its references are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

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
