"""What ``evoimage sizes`` says of a channel: the size to request, what it loses, and what it costs."""

from __future__ import annotations

from dataclasses import replace

from airflow_provider_evoimage.command.estimates import sized
from airflow_provider_evoimage.evolink.pricing import estimate
from airflow_provider_evoimage.evolink.request import ImageRequest
from airflow_provider_evoimage.images.channels import CHANNELS


def test_size_comes_with_what_it_loses_and_costs():
    cost = estimate(ImageRequest.build(model="gpt-image-1.5", prompt="x", size="1024x1536"), (0, 0))
    assert cost is not None
    found = sized("gpt-image-1.5", CHANNELS["meta.story"])
    described = {
        "channel": "meta.story",
        "width": 1080,
        "height": 1920,
        "size": "1024x1536",
        "cropped": 0.1562,
        "scaled": 1.25,
    }
    credits_ = {"credits_low": float(cost.credits_low), "credits_high": float(cost.credits_high)}
    assert found.to_json() == {**described, **credits_}
    unknown = {"credits_low": None, "credits_high": None}
    assert replace(found, estimate=None).to_json() == {**described, **unknown}


def test_model_of_ratios_tells_no_pixels():
    found = sized("gpt-image-2-beta", CHANNELS["meta.story"]).to_json()
    assert (found["size"], found["cropped"], found["scaled"]) == ("9:16", 0.0, None)
