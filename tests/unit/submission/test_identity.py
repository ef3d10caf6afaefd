"""Which changes make another request, and which do not: the key is what stands between a retry and a second bill."""

import inspect
import json
import re
from dataclasses import fields, replace
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_evoimage.evolink.request import ImageRequest
from airflow_provider_evoimage.evolink.signed_urls import unsigned, without_secrets
from airflow_provider_evoimage.submission.identity import RequestIdentity, fingerprint
from airflow_provider_evoimage.submission.submit import identity_of

VALID_KEY = re.compile(r"[A-Za-z0-9._-]{16,96}")
REFERENCE = "https://bucket.example.com/photos/shoe.png"

# Any text at all, lone surrogates among it: ids come from people's DAGs.
anything = st.text(st.characters(codec=None), max_size=300)

IDENTITY = RequestIdentity(
    namespace="",
    dag_id="campaign",
    run_id="scheduled__2026-05-01",
    task_id="draw",
    epoch=2,
    fingerprint="f" * 64,
)

identities = st.builds(
    RequestIdentity,
    namespace=anything,
    dag_id=anything,
    run_id=anything,
    task_id=anything,
    item=anything,
    epoch=st.integers(0, 10**6),
    fingerprint=st.text("0123456789abcdef", min_size=64, max_size=64),
    occurrence=st.integers(0, 10**6),
    sequence=st.integers(0, 10**6),
)

requests = st.fixed_dictionaries(
    {
        "model": st.sampled_from(["gpt-image-1", "gpt-image-1.5", "some-new-model"]),
        "prompt": st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1).filter(
            str.strip
        ),
    },
    optional={
        "size": st.sampled_from(["1:1", "1024x1024", "1024x1536"]),
        "quality": st.sampled_from(["low", "medium", "high"]),
        "n": st.integers(1, 10),
        "image_urls": st.lists(st.just(REFERENCE) | st.just(f"{REFERENCE}?versionId=7"), max_size=3),
        "extra_body": st.fixed_dictionaries({"seed": st.integers(), "style": st.lists(st.booleans())}),
    },
)


def built(**changes: Any) -> ImageRequest:
    return ImageRequest.build(
        **{
            "model": "gpt-image-1.5",
            "prompt": "a red fox",
            "size": "1024x1024",
            "quality": "low",
            "n": 1,
            "image_urls": [REFERENCE],
            "extra_body": {"seed": 1},
        }
        | changes
    )


@given(identities)
def test_same_request_has_the_same_key_on_every_try(identity: RequestIdentity) -> None:
    again = RequestIdentity(**{field.name: getattr(identity, field.name) for field in fields(identity)})
    assert again.idempotency_key == identity.idempotency_key


@given(identities)
def test_key_is_always_what_evolink_accepts(identity: RequestIdentity) -> None:
    assert VALID_KEY.fullmatch(identity.idempotency_key)


@given(identities, identities)
def test_two_different_requests_never_share_a_key(one: RequestIdentity, other: RequestIdentity) -> None:
    assert (one == other) == (one.idempotency_key == other.idempotency_key)


@pytest.mark.parametrize(
    "change",
    [
        {"epoch": 3},
        {"sequence": 1},
        {"occurrence": 1},
        {"item": "a shoe"},
        {"run_id": "scheduled__2026-05-02"},
        {"dag_id": "campaign2"},
        {"task_id": "draw_again"},
        {"namespace": "staging"},
        {"fingerprint": "e" * 64},
    ],
    ids=lambda change: next(iter(change)),
)
def test_each_part_of_the_identity_makes_another_key(change: dict[str, Any]) -> None:
    assert replace(IDENTITY, **change).idempotency_key != IDENTITY.idempotency_key


def test_parts_cannot_run_into_one_another() -> None:
    one = replace(IDENTITY, dag_id="a", run_id="bc")
    other = replace(IDENTITY, dag_id="ab", run_id="c")
    assert one.idempotency_key != other.idempotency_key


def test_key_tells_a_reader_where_it_comes_from() -> None:
    assert IDENTITY.idempotency_key.startswith("airflow-evoimage-")


def test_api_key_try_number_and_host_have_no_place_in_the_identity() -> None:
    names = {field.name for field in fields(RequestIdentity)}
    assert names == {
        "namespace",
        "dag_id",
        "run_id",
        "task_id",
        "item",
        "epoch",
        "fingerprint",
        "occurrence",
        "sequence",
    }
    assert set(inspect.signature(fingerprint).parameters) == {"request", "variant"}


@given(st.integers(1, 50), st.integers(1, 50))
def test_try_number_of_a_task_instance_does_not_change_its_key(one: int, other: int) -> None:
    assert _key_of_try(one) == _key_of_try(other)


def _key_of_try(number: int) -> str:
    class TaskInstance:
        dag_id, run_id, task_id, map_index, max_tries = "campaign", "run", "draw", -1, 3
        try_number = number

    identity = identity_of({"ti": TaskInstance()}, namespace="", fingerprint="f" * 64)
    return identity.idempotency_key


@given(requests)
def test_same_fields_have_the_same_fingerprint(given_fields: dict[str, Any]) -> None:
    backwards = dict(reversed(given_fields.items()))
    assert fingerprint(ImageRequest.build(**given_fields)) == fingerprint(ImageRequest.build(**backwards))


@given(requests, requests)
def test_requests_share_a_fingerprint_only_when_their_bodies_agree(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    first, second = ImageRequest.build(**one), ImageRequest.build(**other)
    assert (first.body() == second.body()) == (fingerprint(first) == fingerprint(second))


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "a red fox "},
        {"prompt": "a blue fox"},
        {"model": "gpt-image-1"},
        {"size": "1024x1536"},
        {"quality": "high"},
        {"n": 2},
        {"image_urls": [REFERENCE, REFERENCE]},
        {"image_urls": []},
        {"image_urls": ["https://bucket.example.com/photos/boot.png"]},
        {"image_urls": [f"{REFERENCE}?versionId=2"]},
        {"extra_body": {"seed": 2}},
        {"extra_body": {"seed": "1"}},
        {"extra_body": {}},
    ],
    ids=str,
)
def test_billable_change_makes_another_fingerprint(change: dict[str, Any]) -> None:
    assert fingerprint(built(**change)) != fingerprint(built())


ADDRESS = f"sha256:{'a' * 64}"
MASKED: dict[str, Any] = {"model": "gpt-image-2", "prompt": "x", "image_urls": [ADDRESS]}


def test_uploaded_references_and_mask_count_by_content() -> None:
    request = ImageRequest.build(**MASKED, extra_body={"mask_url": ADDRESS})
    other = f"sha256:{'b' * 64}"
    changed = [
        ImageRequest.build(**{**MASKED, "image_urls": [other]}, extra_body={"mask_url": ADDRESS}),
        ImageRequest.build(**MASKED, extra_body={"mask_url": other}),
        ImageRequest.build(**MASKED),
    ]
    assert len({fingerprint(each) for each in [request, *changed]}) == 4


def test_mask_signed_again_is_the_same_request() -> None:
    link = "https://bucket.s3.amazonaws.com/m.png?X-Amz-Date={0}&X-Amz-Signature={0}"
    one, other = (ImageRequest.build(**MASKED, extra_body={"mask_url": link.format(time)}) for time in (1, 2))
    assert fingerprint(one) == fingerprint(other)


def test_order_of_references_counts_because_models_read_it() -> None:
    one, other = REFERENCE, "https://bucket.example.com/photos/boot.png"
    assert fingerprint(built(image_urls=[one, other])) != fingerprint(built(image_urls=[other, one]))


@pytest.mark.parametrize("callback", ["https://hooks.example.com/a", "https://hooks.example.com/b?token=1"])
def test_callback_url_is_no_other_request(callback: str) -> None:
    assert fingerprint(built(callback_url=callback)) == fingerprint(built())


def test_documented_default_is_the_same_request_as_writing_it_out() -> None:
    written = ImageRequest.build(model="gpt-image-1.5", prompt="a fox", size="1024x1024", quality="high", n=1)
    assert fingerprint(written) == fingerprint(ImageRequest.build(model="gpt-image-1.5", prompt="a fox"))


def signed_by_aws(at: str) -> dict[str, str]:
    return {
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": f"AKIA/{at}/eu-west-1/s3/aws4_request",
        "X-Amz-Date": at,
        "X-Amz-Expires": "3600",
        "X-Amz-SignedHeaders": "host",
        "X-Amz-Security-Token": f"token{at}",
        "X-Amz-Signature": f"abc{at}",
    }


def signed_by_old_aws(at: str) -> dict[str, str]:
    return {"AWSAccessKeyId": f"AKIA{at}", "Signature": f"abc{at}=", "Expires": at}


def signed_by_google(at: str) -> dict[str, str]:
    return {
        "X-Goog-Algorithm": "GOOG4-RSA-SHA256",
        "X-Goog-Credential": f"robot/{at}",
        "X-Goog-Date": at,
        "X-Goog-Expires": "600",
        "X-Goog-SignedHeaders": "host",
        "X-Goog-Signature": f"abc{at}",
    }


def signed_by_old_google(at: str) -> dict[str, str]:
    return {"GoogleAccessId": f"robot{at}", "Expires": at, "Signature": f"a+b/{at}"}


def signed_by_azure(at: str) -> dict[str, str]:
    return {
        "sv": "2024-11-04",
        "st": at,
        "se": f"{at}0",
        "sr": "b",
        "sp": "r",
        "spr": "https",
        "skoid": f"o{at}",
        "sktid": "t",
        "skt": at,
        "ske": f"{at}1",
        "sks": "b",
        "skv": "2024-11-04",
        "sig": f"abc%{at}",
    }


def signed_by_cloudfront(at: str) -> dict[str, str]:
    return {"Expires": at, "Signature": f"abc{at}", "Key-Pair-Id": f"K{at}", "Policy": f"p{at}"}


def signed_by_tencent(at: str) -> dict[str, str]:
    return {
        "q-sign-algorithm": "sha1",
        "q-ak": f"AKID{at}",
        "q-sign-time": f"{at};{at}0",
        "q-key-time": f"{at};{at}0",
        "q-header-list": "host",
        "q-url-param-list": "",
        "q-signature": f"abc{at}",
        "x-cos-security-token": f"token{at}",
    }


def signed_by_volcano(at: str) -> dict[str, str]:
    return {"X-Tos-Date": at, "X-Tos-Credential": f"AKLT{at}", "X-Tos-Signature": f"abc{at}"}


def signed_by_alibaba(at: str) -> dict[str, str]:
    return {"OSSAccessKeyId": f"K{at}", "Expires": at, "Signature": f"abc{at}=", "security-token": f"t{at}"}


SIGNERS = [
    signed_by_aws,
    signed_by_old_aws,
    signed_by_google,
    signed_by_old_google,
    signed_by_azure,
    signed_by_cloudfront,
    signed_by_tencent,
    signed_by_volcano,
    signed_by_alibaba,
]


@pytest.mark.parametrize("sign", SIGNERS)
@given(one=st.integers(10**9, 10**10), other=st.integers(10**9, 10**10))
def test_signing_a_reference_anew_is_no_other_request(sign: Any, one: int, other: int) -> None:
    first = f"{REFERENCE}?versionId=7&{urlencode(sign(str(one)))}"
    second = f"{REFERENCE}?{urlencode(sign(str(other)))}&versionId=7"
    assert fingerprint(built(image_urls=[first])) == fingerprint(built(image_urls=[second]))


@pytest.mark.parametrize("sign", SIGNERS)
def test_signature_does_not_hide_which_object_is_meant(sign: Any) -> None:
    query = urlencode(sign("1"))
    one, other = f"{REFERENCE}?versionId=7&{query}", f"{REFERENCE}?versionId=8&{query}"
    assert fingerprint(built(image_urls=[one])) != fingerprint(built(image_urls=[other]))


@pytest.mark.parametrize("sign", SIGNERS)
def test_nothing_of_a_signature_is_left(sign: Any) -> None:
    assert unsigned(f"{REFERENCE}?{urlencode(sign('1757156400'))}") == REFERENCE


@pytest.mark.parametrize("query", ["expires=1", "policy=blue", "se=1&st=2", "sv=3", "page=2&sort=sp"])
def test_parameters_of_unsigned_urls_count_whatever_their_names(query: str) -> None:
    assert unsigned(f"{REFERENCE}?{query}") == f"{REFERENCE}?{query}"


@pytest.mark.parametrize(
    "url", ["https://a.example.com/?a=%ff", "https://a.example.com/?a=b%20c&&d", "http://[::1/x"]
)
def test_url_that_is_not_signed_stays_as_it_is(url: str) -> None:
    assert unsigned(url) == without_secrets(url) == url


@pytest.mark.parametrize("name", ["x-oss-process", "X-Tos-Process"])
def test_what_a_store_draws_on_the_way_is_no_signature(name: str) -> None:
    url = f"{REFERENCE}?{name}=image/resize,w_100"
    assert unsigned(f"{url}&x-oss-signature=a&X-Tos-Signature=b") == url


@pytest.mark.parametrize(
    "place", [lambda url: url, lambda url: {"layers": [{"image": url}]}], ids=["flat", "deep"]
)
@pytest.mark.parametrize("sign", SIGNERS)
def test_signing_a_url_of_extra_body_anew_is_no_other_request(sign: Any, place: Any) -> None:
    def styled(at: str, name: str = "style.png") -> str:
        url = f"https://shop.example.com/{name}?{urlencode(sign(at))}"
        return fingerprint(built(extra_body={"style": place(url)}))

    assert styled("1") == styled("2")
    assert styled("1") != styled("1", "other.png")


def test_new_password_in_a_url_is_no_other_request() -> None:
    one, other = (f"https://shop:{word}@shop.example.com/a.png" for word in ("old", "new"))
    assert fingerprint(built(image_urls=[one])) == fingerprint(built(image_urls=[other]))


def test_token_counts_as_it_may_tell_which_object_is_meant() -> None:
    one, other = (f"https://shop.example.com/get?token={token}" for token in "ab")
    assert fingerprint(built(image_urls=[one])) != fingerprint(built(image_urls=[other]))


def test_prompt_counts_to_the_letter_also_where_it_begins_like_a_url() -> None:
    one, other = (f"https://shop.example.com/#{part} as a poster" for part in "ab")
    assert fingerprint(built(prompt=one)) != fingerprint(built(prompt=other))


def test_request_that_is_sent_keeps_its_urls() -> None:
    url = f"https://u:p@shop.example.com/a.png?token=t&{urlencode(signed_by_aws('1'))}#x"
    request = built(image_urls=[url], extra_body={"layers": [{"image": url}]})
    before = json.dumps(request.body())
    fingerprint(request)
    assert json.dumps(request.body()) == before
    assert before.count(url) == 2


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://u:pa55@a.example.com:8443/x.png", "https://a.example.com:8443/x.png"),
        ("https://pa55@[2001:db8::1]/x.png", "https://[2001:db8::1]/x.png"),
        ("https://a.example.com/x?v=1&access_token=pa55", "https://a.example.com/x?v=1&access_token=***"),
        ("https://a.example.com/x?X-Api-Key=pa55&v=1", "https://a.example.com/x?X-Api-Key=***&v=1"),
        ("https://a.example.com/x?t%6Fken=pa55", "https://a.example.com/x?t%6Fken=***"),
        ("https://a.example.com/x?sig=pa55", "https://a.example.com/x?sig=***"),
        ("https://a.example.com/x?max_tokens=5&design=1", "https://a.example.com/x?max_tokens=5&design=1"),
        ("https://a.example.com/x#token=pa55", "https://a.example.com/x"),
    ],
)
def test_url_for_people_holds_nothing_that_lets_somebody_in(url: str, shown: str) -> None:
    assert without_secrets(url) == shown


@given(st.text("htps:/?&=#@[]%2e.a", max_size=40).map("https://".__add__))
def test_any_url_can_be_unsigned(url: str) -> None:
    assert "#" not in unsigned(url) or unsigned(url) == url
    assert without_secrets(url).startswith("https:")
