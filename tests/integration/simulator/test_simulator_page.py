"""The page for people: complete, quiet, and safe with any prompt."""

import html
import io
import re

import httpx
import pytest
from PIL import Image

from airflow_provider_evoimage.simulator.manual import PROMPT_WORDS
from tests.integration.simulator.test_simulator_uploads import uploaded

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&"


def page(customer):
    answer = httpx.get(f"{customer.url}/", trust_env=False)
    assert answer.status_code == 200
    return answer


def test_page_shows_what_was_made(customer):
    done = customer.finished("a red fox", n=2, image_urls=[uploaded(customer)["file_url"]])
    failed = customer.finished("a celebrity [[fail:content_policy_violation]]")
    running = customer.submit("a slow fox [[duration:20000]]", size="2:3").json()
    text = page(customer).text
    places = [text.index(task["id"]) for task in (running, failed, done)]
    assert places == sorted(places)
    for shown in ("a red fox", "gpt-image-1.5", "2:3", "low", "2 of 2 images", "1 references",
                  "content_policy_violation", "pending 0 %", "credits reserved",
                  f"{done['usage']['credits_used']:g} credits"):  # fmt: skip
        assert shown in text
    assert f"{customer.credits()['user']['remaining_credits']:,.2f}" in text
    assert 'http-equiv="refresh"' in text


def test_pictures_of_the_page_are_small_and_uncounted(customer):
    done = customer.finished(model="gpt-image-2", background="transparent", size="2048x2048")
    before = customer.counters
    answer = httpx.get(f"{customer.url}/_simulator/pictures/{done['id']}/0", trust_env=False)
    image = Image.open(io.BytesIO(answer.content))
    assert (image.format, max(image.size)) == ("JPEG", 640)
    page(customer)
    assert customer.counters == before
    assert httpx.get(f"{customer.url}/_simulator/pictures/{done['id']}/1", trust_env=False).status_code == 404
    assert httpx.get(f"{customer.url}/_simulator/pictures/nothing/0", trust_env=False).status_code == 404


def test_a_picture_opens_as_it_was_made(customer):
    done = customer.finished(model="gpt-image-2", background="transparent", size="2048x2048")
    path = f"/_simulator/pictures/{done['id']}/0"
    assert f'<a href="{path}/full"><img src="{path}"' in page(customer).text
    answer = httpx.get(f"{customer.url}{path}/full", trust_env=False)
    image = Image.open(io.BytesIO(answer.content))
    assert (answer.headers["content-type"], image.size, image.mode) == ("image/png", (2048, 2048), "RGBA")
    for missing in (f"/_simulator/pictures/{done['id']}/1/full", "/_simulator/pictures/nothing/0/full"):
        assert httpx.get(f"{customer.url}{missing}", trust_env=False).status_code == 404


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ({"text": "FOX"}, {"fox", "failed fox"}),
        ({"text": "fox", "status": "failed"}, {"failed fox"}),
        ({"status": "completed"}, {"fox", "cat"}),
        ({"model": "gpt-image-1"}, {"cat"}),
        ({"text": ""}, {"fox", "failed fox", "cat"}),
        ({"text": "nothing like this"}, set()),
    ],
)
def test_generations_are_found_by_words_status_and_model(customer, query, shown):
    customer.finished("a fox")
    customer.finished("a failed fox [[fail:service_error]]")
    customer.finished("a cat", model="gpt-image-1")
    answer = httpx.get(f"{customer.url}/", params=query, trust_env=False)
    prompts = {"fox": ">a fox<", "failed fox": ">a failed fox ", "cat": ">a cat<"}
    assert {name for name, prompt in prompts.items() if prompt in answer.text} == shown
    assert ("No generation is like that" in answer.text) is (not shown)
    # It would take away what is being typed.
    assert 'http-equiv="refresh"' not in answer.text
    for model in ("gpt-image-1", "gpt-image-1.5"):
        assert re.search(rf"<option( selected)?>{model}</option>", answer.text)


def test_a_generation_is_found_by_its_id(customer):
    done = customer.finished("a fox")
    customer.finished("a cat")
    answer = httpx.get(f"{customer.url}/", params={"text": done["id"]}, trust_env=False)
    assert answer.text.count("<article") == 1


def test_what_is_searched_for_can_put_no_code_into_the_page(customer):
    query = dict.fromkeys(("text", "status", "model"), EVIL)
    answer = httpx.get(f"{customer.url}/", params=query, trust_env=False)
    assert "<script" not in answer.text
    assert "onerror=alert(2)>" not in answer.text


def test_words_that_make_it_go_wrong_are_listed(customer):
    text = html.unescape(page(customer).text)
    assert PROMPT_WORDS in text
    assert "[[download:slow seconds=5]]" in text


@pytest.mark.parametrize("field", ["prompt", "size", "quality", "model"])
def test_no_field_can_put_code_into_the_page(customer, field):
    fields = {"prompt": "fox", "model": "some-new-model"} | {field: EVIL}
    assert customer.submit(**fields).status_code == 200
    answer = page(customer)
    assert "<script" not in answer.text
    assert "onerror=alert(2)>" not in answer.text
    assert "&lt;script&gt;" in answer.text
    assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_page_needs_no_other_resources(customer):
    customer.finished()
    text = page(customer).text
    assert 'src="http' not in text
    assert "<link" not in text
    assert "@import" not in text
    assert "url(" not in text


def test_empty_page_and_long_history(customer):
    assert "Nothing was generated yet" in page(customer).text
    for number in range(30):
        customer.submit(f"fox {number}")
    text = page(customer).text
    assert text.count("<article") == 24
    assert "and 6 earlier" in text
    assert "fox 29<" in text


def test_half_a_character_does_not_break_the_page(customer):
    body = b'{"model": "some-new-model", "prompt": "a fox", "size": "\\ud800"}'
    answer = customer.http.post(
        "/v1/images/generations", content=body, headers={"content-type": "application/json"}
    )
    assert answer.status_code == 200
    assert "a fox" in page(customer).text
