"""The page for people: complete, quiet, and safe with any prompt."""

import io

import httpx
import pytest
from PIL import Image

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
