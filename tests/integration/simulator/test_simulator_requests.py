"""What a submission may say, by model."""

import pytest

REFERENCE = "https://example.com/a.png"


def refused_param(customer, **fields):
    answer = customer.submit(**fields)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["code"] in ("invalid_request", "invalid_parameters", "invalid_media_url")
    assert error["type"] == "invalid_request_error"
    return error["param"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": 7}, "prompt"),
        ({"prompt": "x" * 8001}, "prompt"),
        ({"size": "16:9"}, "size"),
        ({"size": "auto"}, "size"),
        ({"quality": "best"}, "quality"),
        ({"model": "gpt-image-1", "quality": "auto"}, "quality"),
        ({"n": 0}, "n"),
        ({"n": 11}, "n"),
        ({"n": "2"}, "n"),
        ({"n": True}, "n"),
        ({"model": "gpt-4o-image", "n": 3}, "n"),
        ({"image_urls": []}, "image_urls"),
        ({"image_urls": [REFERENCE] * 17}, "image_urls"),
        ({"image_urls": ["data:image/png;base64,AAAA"]}, "image_urls"),
        ({"image_urls": REFERENCE}, "image_urls"),
        ({"callback_url": "http://example.com/hook"}, "callback_url"),
        ({"callback_url": "https://127.0.0.1/hook"}, "callback_url"),
        ({"callback_url": "https://10.1.2.3/hook"}, "callback_url"),
        ({"callback_url": "https://localhost/hook"}, "callback_url"),
        ({"callback_url": "https://example.com/" + "x" * 2048}, "callback_url"),
        ({"model": "gpt-image-2", "size": "1000x1000"}, "size"),
        ({"model": "gpt-image-2", "size": "3840x1024"}, "size"),
        ({"model": "gpt-image-2", "resolution": "8K"}, "resolution"),
        ({"model": "gpt-image-2", "quality": "auto"}, "quality"),
        ({"model": "gpt-image-2", "output_format": "gif"}, "output_format"),
        ({"model": "gpt-image-2", "background": "transparent", "output_format": "jpeg"}, "background"),
        ({"model": "gpt-image-2", "mask_url": "file:///etc/hosts"}, "mask_url"),
        ({"model": "gpt-image-2", "prompt": "é" * 30_001}, "prompt"),
        ({"model": "gpt-image-2-beta", "size": "1024x1024"}, "size"),
    ],
)
def test_wrong_field_is_named(customer, fields, param):
    assert refused_param(customer, **fields) == param
    assert customer.counters["paid"] == 0


@pytest.mark.parametrize(
    "fields",
    [
        {"quality": "auto"},
        {"n": 10, "image_urls": [REFERENCE] * 16},
        {"size": "1024×1536"},
        {"callback_url": "https://example.com/hook"},
        {"unknown_field": 1},
        {"model": "gpt-image-1.5-beta", "n": 10},
        {"model": "gpt-image-2", "background": "transparent", "output_format": "webp"},
        {"model": "gpt-image-2", "prompt": "x" * 32_000},
        {"model": "gpt-image-2.5-sunburst", "quality": "xhigh", "resolution": "4k", "size": "21:9"},
        {"model": "gpt-image-2-beta", "quality": "whatever", "n": 5},
        {"model": "gemini-3-pro-image-preview", "quality": "4K", "size": "16:9"},
        {"model": "a-model-of-tomorrow", "size": "19.5:9"},
    ],
)
def test_everything_some_document_allows_is_accepted(customer, fields):
    answer = customer.submit(**fields)
    assert answer.status_code == 200, answer.text


def test_missing_model_is_not_found(customer):
    answer = customer.submit(model="no-such-model")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"[" * 100_000])
def test_body_that_is_no_json_object_is_refused(customer, content):
    answer = customer.http.post("/v1/images/generations", content=content)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_request"


def test_half_a_character_is_refused(customer):
    content = rb'{"model": "gpt-image-1", "prompt": "\ud800"}'
    assert customer.http.post("/v1/images/generations", content=content).status_code == 400


def test_old_error_bodies_have_integer_codes(customer):
    customer.control("POST", "settings", error_style="old")
    error = customer.submit(size="9:9").json()["error"]
    assert (error["code"], error["param"], error["type"]) == (400, "size", "invalid_request_error")
    limited = customer.submit("[[http:429]]").json()["error"]
    assert (limited["code"], limited["fallback_suggestion"]) == (429, "retry after 60 seconds")
