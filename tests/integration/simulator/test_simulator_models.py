"""What the models other than GPT's accept, as far as their pages are clear."""

import pytest

from airflow_provider_evoimage.simulator.documents.catalog import MODELS, rules_for
from airflow_provider_evoimage.simulator.service.errors import Refusal
from airflow_provider_evoimage.simulator.service.orders import read_order

REFERENCE = "https://example.com/a.png"
MANY = [REFERENCE] * 20


def order(**fields):
    return read_order({"prompt": "a red fox"} | fields)


@pytest.mark.parametrize(
    ("fields", "pixels", "images"),
    [
        ({"model": "gemini-3-pro-image-preview"}, (2048, 2048), 1),
        ({"model": "gemini-3-pro-image-preview", "size": "16:9", "quality": "1K"}, (1365, 768), 1),
        ({"model": "gemini-3.1-flash-image-preview", "size": "8:1", "quality": "0.5K"}, (1448, 181), 1),
        ({"model": "nano-banana-beta", "size": "auto", "n": 4}, (1024, 1024), 1),
        ({"model": "doubao-seedream-4.0", "n": 15, "size": "4096x4096"}, (4096, 4096), 15),
        ({"model": "doubao-seedream-5.0-lite", "quality": "3K"}, (3072, 3072), 1),
        ({"model": "doubao-seedream-5.0-pro", "quality": "1.5K"}, (1536, 1536), 1),
        ({"model": "doubao-seedream-5.0-pro-layerize", "image_urls": [REFERENCE], "prompt": None}, (1024, 1024), 3),
        ({"model": "qwen-image-3.0", "n": 6, "image_urls": [], "seed": 0}, (1024, 1024), 6),
        ({"model": "qwen-image-edit", "image_urls": [REFERENCE], "size": "ignored"}, (1024, 1024), 1),
        ({"model": "qwen-image-edit-plus", "image_urls": [REFERENCE], "size": "512x2048"}, (512, 2048), 1),
        ({"model": "wan2.5-text-to-image", "size": "1440x1440", "n": 4}, (1440, 1440), 4),
        ({"model": "z-image-turbo", "size": "376x1536"}, (376, 1536), 1),
        ({"model": "krea-2-turbo", "quality": "2K", "size": "1:1"}, (2048, 2048), 1),
        ({"model": "grok-imagine-image-2.0", "size": "19.5:9", "resolution": "2k", "n": 10}, (3015, 1391), 10),
        ({"model": "mj-v7", "model_params": {"speed": "turbo", "image_number": 3}}, (1024, 1024), 4),
        ({"model": "mj-v8.2-remix", "quality": "hd"}, (1024, 1024), 4),
    ],
)  # fmt: skip
def test_documented_values_are_accepted(fields, pixels, images):
    accepted = order(**fields)
    assert (accepted.pixels, accepted.images) == (pixels, images)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": "gemini-3-pro-image-preview", "size": "1:8"}, "size"),
        ({"model": "gemini-3-pro-image-preview", "size": "1024x1024"}, "size"),
        ({"model": "gemini-3-pro-image-preview", "quality": "0.5K"}, "quality"),
        ({"model": "gemini-3-pro-image-preview", "image_urls": MANY[:15]}, "image_urls"),
        ({"model": "gemini-3.1-flash-lite-image", "quality": "2K"}, "quality"),
        ({"model": "gemini-3.1-flash-image-preview", "model_params": {"thinking_level": "max"}},
         "model_params.thinking_level"),
        ({"model": "nano-banana-beta", "image_urls": MANY[:6]}, "image_urls"),
        ({"model": "doubao-seedream-4.0", "n": 16}, "n"),
        ({"model": "doubao-seedream-4.0", "n": 10, "image_urls": MANY[:6]}, "n"),
        ({"model": "doubao-seedream-4.5", "size": "1024x1024"}, "size"),
        ({"model": "doubao-seedream-4.5", "quality": "1K"}, "quality"),
        ({"model": "doubao-seedream-5.0-flash", "prompt_priority": "fast"}, "prompt_priority"),
        ({"model": "doubao-seedream-5.0-flash-layerize"}, "image_urls"),
        ({"model": "doubao-seedream-5.0-pro-layerize", "image_urls": MANY[:2]}, "image_urls"),
        ({"model": "qwen-image-3.0", "n": 7}, "n"),
        ({"model": "qwen-image-3.0", "negative_prompt": "x" * 501}, "negative_prompt"),
        ({"model": "qwen-image-3.0", "seed": -1}, "seed"),
        ({"model": "qwen-image-edit"}, "image_urls"),
        ({"model": "qwen-image-edit-plus", "image_urls": MANY[:1], "n": 2, "size": "512x512"}, "size"),
        ({"model": "wan2.5-text-to-image", "image_urls": MANY[:1]}, "image_urls"),
        ({"model": "wan2.5-text-to-image", "size": "2000x400"}, "size"),
        ({"model": "wan2.5-image-to-image", "image_urls": MANY[:3]}, "image_urls"),
        ({"model": "z-image-turbo", "size": "300x1000"}, "size"),
        ({"model": "z-image-turbo", "prompt": "x" * 2001}, "prompt"),
        ({"model": "krea-2-turbo", "size": "auto"}, "size"),
        ({"model": "krea-2-turbo", "seed": 1_048_577}, "seed"),
        ({"model": "grok-imagine-image-2.0", "quality": "high"}, "quality"),
        ({"model": "grok-imagine-image-2.0", "resolution": "4K"}, "resolution"),
        ({"model": "mj-v7", "model_params": {"speed": "slow"}}, "model_params.speed"),
        ({"model": "mj-v7", "model_params": []}, "model_params"),
        ({"model": "mj-v8.1", "quality": "best"}, "quality"),
    ],
)  # fmt: skip
def test_what_no_page_allows_is_refused_by_name(fields, param):
    with pytest.raises(Refusal) as refusal:
        order(**fields)
    assert (refusal.value.status, refusal.value.param) == (400, param)


@pytest.mark.parametrize("model", sorted(MODELS))
def test_every_model_takes_its_own_defaults(model):
    rules = rules_for(model)
    urls = {"image_urls": [REFERENCE]} if rules.references.required else {}
    given = order(model=model, **urls)
    assert given.pixels[0] > 0
    assert given.images >= 1
    assert rules.qualities is None or given.quality in rules.qualities


@pytest.mark.parametrize("model", ["gemini-3-pro-image-preview", "mj-v7", "doubao-seedream-5.0-lite"])
def test_other_models_make_images_too(customer, model):
    task = customer.finished(model=model, quality=None)
    assert customer.image(task["results"][0]).width >= 1024
    assert len(task["results"]) == (4 if model == "mj-v7" else 1)
