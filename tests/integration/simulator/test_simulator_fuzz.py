"""Junk of every kind on every route: it is refused, and never breaks the simulator."""

import base64
import json
import string

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_provider_evoimage.simulator.documents.catalog import MODELS
from tests.integration.simulator.test_simulator_uploads import image_file

ROUTES = [
    "/", "/v1/images/generations", "/v1/tasks", "/v1/tasks/batch", "/v1/tasks/{}", "/v1/credits", "/v1/models",
    "/v1/catalog/models", "/v1/catalog/health", "/files/{}", "/files/{}/images/{}", "/api/v1/files/list",
    "/api/v1/files/quota", "/api/v1/files/upload/stream", "/api/v1/files/upload/base64",
    "/api/v1/files/upload/url", "/api/v1/files/upload-receipts/{}", "/api/v1/files/{}",
    "/api/v1/files/download/{}", "/files-api/api/v1/files/{}", "/_simulator/pictures/{}/{}", "/{}",
    "/_simulator/faults", "/_simulator/settings", "/_simulator/generations/{}", "/_simulator/callbacks",
]  # fmt: skip
FIELDS = [
    "model", "prompt", "size", "quality", "n", "image_urls", "mask_url", "callback_url", "model_params",
    "task_ids", "base64_data", "file_url", "upload_path", "file_name", "seed", "resolution", "output_format",
    "route", "kind", "status", "times", "probability", "seconds", "retry_after", "duration", "end", "code",
]  # fmt: skip
# Settings after which the simulator rightly answers with errors or waits are left out.
WORDS = st.sampled_from([
    "gpt-image-2", "a red fox", "16:9", "1024x1024", "0x0", "99999x99999", "4K", "auto", "high", "completed", "cut",
    "http://localhost:1/x", "https://[", "data:image/png;base64,AA==", "../..", "\ud800", "[[results:9]]",
    "http://127.0.0.1/files/x/y.png", "%00", "file", "status",
])  # fmt: skip
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 20) | st.floats() | st.text(max_size=8) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=3),
    max_leaves=6,
)
OBJECTS = st.dictionaries(st.sampled_from(FIELDS), JUNK, max_size=8).map(
    lambda body: {"model": "gpt-image-2", "prompt": "x"} | body
)
BODIES = st.one_of(
    st.just(b""),
    st.binary(max_size=60),
    JUNK.map(lambda value: json.dumps(value).encode()),
    OBJECTS.map(lambda value: json.dumps(value).encode()),
    st.binary(max_size=40).map(
        lambda part: (
            b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + part + b"\r\n--b--"
        )
    ),
)
VISIBLE = st.text(string.ascii_letters + string.digits + "-._~ /;=\"'\\,:", max_size=20)
CONTENT_TYPES = st.sampled_from(
    ["application/json", "multipart/form-data; boundary=b", "multipart/form-data", ";"]
)
QUERIES = st.dictionaries(
    st.sampled_from(["page", "page_size", "pageSize", "status", "type", "model"]),
    st.text(max_size=6),
    max_size=3,
)
HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "authorization": VISIBLE.map(lambda text: f"Bearer k{text}".strip()) | VISIBLE.map(str.strip),
        "idempotency-key": VISIBLE.map(str.strip),
        "x-evo-upload-id": VISIBLE.map(str.strip),
        "content-type": CONTENT_TYPES,
        "range": st.just("bytes=5-"),
    },
)  # fmt: skip
METHODS = st.sampled_from(["GET", "POST", "DELETE", "PUT", "HEAD", "OPTIONS"])
KEY = {"authorization": "Bearer sk-fuzz"}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    METHODS,
    st.sampled_from(ROUTES),
    st.text(max_size=12),
    QUERIES,
    BODIES,
    HEADERS,
)  # fmt: skip
def test_nothing_breaks_the_simulator(customer, method, route, part, query, body, headers):
    try:
        url = httpx.URL(customer.url + route.replace("{}", _quoted(part)), params=_plain(query))
    except httpx.InvalidURL:
        return
    answer = customer.files.request(method, url, content=body, headers=KEY | headers)
    if route.startswith("/_simulator"):
        customer.state.faults.clear()
        customer.control("POST", "reset")
    assert answer.headers["x-request-id"]
    assert answer.status_code < 500, (answer.status_code, answer.text)


MODEL_NAMES = st.sampled_from([*MODELS, "some-new-model"])
ORDERS = st.fixed_dictionaries(
    {"model": MODEL_NAMES, "prompt": st.just("a red fox") | WORDS | st.text(max_size=30)},
    optional={
        "size": WORDS | JUNK,
        "quality": st.sampled_from(["low", "1K", "4K", "auto", "hd"]) | JUNK,
        "resolution": st.sampled_from(["1k", "2K", "4K"]) | JUNK,
        "n": st.integers(-1, 16) | JUNK,
        "image_urls": st.lists(WORDS | st.just("https://example.com/a.png"), max_size=3) | JUNK,
        "mask_url": WORDS | JUNK,
        "callback_url": WORDS | JUNK,
        "model_params": OBJECTS | JUNK,
        "seed": JUNK,
        "background": st.just("transparent") | JUNK,
        "output_format": st.sampled_from(["png", "jpeg", "webp"]) | JUNK,
    },
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ORDERS)
def test_no_order_breaks_the_simulator(customer, order):
    answer = customer.http.post("/v1/images/generations", content=json.dumps(order))
    assert answer.status_code in (200, 400, 402), answer.text
    if answer.status_code == 200:
        customer.pass_time(60)
        task = customer.task(answer.json()["id"])
        assert task["status"] in ("completed", "failed")
        assert customer.http.get("/").status_code == 200
    assert customer.http.get("/v1/tasks").status_code == 200
    customer.control("POST", "settings", credits=1000)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["base64", "url"]), OBJECTS, JUNK | WORDS, JUNK | WORDS, st.booleans())
def test_no_upload_breaks_the_simulator(customer, how, body, path, name, whole):
    image = base64.b64encode(image_file()).decode() if whole else "AAAA"
    body |= {"base64_data": image, "file_url": f"{customer.url}/files/x"} if whole else {}
    body |= {"upload_path": path, "file_name": name}
    answer = customer.http.post(f"/api/v1/files/upload/{how}", content=json.dumps(body))
    assert answer.status_code in (200, 400), answer.text
    assert set(answer.json()) >= {"success", "code", "msg"}
    if answer.status_code == 200:
        link = answer.json()["data"]["file_url"]
        assert customer.files.get(link).status_code == 200, link


def _quoted(part):
    return "".join(f"%{byte:02X}" for byte in part.encode(errors="replace"))


def _plain(query):
    return {name: value.encode(errors="replace").decode() for name, value in query.items()}


@pytest.mark.parametrize(
    "name", ["token_credits", "files_quota", "concurrency", "speed", "n_behaviour", "advance"]
)
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=JUNK)
def test_no_setting_breaks_the_simulator(customer, name, value):
    headers = {"Content-Type": "application/json"}
    answer = customer.http.post("/_simulator/settings", content=json.dumps({name: value}), headers=headers)
    customer.control("POST", "reset")
    assert answer.status_code in (200, 400), answer.text
