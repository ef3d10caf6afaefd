"""Every model the simulator knows: GPT's, and the others with the documented limits of their pages."""

from dataclasses import replace
from typing import Any

from airflow_provider_evoimage.simulator.documents.models import (
    GPT_FORMATS,
    GPT_MODELS,
    MEGABYTE,
    UNLISTED,
    ModelRules,
    ReferenceRules,
)
from airflow_provider_evoimage.simulator.documents.sizes import Sizes, any_pixels, unsized_pixels

MISSING_MODEL_PREFIX = "no-such-"

NINE_RATIOS = ("1:1", "2:3", "3:2", "3:4", "4:3", "4:5", "5:4", "9:16", "16:9")
TEN_RATIOS = (*NINE_RATIOS, "21:9")
ELEVEN_RATIOS = (*TEN_RATIOS, "9:21")
LONG_RATIOS = ("1:4", "4:1", "1:8", "8:1")
MANY_FORMATS = (*GPT_FORMATS, "BMP", "TIFF", "GIF")
QWEN_FORMATS = (*GPT_FORMATS, "BMP", "TIFF")
LARGEST_SEED = 2_147_483_647
PRIORITIES = ("standard", "fast")

NO_REFERENCES = ReferenceRules(most=0)

NANO_BANANA_PRO = ModelRules(
    pixels=Sizes(ratios=TEN_RATIOS),
    qualities=("1K", "2K", "4K"),
    default_quality="2K",
    max_images=None,
    references=ReferenceRules(most=14, max_bytes=20 * MEGABYTE),
    estimated_time=45,
)
NANO_BANANA_2 = replace(
    NANO_BANANA_PRO,
    pixels=Sizes(ratios=(*TEN_RATIOS, *LONG_RATIOS)),
    qualities=("0.5K", "1K", "2K", "4K"),
    choices={"model_params.thinking_level": ("auto", "min", "high")},
)
NANO_BANANA_2_LITE = replace(
    NANO_BANANA_2, qualities=("1K",), default_quality="1K", choices={}, estimated_time=15
)
NANO_BANANA = ModelRules(
    pixels=Sizes(ratios=("1:1", "2:3", "3:2", "4:3", "3:4", "16:9", "9:16")),
    max_images=None,
    references=ReferenceRules(most=5, max_bytes=10 * MEGABYTE),
    estimated_time=45,
)

SEEDREAM_4_0 = ModelRules(
    pixels=Sizes(ratios=ELEVEN_RATIOS, area=(921_600, 16_777_216)),
    qualities=("1K", "2K", "4K"),
    default_quality="2K",
    max_images=15,
    max_inputs_and_images=15,
    references=ReferenceRules(most=14, max_bytes=10 * MEGABYTE, formats=MANY_FORMATS, edges=(15, 6000)),
    choices={"prompt_priority": PRIORITIES},
    estimated_time=45,
)
SEEDREAM_4_5 = replace(
    SEEDREAM_4_0,
    pixels=Sizes(ratios=ELEVEN_RATIOS, area=(3_686_400, 16_777_216)),
    qualities=("2K", "4K"),
    choices={"prompt_priority": ("standard",)},
)
SEEDREAM_5_LITE = replace(
    SEEDREAM_4_5,
    qualities=("2K", "3K", "4K"),
    choices={"model_params.output_format": ("png", "jpeg")},
)
SEEDREAM_5_PRO = ModelRules(
    pixels=Sizes(ratios=ELEVEN_RATIOS, area=(921_600, 4_624_220)),
    qualities=("1K", "1.5K", "2K"),
    default_quality="1K",
    max_prompt_characters=16_000,
    max_images=None,
    references=ReferenceRules(most=10, max_bytes=30 * MEGABYTE, formats=(*MANY_FORMATS, "HEIF", "AVIF")),
    output_formats=("jpeg", "png"),
    choices={"prompt_priority": PRIORITIES},
    estimated_time=45,
)
SEEDREAM_5_FLASH = replace(SEEDREAM_5_PRO, choices={"prompt_priority": ("standard",)})
SEEDREAM_LAYERS = replace(
    SEEDREAM_5_PRO,
    pixels=unsized_pixels,
    qualities=("auto", "1K", "1.5K", "2K"),
    default_quality="auto",
    prompt_required=False,
    # "Returns several layers": how many is not stated.
    fixed_images=3,
    references=ReferenceRules(
        fewest=1, most=1, required=True, max_bytes=30 * MEGABYTE, formats=("PNG", "JPEG"), edges=(512, 23_170)
    ),
    choices={},
)

QWEN_3 = ModelRules(
    pixels=Sizes(ratios=ELEVEN_RATIOS, area=(262_144, 4_194_304)),
    qualities=("1K", "2K"),
    default_quality="1K",
    max_prompt_characters=18_000,
    max_images=6,
    references=ReferenceRules(most=3, formats=QWEN_FORMATS, edges=(384, 3072)),
    ranges={"seed": (0, LARGEST_SEED)},
    lengths={"negative_prompt": 500},
    estimated_time=30,
)
QWEN_EDIT = ModelRules(
    pixels=unsized_pixels,
    max_images=None,
    references=ReferenceRules(fewest=1, most=3, required=True, formats=QWEN_FORMATS, edges=(384, 3072)),
    estimated_time=30,
)
QWEN_EDIT_PLUS = replace(
    QWEN_EDIT,
    pixels=Sizes(area=(512 * 512, 2048 * 2048), edges=(512, 2048)),
    max_images=6,
    size_for_one=True,
    ranges={"seed": (0, LARGEST_SEED)},
    lengths={"negative_prompt": 500},
)
WAN_FROM_TEXT = ModelRules(
    pixels=Sizes(area=(768 * 768, 1440 * 1440), max_ratio=4),
    max_images=4,
    references=NO_REFERENCES,
    estimated_time=45,
)
WAN_FROM_IMAGE = ModelRules(
    pixels=unsized_pixels,
    max_images=4,
    references=ReferenceRules(fewest=1, most=2, required=True, max_bytes=10 * MEGABYTE, edges=(384, 5000)),
    estimated_time=45,
)
Z_IMAGE = ModelRules(
    pixels=Sizes(auto=False, ratios=NINE_RATIOS, area=(376 * 376, 1536 * 1536), edges=(376, 1536)),
    default_size="1:1",
    max_prompt_characters=2_000,
    max_images=None,
    references=NO_REFERENCES,
    ranges={"seed": (1, LARGEST_SEED)},
    estimated_time=15,
)
KREA = ModelRules(
    pixels=Sizes(ratios=ELEVEN_RATIOS, auto=False),
    default_size="1:1",
    qualities=("1K", "2K"),
    default_quality="1K",
    max_prompt_characters=2_560,
    max_images=None,
    references=NO_REFERENCES,
    ranges={"seed": (0, 1_048_576)},
    estimated_time=15,
)
GROK = ModelRules(
    pixels=Sizes(
        ratios=(
            "1:1",
            "2:3",
            "3:2",
            "3:4",
            "4:3",
            "9:16",
            "16:9",
            "1:2",
            "2:1",
            "19.5:9",
            "9:19.5",
            "20:9",
            "9:20",
        )
    ),
    qualities=("low", "medium"),
    default_quality="medium",
    tiers=("1K", "2K"),
    references=ReferenceRules(most=3),
    estimated_time=45,
)
# Size and references stand in the prompt of these.
MIDJOURNEY_7 = ModelRules(
    pixels=any_pixels,
    max_prompt_characters=8_192,
    max_images=None,
    fixed_images=4,
    choices={"model_params.speed": ("draft", "fast", "turbo")},
    ranges={"model_params.image_number": (0, 3)},
    estimated_time=120,
)
MIDJOURNEY_8 = replace(
    MIDJOURNEY_7, max_prompt_characters=2_048, qualities=("standard", "hd"), default_quality="standard"
)

MIDJOURNEY_7_EDITS = (
    *("edit", "enhance", "inpaint", "outpaint", "pan", "remix", "remove-bg", "retexture", "upload-paint"),
    *("upscale", "variation"),
)
MIDJOURNEY_8_EDITS = ("edit", "remix", "remove-bg", "retexture", "upload-paint", "variation")

MODELS: dict[str, ModelRules] = GPT_MODELS | {
    "gemini-3-pro-image-preview": NANO_BANANA_PRO,
    "nano-banana-pro-beta": replace(NANO_BANANA_PRO, lifecycle="preview"),
    "gemini-3.1-flash-image-preview": NANO_BANANA_2,
    "nano-banana-2-beta": replace(NANO_BANANA_2, lifecycle="preview"),
    "gemini-3.1-flash-lite-image": replace(
        NANO_BANANA_2_LITE, choices={"model_params.thinking_level": ("auto", "min", "high")}
    ),
    "nano-banana-2-lite-beta": replace(NANO_BANANA_2_LITE, lifecycle="preview"),
    "nano-banana-beta": replace(NANO_BANANA, lifecycle="preview"),
    "gemini-2.5-flash-image": replace(NANO_BANANA, lifecycle="deprecated"),
    "gemini-nano-banana-2.1": replace(NANO_BANANA_PRO, pixels=any_pixels),
    "doubao-seedream-4.0": SEEDREAM_4_0,
    "doubao-seedream-4.5": SEEDREAM_4_5,
    "doubao-seedream-5.0-lite": SEEDREAM_5_LITE,
    "doubao-seedream-5.0-pro": SEEDREAM_5_PRO,
    "doubao-seedream-5.0-flash": SEEDREAM_5_FLASH,
    "doubao-seedream-5.0-pro-layerize": SEEDREAM_LAYERS,
    "doubao-seedream-5.0-flash-layerize": SEEDREAM_LAYERS,
    "qwen-image-3.0": QWEN_3,
    "qwen-image-3.0-pro": QWEN_3,
    "qwen-image-edit": QWEN_EDIT,
    "qwen-image-edit-plus": QWEN_EDIT_PLUS,
    "wan2.5-text-to-image": WAN_FROM_TEXT,
    "wan2.5-image-to-image": WAN_FROM_IMAGE,
    "z-image-turbo": Z_IMAGE,
    "krea-2-turbo": KREA,
    "grok-imagine-image-2.0": GROK,
    "mj-v7": MIDJOURNEY_7,
    "mj-v8.1": MIDJOURNEY_8,
    "mj-v8.2": MIDJOURNEY_8,
    **{f"mj-v7-{edit}": MIDJOURNEY_7 for edit in MIDJOURNEY_7_EDITS},
    **{f"mj-{version}-{edit}": MIDJOURNEY_8 for version in ("v8.1", "v8.2") for edit in MIDJOURNEY_8_EDITS},
}
ALIASES = {"gpt-image-1.5-beta": ("gpt-image-1.5-lite",), "nano-banana-beta": ("gemini-2.5-flash-image",)}


def rules_for(model: str) -> ModelRules:
    """Return what this model accepts."""
    return MODELS.get(model, UNLISTED)


def catalog_entry(model: str) -> dict[str, Any]:
    """Describe a model as the public catalogue does."""
    rules = MODELS[model]
    capabilities = [] if rules.references.required else ["text-to-image"]
    if rules.references.most:
        capabilities.append("image-to-image")
    return {
        "model_id": model,
        "display_name": model.replace("-", " ").title(),
        "aliases": list(ALIASES.get(model, ())),
        "capabilities": capabilities,
        "protocols": ["images.generations"],
        "lifecycle": rules.lifecycle,
    }
