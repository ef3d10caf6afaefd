"""Reads the body of a submission as the service does: checks every documented field, fills its defaults."""

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from airflow_provider_evoimage.simulator.errors import Refusal
from airflow_provider_evoimage.simulator.models import (
    MISSING_MODEL_PREFIX,
    TIERS,
    ModelRules,
    Pixels,
    rules_for,
    tier_of,
)

MAX_CALLBACK_URL = 2048
BACKGROUNDS = ("opaque", "transparent")


@dataclass(frozen=True, kw_only=True)
class Order:
    """One accepted submission, with every default filled in.

    :param size: as asked.
    :param pixels: width and height of every image.
    :param tier: 1K, 2K or 4K.
    :param images: how many images are asked for.
    :param references: how many reference images were given.
    """

    model: str
    prompt: str
    size: str
    pixels: Pixels
    tier: str
    quality: str
    images: int
    references: int
    output_format: str
    transparent: bool
    callback_url: str | None


def read_order(body: Any) -> Order:
    """Check the body of a submission.

    :raises Refusal: with status 400 and the name of the field, or 404 for a model nobody offers.
    """
    if not isinstance(body, dict):
        raise _invalid("The body must be a JSON object.")
    model = _text(body, "model")
    if model.startswith(MISSING_MODEL_PREFIX):
        raise Refusal(404, f"Model {model} not found.", code="model_not_found", param="model")
    rules = rules_for(model)
    tier = _tier(body, rules)
    size, pixels = _size(body, rules, tier)
    output_format = _choice(body, "output_format", rules.output_formats, "png")
    return Order(
        model=model,
        prompt=_prompt(body, rules),
        size=size,
        pixels=pixels,
        tier=tier_of(pixels) if "x" in size.replace("×", "x") else tier,
        quality=_choice(body, "quality", rules.qualities, rules.default_quality),
        images=_images(body, rules),
        references=_references(body, rules),
        output_format=output_format,
        transparent=_transparent(body, rules, output_format),
        callback_url=_callback_url(body),
    )


def _invalid(message: str, param: str | None = None, code: str = "invalid_request") -> Refusal:
    return Refusal(400, message, code=code, param=param)


def _out_of_range(message: str, param: str) -> Refusal:
    return _invalid(message, param, "invalid_parameters")


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not value.strip():
        raise _invalid(f"{name} is required and must be a string.", name)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _invalid(f"{name} is not valid Unicode.", name) from None
    return value


def _choice(body: Mapping[str, Any], name: str, accepted: Sequence[str] | None, default: str) -> str:
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, str):
        raise _invalid(f"{name} must be a string.", name)
    if accepted is None or value in accepted:
        return value
    if not accepted:
        # A field this model does not have: ignored, as unknown fields are.
        return default
    raise _out_of_range(f"{name} must be one of {', '.join(accepted)}.", name)


def _prompt(body: Mapping[str, Any], rules: ModelRules) -> str:
    prompt = _text(body, "prompt")
    if len(prompt) > rules.max_prompt_characters:
        raise _out_of_range(f"prompt is longer than {rules.max_prompt_characters} characters.", "prompt")
    if rules.max_prompt_bytes is not None and len(prompt.encode()) > rules.max_prompt_bytes:
        raise _out_of_range(f"prompt is longer than {rules.max_prompt_bytes} bytes.", "prompt")
    return prompt


def _tier(body: Mapping[str, Any], rules: ModelRules) -> str:
    if rules.tiers:
        tier = body.get("resolution") or "1K"
        if not isinstance(tier, str) or tier.upper() not in TIERS:
            raise _out_of_range(f"resolution must be one of {', '.join(TIERS)}.", "resolution")
        return tier.upper()
    # Models that are not listed give their pixel tier as quality.
    quality = body.get("quality")
    return quality if isinstance(quality, str) and quality in TIERS else "1K"


def _size(body: Mapping[str, Any], rules: ModelRules, tier: str) -> tuple[str, Pixels]:
    size = body.get("size")
    if size is None:
        size = rules.default_size
    if not isinstance(size, str):
        raise _invalid("size must be a string.", "size")
    try:
        return size, rules.pixels(size, tier)
    except ValueError as error:
        raise _out_of_range(f"{error}.", "size") from None


def _images(body: Mapping[str, Any], rules: ModelRules) -> int:
    asked = body.get("n")
    if asked is None or (rules.max_images is None and rules.image_counts is None):
        return 1
    if not isinstance(asked, int) or isinstance(asked, bool):
        raise _invalid("n must be an integer.", "n")
    if rules.image_counts is not None and asked not in rules.image_counts:
        raise _out_of_range(f"n must be one of {', '.join(map(str, rules.image_counts))}.", "n")
    if rules.max_images is not None and not 1 <= asked <= rules.max_images:
        raise _out_of_range(f"n must be between 1 and {rules.max_images}.", "n")
    return asked


def _references(body: Mapping[str, Any], rules: ModelRules) -> int:
    mask = body.get("mask_url")
    if mask is not None:
        _check_media_url(mask, "mask_url")
    urls = body.get("image_urls")
    if urls is None:
        return 0
    if not isinstance(urls, list):
        raise _invalid("image_urls must be an array of URLs.", "image_urls")
    if not 1 <= len(urls) <= rules.max_references:
        raise _out_of_range(f"image_urls must hold 1 to {rules.max_references} URLs.", "image_urls")
    for url in urls:
        _check_media_url(url, "image_urls")
    return len(urls)


def _check_media_url(url: Any, param: str) -> None:
    if not isinstance(url, str) or _host(url, ("http", "https")) is None:
        raise _invalid(f"{param} must hold http or https URLs.", param, "invalid_media_url")


def _transparent(body: Mapping[str, Any], rules: ModelRules, output_format: str) -> bool:
    accepted = BACKGROUNDS if rules.output_formats else ()
    transparent = _choice(body, "background", accepted, "opaque") == "transparent"
    if transparent and output_format == "jpeg":
        raise _out_of_range("A transparent background needs output_format png or webp.", "background")
    return transparent


def _callback_url(body: Mapping[str, Any]) -> str | None:
    url = body.get("callback_url")
    if url is None:
        return None
    if not isinstance(url, str):
        raise _invalid("callback_url must be a string.", "callback_url")
    if len(url) > MAX_CALLBACK_URL:
        raise _out_of_range(f"callback_url is longer than {MAX_CALLBACK_URL} characters.", "callback_url")
    host = _host(url, ("https",))
    if host is None:
        raise _out_of_range("callback_url must be an HTTPS URL.", "callback_url")
    if _is_internal(host):
        raise _out_of_range("callback_url must not point to an internal address.", "callback_url")
    return url


def _host(url: str, schemes: Sequence[str]) -> str | None:
    try:
        parts = urlsplit(url)
        return parts.hostname if parts.scheme in schemes and url.isprintable() else None
    except ValueError:
        return None


def _is_internal(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return False
