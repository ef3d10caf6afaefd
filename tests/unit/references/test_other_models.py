"""References that were read for one model are checked for each model that may be asked in its place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from airflow_provider_evoimage.evolink.model_facts import REFERENCE_RULES
from airflow_provider_evoimage.exceptions import InvalidRequestError
from airflow_provider_evoimage.references.files import KnownReferences, References, read_references

Read = Callable[..., References]


@pytest.fixture
def picture(tmp_path: Path) -> str:
    return drawn(tmp_path / "shoe.png")


def drawn(path: Path, size: tuple[int, int] = (400, 300), mode: str = "RGB") -> str:
    Image.new(mode, size).save(path)
    return str(path)


@pytest.fixture
def read() -> Iterator[Read]:
    """Read references for a model that takes nearly all; their copies live as long as the test."""
    with ExitStack() as stack:

        def references(
            *image_urls: Any, mask: str | None = None, model: str = "gpt-image-2-beta"
        ) -> References:
            return stack.enter_context(
                read_references(
                    list(image_urls),
                    None if mask is None else {"mask_url": mask},
                    model=model,
                    base_url="https://api.evolink.ai",
                    known=KnownReferences(),
                )
            )

        yield references


@pytest.mark.parametrize("other", ["gpt-4o-image", "gpt-image-1.5", "a-model-of-tomorrow"])
def test_references_that_fit_another_model_pass(read: Read, picture: str, other: str) -> None:
    read(picture, "https://example.com/hat.png").require_fit(other)


@pytest.mark.parametrize(
    ("other", "words"), [("z-image-turbo", "z-image-turbo"), ("wan2.5-image-to-image", "edges from 384")]
)
def test_references_that_another_model_does_not_take_are_refused(
    read: Read, picture: str, other: str, words: str
) -> None:
    found = read(picture)
    with pytest.raises(InvalidRequestError, match=words):
        found.require_fit(other)


def test_file_too_large_for_another_model_is_refused(
    read: Read, picture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = REFERENCE_RULES["gpt-4o-image"]
    found = read(picture)
    monkeypatch.setitem(REFERENCE_RULES, "gpt-4o-image", replace(rules, max_bytes=100))
    with pytest.raises(InvalidRequestError, match="larger than 100 bytes"):
        found.require_fit("gpt-4o-image")
    size = Path(picture).stat().st_size
    monkeypatch.setitem(REFERENCE_RULES, "gpt-4o-image", replace(rules, max_bytes=size))
    found.require_fit("gpt-4o-image")
    monkeypatch.setitem(REFERENCE_RULES, "gpt-4o-image", replace(rules, max_pixels=400 * 300 - 1))
    with pytest.raises(InvalidRequestError, match="up to 119,999"):
        found.require_fit("gpt-4o-image")


def test_mask_is_checked_for_another_model_too(read: Read, picture: str, tmp_path: Path) -> None:
    plain, clear = drawn(tmp_path / "plain.png"), drawn(tmp_path / "clear.png", mode="RGBA")
    small = drawn(tmp_path / "small.png", size=(100, 75), mode="RGBA")
    unknown = "a-model-of-tomorrow"
    read(picture, mask=clear, model=unknown).require_fit("gpt-image-2")
    read(picture, mask=plain, model=unknown).require_fit("gpt-4o-image")
    read("https://example.com/hat.png", mask=clear, model=unknown).require_fit("gpt-image-2")
    with pytest.raises(InvalidRequestError, match="no alpha channel"):
        read(picture, mask=plain, model=unknown).require_fit("gpt-image-2")
    with pytest.raises(InvalidRequestError, match="they must be the same"):
        read(picture, mask=small, model=unknown).require_fit("gpt-image-2")
    with pytest.raises(InvalidRequestError, match="a mask is a PNG"):
        read(picture, mask=drawn(tmp_path / "mask.jpg"), model=unknown).require_fit("gpt-4o-image")
