"""Reads the body of a submission as the service does: checks every documented field, fills its defaults."""

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from airflow_provider_evoimage.simulator.documents.catalog import MISSING_MODEL_PREFIX, rules_for
from airflow_provider_evoimage.simulator.documents.models import ModelRules
from airflow_provider_evoimage.simulator.documents.sizes import TIER_EDGES, Pixels, tier_of
from airflow_provider_evoimage.simulator.service.errors import Refusal

MAX_CALLBACK_URL = 2048
BACKGROUNDS = ("opaque", "transparent")
INSIDE = "model_params"


@dataclass(frozen=True, kw_only=True)
class Order:
    """One accepted submission, with every default filled in.

    :param size: as asked.
    :param pixels: width and height of every image.
    :param tier: 1K, 2K or 4K, or one of the further tiers of other models.
    :param images: how many images are requested.
    :param image_urls: the reference images.
    """

    model: str
    prompt: str
    size: str
    pixels: Pixels
    tier: str
    quality: str
    images: int
    image_urls: tuple[str, ...]
    mask_url: str | None
    output_format: str
    transparent: bool
    callback_url: str | None

    @property
    def references(self) -> int:
        """How many reference images were given."""
        return len(self.image_urls)


def read_order(body: Any, *, loopback_callbacks: bool = False) -> Order:
    """Check the body of a submission.

    :param loopback_callbacks: accept callback URLs on this machine, even without TLS.
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
    image_urls = _image_urls(body, rules)
    images = _images(body, rules, len(image_urls))
    _check_extras(body, rules)
    return Order(
        model=model,
        prompt=_prompt(body, rules),
        size=size,
        pixels=pixels,
        tier=tier_of(pixels) if "x" in size.replace("×", "x") else tier,
        quality=_choice(body, "quality", rules.qualities, rules.default_quality),
        images=images,
        image_urls=image_urls,
        mask_url=_mask_url(body, rules),
        output_format=output_format,
        transparent=_transparent(body, rules, output_format),
        callback_url=_callback_url(body, loopback_callbacks),
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
    if not rules.prompt_required and not body.get("prompt"):
        return ""
    prompt = _text(body, "prompt")
    if len(prompt) > rules.max_prompt_characters:
        raise _out_of_range(f"prompt is longer than {rules.max_prompt_characters} characters.", "prompt")
    if rules.max_prompt_bytes is not None and len(prompt.encode()) > rules.max_prompt_bytes:
        raise _out_of_range(f"prompt is longer than {rules.max_prompt_bytes} bytes.", "prompt")
    return prompt


def _tier(body: Mapping[str, Any], rules: ModelRules) -> str:
    if rules.tiers:
        tier = body.get("resolution") or "1K"
        if not isinstance(tier, str) or tier.upper() not in rules.tiers:
            raise _out_of_range(f"resolution must be one of {', '.join(rules.tiers)}.", "resolution")
        return tier.upper()
    # The other models give their pixel tier as quality.
    quality = body.get("quality", rules.default_quality)
    return quality if isinstance(quality, str) and quality in TIER_EDGES else "1K"


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


def _images(body: Mapping[str, Any], rules: ModelRules, references: int) -> int:
    asked = body.get("n")
    if rules.max_images is None and rules.image_counts is None:
        return rules.fixed_images
    if asked is None:
        return 1
    if not isinstance(asked, int) or isinstance(asked, bool):
        raise _invalid("n must be an integer.", "n")
    if rules.image_counts is not None and asked not in rules.image_counts:
        raise _out_of_range(f"n must be one of {', '.join(map(str, rules.image_counts))}.", "n")
    if rules.max_images is not None and not 1 <= asked <= rules.max_images:
        raise _out_of_range(f"n must be between 1 and {rules.max_images}.", "n")
    limit = rules.max_inputs_and_images
    if limit is not None and asked + references > limit:
        raise _out_of_range(f"n and the number of image_urls must be at most {limit} in all.", "n")
    if asked > 1 and rules.size_for_one and body.get("size") is not None:
        raise _out_of_range("size is only supported when n is 1.", "size")
    return asked


def _check_extras(body: Mapping[str, Any], rules: ModelRules) -> None:
    inside = body.get(INSIDE)
    if inside is not None and not isinstance(inside, dict):
        raise _invalid(f"{INSIDE} must be an object.", INSIDE)
    fields = dict(body) | {f"{INSIDE}.{name}": value for name, value in (inside or {}).items()}
    for name, accepted in rules.choices.items():
        _choice(fields, name, accepted, "")
    for name, (smallest, largest) in rules.ranges.items():
        value = fields.get(name)
        if value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or not smallest <= value <= largest:
            raise _out_of_range(f"{name} must be an integer between {smallest} and {largest}.", name)
    for name, longest in rules.lengths.items():
        value = fields.get(name, "")
        if not isinstance(value, str) or len(value) > longest:
            raise _out_of_range(f"{name} must be a string of at most {longest} characters.", name)


def _image_urls(body: Mapping[str, Any], rules: ModelRules) -> tuple[str, ...]:
    urls = body.get("image_urls")
    limits = rules.references
    if urls is None:
        if limits.required:
            raise _invalid("image_urls is required for this model.", "image_urls")
        return ()
    if not isinstance(urls, list):
        raise _invalid("image_urls must be an array of URLs.", "image_urls")
    if urls and not limits.most:
        raise _out_of_range("This model takes no reference images.", "image_urls")
    if not limits.fewest <= len(urls) <= limits.most:
        message = f"image_urls must hold {limits.fewest} to {limits.most} URLs."
        raise _out_of_range(message, "image_urls")
    for url in urls:
        _check_media_url(url, "image_urls")
    return tuple(urls)


def _mask_url(body: Mapping[str, Any], rules: ModelRules) -> str | None:
    url = body.get("mask_url")
    if url is None:
        return None
    _check_media_url(url, "mask_url")
    return str(url) if rules.references.mask else None


def _check_media_url(url: Any, param: str) -> None:
    if not isinstance(url, str) or _host(url, ("http", "https")) is None:
        raise _invalid(f"{param} must hold http or https URLs.", param, "invalid_media_url")


def _transparent(body: Mapping[str, Any], rules: ModelRules, output_format: str) -> bool:
    accepted = BACKGROUNDS if rules.output_formats else ()
    transparent = _choice(body, "background", accepted, "opaque") == "transparent"
    if transparent and output_format == "jpeg":
        raise _out_of_range("A transparent background needs output_format png or webp.", "background")
    return transparent


def _callback_url(body: Mapping[str, Any], loopback: bool) -> str | None:
    url = body.get("callback_url")
    if url is None:
        return None
    if not isinstance(url, str):
        raise _invalid("callback_url must be a string.", "callback_url")
    if len(url) > MAX_CALLBACK_URL:
        raise _out_of_range(f"callback_url is longer than {MAX_CALLBACK_URL} characters.", "callback_url")
    if loopback and is_loopback_host(_host(url, ("http", "https"))):
        return url
    host = _host(url, ("https",))
    if host is None:
        raise _out_of_range("callback_url must be an HTTPS URL.", "callback_url")
    if _is_internal(host):
        raise _out_of_range("callback_url must not point to an internal address.", "callback_url")
    return url


def _host(url: str, schemes: Sequence[str]) -> str | None:
    try:
        parts = urlsplit(url)
        # Reading the port raises for one that is no number.
        return parts.hostname if parts.scheme in schemes and url.isprintable() and parts.port != 0 else None
    except ValueError:
        return None


def is_loopback_host(host: str | None) -> bool:
    """Whether a URL with this host can only mean this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def _is_internal(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return False
