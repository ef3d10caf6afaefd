"""A reference that is signed again is the same reference; another one is not."""

from __future__ import annotations

import pytest

from airflow_provider_evoimage.evolink.signed_urls import unsigned, without_secrets

PICTURE = "https://cdn.example.com/pictures/fox.png"
PROOF = "3f9cA1b2c3d4e5f60718"
OTHER = "00ffB1b2c3d4e5f60718"


@pytest.mark.parametrize(
    "query",
    [
        "token={}&expires={}",
        "signature={}&Expires={}",
        "hmac={}&expiry={}",
        "sign={}&t={}",
        "ik-s={}&ik-t={}",
        "token={}&e={}",
    ],
)
def test_what_a_cdn_signs_again_is_the_same_reference(query: str) -> None:
    first = f"{PICTURE}?width=300&{query.format(PROOF, 1_795_700_000)}"
    second = f"{PICTURE}?width=300&{query.format(OTHER, 1_795_800_000)}"
    assert unsigned(first) == unsigned(second) == f"{PICTURE}?width=300"
    assert PROOF not in without_secrets(first)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (f"ex=6a2b3c4d&is=6a1b3c4d&hm={PROOF}", f"ex=6a3b3c4d&is=6a2b3c4d&hm={OTHER}"),
        (f"auth_key=1795700000-0-0-{PROOF}", f"auth_key=1795800000-0-0-{OTHER}"),
        (f"verify=1795700000-{PROOF}", f"verify=1795800000-{OTHER}"),
        (f"hdnts=exp=1795700000~hmac={PROOF}", f"hdnts=exp=1795800000~hmac={OTHER}"),
        ("token=eyJhbGciOi.eyJ1cmwi.abc_-1", "token=eyJhbGciOi.eyJ1cmwj.xyz_-2"),
        (
            f"expires=2026-11-27T10:00:00Z&signature={PROOF}",
            f"expires=2026-11-28T10:00:00Z&signature={OTHER}",
        ),
    ],
)
def test_what_other_services_sign_again_is_the_same_reference(first: str, second: str) -> None:
    assert unsigned(f"{PICTURE}?{first}") == unsigned(f"{PICTURE}?{second}") == PICTURE


def test_links_over_plain_http_are_signed_again_as_well() -> None:
    first = f"http://cdn.example.com/fox.png?token={PROOF}&expires=1795700000"
    assert unsigned(first) == "http://cdn.example.com/fox.png"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        # A token that names the object, as Firebase's.
        (f"alt=media&token={PROOF}", f"alt=media&token={OTHER}"),
        ("t=1&e=2&token=front", "t=1&e=2&token=back"),
        ("e=1795700000&name=front", "e=1795700000&name=back"),
        (f"hash={PROOF}&t=1795700000", f"hash={OTHER}&t=1795700000"),
        ("verify=front", "verify=back"),
        (f"token={PROOF}&expires=1795700000&page=1", f"token={PROOF}&expires=1795700000&page=2"),
    ],
)
def test_other_pictures_stay_other_references(first: str, second: str) -> None:
    assert unsigned(f"{PICTURE}?{first}") != unsigned(f"{PICTURE}?{second}")
