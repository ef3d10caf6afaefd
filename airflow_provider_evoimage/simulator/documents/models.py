"""What the documents say each model accepts.

Where two documented versions disagree, the wider one stands here. A model that is not listed is accepted
with almost any field, for the simulator must not know fewer models than the service.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from airflow_provider_evoimage.simulator.documents.sizes import (
    TIERS,
    Pixels,
    any_pixels,
    classic_pixels,
    flexible_pixels,
    ratio_pixels,
)

MEGABYTE = 1024 * 1024
GPT_FORMATS = ("JPEG", "PNG", "WEBP")


@dataclass(frozen=True, kw_only=True)
class ReferenceRules:
    """What one model takes as reference images.

    :param fewest: how many `image_urls` must hold when it is given.
    :param most: how many it may hold; 0 when the model takes no references.
    :param required: whether `image_urls` must be given.
    :param max_bytes: largest file.
    :param formats: file formats, as Pillow names them.
    :param edges: shortest and longest edge in pixels.
    :param mask: `alpha` when `mask_url` must be a PNG with an alpha channel, `any` when any image does, empty
        when the model has no such field.
    """

    fewest: int = 0
    most: int = 16
    required: bool = False
    max_bytes: int = 50 * MEGABYTE
    formats: tuple[str, ...] = GPT_FORMATS
    edges: tuple[int, int] = (1, 23_170)
    mask: str = ""


@dataclass(frozen=True, kw_only=True)
class ModelRules:
    """What one model accepts.

    :param pixels: turns size and tier into pixels; raises ValueError for a size it does not know.
    :param qualities: accepted values of `quality`; None accepts any, and means the field has no effect.
    :param tiers: accepted values of `resolution`, which chooses the pixels of a ratio; none without that
        field.
    :param prompt_required: whether there must be a prompt.
    :param max_images: largest `n`; None when the model has no such field.
    :param image_counts: the only values of `n`, where they are no range.
    :param fixed_images: how many images a model without `n` makes.
    :param max_inputs_and_images: largest sum of references and images.
    :param size_for_one: `size` is refused when more than one image is requested.
    :param single: whether pages say that it makes one image whatever `n` says: `never`, `often`, `always`.
    :param output_formats: accepted values of `output_format`; none when the model has no such field.
    :param choices: accepted values of further fields; `model_params.` stands before those inside it.
    :param ranges: smallest and largest value of further whole numbers.
    :param lengths: most characters of further texts.
    :param estimated_time: seconds the service promises at submission.
    :param lifecycle: active, preview or deprecated.
    """

    pixels: Callable[[str, str], Pixels]
    default_size: str = "auto"
    qualities: tuple[str, ...] | None = None
    default_quality: str = "high"
    tiers: tuple[str, ...] = ()
    prompt_required: bool = True
    max_prompt_characters: int = 8_000
    max_prompt_bytes: int | None = None
    max_images: int | None = 10
    image_counts: tuple[int, ...] | None = None
    fixed_images: int = 1
    max_inputs_and_images: int | None = None
    size_for_one: bool = False
    single: str = "never"
    references: ReferenceRules = ReferenceRules()
    output_formats: tuple[str, ...] = ()
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    ranges: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    lengths: Mapping[str, int] = field(default_factory=dict)
    estimated_time: int = 100
    lifecycle: str = "active"


AT_LEAST_ONE = ReferenceRules(fewest=1)

# The documents say "2000 tokens", which is about 8,000 characters.
GPT_IMAGE_1 = ModelRules(
    pixels=classic_pixels,
    default_size="1024x1024",
    qualities=("low", "medium", "high"),
    references=AT_LEAST_ONE,
)
GPT_IMAGE_1_5 = replace(GPT_IMAGE_1, qualities=("low", "medium", "high", "auto"), single="always")
GPT_IMAGE_1_5_BETA = replace(GPT_IMAGE_1_5, default_size="1:1", default_quality="auto", lifecycle="preview")
GPT_IMAGE_2 = ModelRules(
    pixels=flexible_pixels,
    qualities=("low", "medium", "high"),
    default_quality="medium",
    tiers=TIERS,
    max_prompt_characters=32_000,
    max_prompt_bytes=60_000,
    single="often",
    references=ReferenceRules(fewest=1, mask="alpha"),
    output_formats=("png", "jpeg", "webp"),
)
GPT_IMAGE_2_5 = replace(GPT_IMAGE_2, qualities=("low", "medium", "high", "xhigh", "max"))
GPT_IMAGE_2_BETA = ModelRules(
    pixels=ratio_pixels, tiers=TIERS, max_images=None, references=AT_LEAST_ONE, lifecycle="preview"
)
GPT_4O_IMAGE = ModelRules(
    pixels=classic_pixels,
    default_size="1024x1024",
    image_counts=(1, 2, 4),
    references=ReferenceRules(fewest=1, most=5, max_bytes=10 * MEGABYTE, mask="any"),
    lifecycle="deprecated",
)
UNLISTED = ModelRules(
    pixels=any_pixels,
    default_quality="1K",
    max_prompt_characters=32_000,
    max_images=15,
    references=ReferenceRules(formats=(*GPT_FORMATS, "GIF", "BMP", "TIFF")),
    output_formats=("png", "jpeg", "webp"),
    estimated_time=45,
)

GPT_MODELS: dict[str, ModelRules] = {
    "gpt-image-1": GPT_IMAGE_1,
    "gpt-image-1.5": GPT_IMAGE_1_5,
    "gpt-image-1.5-beta": GPT_IMAGE_1_5_BETA,
    "gpt-image-1.5-lite": GPT_IMAGE_1_5_BETA,
    "gpt-image-2": GPT_IMAGE_2,
    "gpt-image-2-beta": GPT_IMAGE_2_BETA,
    "gpt-image-2.5-flare": GPT_IMAGE_2_5,
    "gpt-image-2.5-sunburst": GPT_IMAGE_2_5,
    "gpt-4o-image": GPT_4O_IMAGE,
}
