"""Names of the images of a save: the fields they are made of, and which of them collide."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from airflow_provider_evoimage.evolink.answers import Generation
from airflow_provider_evoimage.manifest import RequestSummary
from airflow_provider_evoimage.storage.destination import Destination
from airflow_provider_evoimage.storage.file_names import FileNames
from airflow_provider_evoimage.storage.image_names import GenerationToSave, ImageNames
from airflow_provider_evoimage.storage.stores import LocalFiles

MADE_BY = {"dag_id": "campaign", "run_id": "run", "task_id": "draw", "map_index": -1}


def task(letter: str) -> str:
    return f"task-unified-1757156400-{letter * 8}"


def to_save(
    letter: str = "a", *, images: int = 1, requested: int | None = None, **fields: Any
) -> GenerationToSave:
    links = [f"https://files.evolink.ai/{letter}{index}.png" for index in range(images)]
    body = {"id": task(letter), "status": "completed", "results": links, "model": "gpt-image-1.5"}
    return GenerationToSave(
        generation=Generation.read(body), requested=RequestSummary(request={}, images=requested), **fields
    )


@pytest.fixture
def names_of(tmp_path: Path) -> Any:
    return lambda template: ImageNames(FileNames(template), Destination(str(tmp_path)), MADE_BY)


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({}, "campaign/0-0-1.png"),
        ({"item": 3}, "campaign/3-3-1.png"),
        ({"item": 3, "name": "fox"}, "campaign/3-fox-1.png"),
    ],
)
def test_item_without_a_name_is_named_by_its_place(names_of: Any, fields: dict[str, Any], name: str) -> None:
    names = names_of("{dag_id}/{item}-{name}-{index}.{ext}")
    assert names.name(names.images_of(to_save(images=2, **fields))[1], "png") == name


def test_generation_without_a_model_has_a_name_all_the_same(names_of: Any) -> None:
    names = names_of("{model}-{evolink_task_id}.{ext}")
    each = to_save()
    assert names.name(names.image(each, 0), "png") == f"gpt-image-1.5-{task('a')}.png"
    bare = GenerationToSave(generation=Generation(evolink_task_id=task("a")), requested=each.requested)
    assert names.name(names.image(bare, 0), "png") == f"unknown-model-{task('a')}.png"


def test_sidecar_is_named_like_the_first_image(names_of: Any) -> None:
    names = names_of("x-{index}.{ext}")
    for image in names.images_of(to_save(images=3, requested=1)):
        assert names.sidecar(image) == "x-0.json"


def test_sidecar_of_an_extra_image_is_that_of_its_generation(names_of: Any) -> None:
    names = names_of("x.{ext}")
    images = names.images_of(to_save(images=3, requested=1))
    assert [names.sidecar(image) for image in images] == ["x.json"] * 3
    assert len({names.name(image, "png") for image in images}) == 3


def test_names_that_differ_after_a_dot_are_two(names_of: Any) -> None:
    names = names_of("{name}.{ext}")
    assert names.refused([to_save("a", name="v1.2"), to_save("b", name="v1.3")]) == {}
    assert names.is_free("v1.4.png", task("c"))
    assert not names.is_free("v1.3.png", task("c"))


@pytest.mark.parametrize(("requested", "extra"), [(None, []), (0, [1, 2]), (1, [1, 2]), (2, [2]), (3, [])])
def test_images_beyond_the_requested_number_are_extra(
    names_of: Any, requested: int | None, extra: list[int]
) -> None:
    images = names_of("x-{index}.{ext}").images_of(to_save(images=3, requested=requested))
    assert [image.index for image in images if image.is_extra] == extra
    assert [image.url[-6:] for image in images] == ["a0.png", "a1.png", "a2.png"]


def test_image_may_have_one_name_for_each_type(names_of: Any) -> None:
    names = names_of("x.{ext}")
    possible = list(names.possible(names.image(to_save(), 0)))
    assert len(possible) == len(set(possible))
    assert {"x.png", "x.jpg", "x.webp"} <= set(possible)


def test_generations_that_share_a_name_are_refused_from_the_second_on(names_of: Any) -> None:
    names = names_of("x.{ext}")
    refused = names.refused([to_save("a"), to_save("b"), to_save("c", images=2)])
    assert list(refused) == [1, 2]
    assert refused[1].billed is True
    assert refused[1].evolink_task_id == task("b")
    assert "'x.{ext}'" in str(refused[1])


def test_other_generations_are_checked_though_one_is_refused(names_of: Any) -> None:
    names = names_of("{name}-{index}.{ext}")
    given = [to_save("a", name="n"), to_save("b", images=2, name="n"), to_save("c", name="m")]
    assert list(names.refused(given)) == [1]
    assert names.refused([to_save("d", name="m")]) == {}


def test_extra_image_takes_no_name_that_another_generation_has(names_of: Any) -> None:
    names = names_of("{name}.{ext}")
    extra = to_save("a", images=2, requested=1, name="n")
    its_name = names.name(names.image(extra, 1), "png").removesuffix(".png")
    assert list(names.refused([extra, to_save("b", name=its_name)])) == [0]
    later = names_of("{name}.{ext}")
    assert later.refused([to_save("b", name=its_name)]) == {}
    assert list(later.refused([extra])) == [0]
    own = names_of("{name}.{ext}")
    assert own.refused([extra]) == {}
    assert own.refused([extra]) == {}


def test_name_is_free_unless_another_generation_of_these_saves_has_it(names_of: Any) -> None:
    names = names_of("{name}.{ext}")
    assert names.is_free("n.png", task("a"))
    names.refused([to_save("a", name="n")])
    assert names.is_free("n.png", task("a"))
    assert not names.is_free("N.webp", task("b"))
    assert names.is_free("m.png", task("b"))


def test_name_that_the_store_finds_too_long_is_that_of_a_paid_image(
    names_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalFiles, "longest_path", 60)
    refused = names_of("x" * 100 + "-{index}.{ext}").refused([to_save()])
    assert (refused[0].billed, refused[0].evolink_task_id) == (True, task("a"))
    assert "clear the task; the links live 24 hours" in str(refused[0])
