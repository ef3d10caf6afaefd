"""File names by a template: always inside the folder, always a name that every file system takes."""

from pathlib import PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_evoimage.defaults import INGESTED_GENERATION, MANY_GENERATIONS, ONE_GENERATION
from airflow_provider_evoimage.exceptions import InvalidRequestError
from airflow_provider_evoimage.storage.file_names import NAME_FIELDS, FileNames

FIELDS: dict[str, str | int] = {
    "dag_id": "campaign",
    "run_id": "scheduled__2026-05-01",
    "task_id": "group.draw",
    "map_index": 3,
    "name": "sku-1",
    "map_suffix": "-3",
    "item": 1,
    "index": 0,
    "ext": "png",
    "evolink_task_id": "task-unified-1757156400-abcdefgh",
    "model": "gpt-image-1.5",
}


def named(template: str, **changes: str | int) -> str:
    return FileNames(template).name(FIELDS | changes)


@pytest.mark.parametrize(
    ("template", "name"),
    [
        (ONE_GENERATION, "campaign/scheduled__2026-05-01/group.draw-3-0.png"),
        (MANY_GENERATIONS, "campaign/scheduled__2026-05-01/group.draw-3-1-0.png"),
        ("{evolink_task_id}.{ext}", "task-unified-1757156400-abcdefgh.png"),
        ("shoes/{model}/{index:03}.{ext}", "shoes/gpt-image-1.5/000.png"),
        ("{map_index:>4}-{index}.{ext}", "   3-0.png"),
        ("{{literal}}-{index}.{ext}", "{literal}-0.png"),
        ("Schuhe größer ❤-{index}.{ext}", "Schuhe größer ❤-0.png"),
        ("a//b/{index}.{ext}", "a/b/0.png"),
    ],
)
def test_template_becomes_the_name(template: str, name: str) -> None:
    assert named(template) == name


def test_task_that_is_not_mapped_has_no_suffix() -> None:
    assert named(ONE_GENERATION, map_suffix="", map_index=-1).endswith("/group.draw-0.png")


def test_every_documented_field_can_be_used() -> None:
    template = "-".join(f"{{{field}}}" for field in NAME_FIELDS) + ".{ext}"
    assert named(template) == "-".join(str(FIELDS[field]) for field in NAME_FIELDS) + ".png"


@pytest.mark.parametrize(
    "template",
    [
        "../{index}.{ext}",
        "a/../../{index}.{ext}",
        "/etc/{index}.{ext}",
        "a\\..\\{index}.{ext}",
        "file:///etc/{index}.{ext}",
        "s3://bucket/{index}.{ext}",
        "{index.__class__}.{ext}",
        "{dag_id[0]}.{ext}",
        "{index!r}.{ext}",
        "{0}.{ext}",
        "{}.{ext}",
        "{prompt}.{ext}",
        "{index:{item}}.{ext}",
        "{index:zz}.{ext}",
        "{ext:d}",
        "{index",
        "index}",
        "",
        "   ",
        "folder/",
        "{map_suffix}",
        "a\x00b-{index}.{ext}",
        # The manifest beside it would have the very same name.
        "{dag_id}-{index}.png",
        "{dag_id}-{index}",
        "{index}.{ext:.0}",
        "what?-{index}.{ext}",
        "a:b-{index}.{ext}",
        "#{index}.{ext}",
        "{index:*>4}.{ext}",
    ],
)
def test_template_that_cannot_be_used_is_refused_before_anything_is_paid(template: str) -> None:
    with pytest.raises(InvalidRequestError, match="filename_template") as refused:
        FileNames(template)
    assert refused.value.billed is False


@pytest.mark.parametrize("value", ["..", ".", "", "...", "../../etc/passwd", "/etc/passwd", "C:\\x", "a/b"])
@pytest.mark.parametrize(
    "template", ["{dag_id}/{index}.{ext}", "x/{dag_id}/{dag_id}{map_suffix}-{index}.{ext}"]
)
def test_values_cannot_leave_the_folder_or_make_new_ones(value: str, template: str) -> None:
    parts = PurePosixPath(named(template, dag_id=value)).parts
    assert len(parts) <= template.count("/") + 1
    assert not {"..", ".", "/"} & set(parts)


@pytest.mark.parametrize(
    "unsafe", ['a:b*c?"d<e>f|g', "a\nb\tc", "a\x00b", "a b", "%2e%2e%2f", "\ud800", "a'b;c&d"]
)
def test_unsafe_characters_do_not_reach_a_name(unsafe: str) -> None:
    name = named("{run_id}-{index}.{ext}", run_id=unsafe)
    assert not set(name) & set("/\\:*?\"<>|\n\t\x00 %';&\ud800")
    assert name.endswith("-0.png")


def test_letters_of_any_script_stay() -> None:
    assert named("{dag_id}.{ext}", dag_id="кампания-größe-写真") == "кампания-größe-写真.png"


def test_marks_of_a_script_stay_with_their_letters() -> None:
    assert named("{run_id}.{ext}", run_id="हिन्दी สวัสดี") == "हिन्दी_สวัสดี.png"


def test_accents_are_composed_so_that_a_name_is_one_on_every_file_system() -> None:
    assert named("{run_id}.{ext}", run_id="gro\u0308ße") == "größe.png"


def test_long_names_that_differ_in_their_middle_stay_apart() -> None:
    long = [named("{run_id}.{ext}", run_id="a" * 150 + middle + "b" * 150) for middle in "xy"]
    assert len(set(long)) == 2
    assert all(len(name.encode()) <= 200 for name in long)


@pytest.mark.parametrize("letter", ["a", "é", "写", "\U00010330"])
@pytest.mark.parametrize("length", [*range(190, 202), 300])
def test_image_and_manifest_keep_one_name_when_shortened(letter: str, length: int) -> None:
    stems = {
        named("{run_id}-{index}.{ext}", run_id=letter * length, ext=ext).removesuffix(f".{ext}")
        for ext in ("png", "webp", "json", "jsonl")
    }
    assert len(stems) == 1


def test_template_without_an_index_gets_one_for_what_nobody_asked_for() -> None:
    names = FileNames("{run_id}/{name}.{ext}")
    assert names.with_index.name(FIELDS | {"index": 2}) == "scheduled__2026-05-01/sku-1-2.png"
    assert FileNames(ONE_GENERATION).with_index.template == ONE_GENERATION


@pytest.mark.parametrize("letter", ["a", "é", "写", "\U00010330"])
def test_name_of_300_characters_is_shortened_in_its_middle(letter: str) -> None:
    name = named(ONE_GENERATION, task_id=letter * 300)
    last = name.rpartition("/")[2]
    assert len(last.encode()) <= 200
    assert last.startswith(letter)
    assert last.endswith("-3-0.png")


def test_index_and_extension_survive_shortening_so_names_stay_apart() -> None:
    names = {named("{task_id}-{index}.{ext}", task_id="a" * 300, index=index) for index in range(10)}
    assert len(names) == 10


values = st.text(st.characters(codec=None), max_size=300)


@given(
    st.sampled_from(
        [ONE_GENERATION, MANY_GENERATIONS, "{evolink_task_id}/{model}-{index}.{ext}", "{dag_id}.{ext}"]
    ),
    st.fixed_dictionaries(
        {}, optional={name: values for name, value in FIELDS.items() if isinstance(value, str)}
    ),
)
def test_any_values_give_a_name_inside_the_folder(template: str, changes: dict[str, Any]) -> None:
    name = named(template, **changes)
    parts = name.split("/")
    assert name
    assert all(part and part not in {".", ".."} and not part.startswith(".") for part in parts)
    assert all(len(part.encode()) <= 255 for part in parts)
    assert len(parts) <= template.count("/") + 1


@given(st.text(max_size=60))
def test_any_template_gives_a_relative_name_or_a_clear_refusal(template: str) -> None:
    try:
        name = named(template)
    except InvalidRequestError:
        return
    assert name
    assert not name.startswith("/")
    assert ".." not in name.split("/")


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("", "it names no file"),
        ("folder/", "it names no file"),
        ("/etc/{index}.{ext}", "it must be relative to save_to"),
        ("a\\{index}.{ext}", "it must be relative to save_to"),
        ("s3://bucket/{index}.{ext}", "it must be relative to save_to"),
        ("../{index}.{ext}", "it must not leave save_to"),
        ("a\x01-{index}.{ext}", "it holds a control character"),
        ("{dag_id}-{index}.png", "it must end with .{ext}"),
        ("what?-{index}:.{ext}", "some stores forbid : ? in names"),
        ("{prompt}.{ext}", "unknown field {prompt}; available fields: dag_id, run_id"),
        ("{index", "expected '}' before end of string"),
    ],
)
def test_refusal_says_what_is_wrong_with_the_template(template: str, why: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        FileNames(template)
    assert f"cannot be used: {why}" in str(refused.value)


def test_dots_at_the_beginning_of_a_part_are_left_out_and_at_its_end_kept() -> None:
    assert FileNames(".hidden/a..{ext}").name({"ext": "png"}) == "hidden/a..png"
    assert FileNames("...{ext}").name({"ext": "png"}) == "_.png"


@pytest.mark.parametrize("field", ["map_index", "map_suffix", "evolink_task_id"])
def test_field_of_its_own_tells_tasks_apart(field: str) -> None:
    assert FileNames(f"{{{field}}}-{{index}}.{{ext}}").tells_tasks_apart
    assert not FileNames("{dag_id}-{index}.{ext}").tells_tasks_apart


@pytest.mark.parametrize(
    ("template", "task_id", "map_index", "are_only_its"),
    [
        (ONE_GENERATION, "draw", -1, True),
        (MANY_GENERATIONS, "draw", -1, True),
        (INGESTED_GENERATION, "draw-2", 2, True),
        # Both have the name draw-2-0.png.
        (ONE_GENERATION, "draw-2", -1, False),
        (ONE_GENERATION, "draw", 2, False),
        (ONE_GENERATION, "draw", 0, False),
        # A task draw1 with the item 2 has the name of a task draw with the item 12.
        ("{task_id}{map_suffix}{item}.{ext}", "draw", -1, False),
        ("{task_id}-{index}.{ext}", "draw", -1, False),
        ("{name}.{ext}", "draw", -1, False),
    ],
)
def test_names_are_only_of_a_task_where_no_other_has_them(
    template: str, task_id: str, map_index: int, are_only_its: bool
) -> None:
    made_by = {**MADE_BY, "task_id": task_id, "map_index": map_index}
    assert FileNames(template).are_only_of(made_by) is are_only_its


MADE_BY = {"dag_id": "campaign", "run_id": "run", "task_id": "draw", "map_index": 3}


def test_names_are_planned_before_there_is_an_id_or_a_type() -> None:
    names = FileNames("{dag_id}/{task_id}{map_suffix}-{item}-{name}-{model}-{index}.{ext}")
    planned = names.planned(MADE_BY, item=5, own_name="mug", model="gpt-image-1", images=2, of="request 0")
    assert planned == [f"campaign/draw-3-5-mug-gpt-image-1-{index}.json" for index in (0, 1)]
    by_id = FileNames("{evolink_task_id}.{ext}").planned(
        MADE_BY, item=5, own_name="5", model="m", images=1, of="request 0"
    )
    assert len(by_id) == 1
    assert by_id[0].endswith("5.json")


def test_planned_names_of_several_images_need_an_index() -> None:
    names = FileNames("{item}.{ext}")
    assert len(names.planned(MADE_BY, item=0, own_name="0", model="m", images=1, of="request 7")) == 1
    with pytest.raises(InvalidRequestError, match=r"the 2 images of request 7 the same name: add \{index\}"):
        names.planned(MADE_BY, item=0, own_name="0", model="m", images=2, of="request 7")


def test_longest_name_is_kept_and_a_longer_one_shortened_to_it() -> None:
    def named(length: int) -> str:
        return FileNames("a" * length + ".{ext}").name({"ext": "png"}).removesuffix(".png")

    longest = next(length for length in range(400, 1, -1) if named(length) == "a" * length)
    shortened = named(longest + 1)
    assert len(shortened) == longest
    head, digest, tail = shortened.split("~")
    assert (len(digest), len(tail)) == (8, 40)
    assert set(head) == {"a"}
