"""Several tasks and one file name: no image is lost without a word."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG, TaskGroup
from airflow.sdk import task as airflow_task

from airflow_provider_evoimage.exceptions import (
    FileExistsAtDestinationError,
    InvalidRequestError,
    NameTakenError,
)
from airflow_provider_evoimage.operators.batch import EvoImageBatchOperator
from airflow_provider_evoimage.operators.generate import EvoImageGenerateOperator
from airflow_provider_evoimage.operators.save import EvoImageSaveOperator
from airflow_provider_evoimage.simulator import SimulatorServer
from airflow_provider_evoimage.storage.destination import Destination
from tests.integration.task_driver import StateStore, TaskRun, generate, save

pytestmark = pytest.mark.usefixtures("fake_time", "airflow_connection")

SAME = "{dag_id}/hero-{index}.{ext}"


def mapped(operator: Any, argument: str, items: list[Any], **arguments: Any) -> list[TaskRun]:
    """Make the task instances of a mapped task."""
    also_mapped = {
        name: arguments.pop(name) for name in list(arguments) if isinstance(arguments[name], tuple)
    }
    with DAG("campaign"):
        expanded = {argument: items, **{name: list(value) for name, value in also_mapped.items()}}
        definition = operator.partial(task_id="draw", **arguments).expand(**expanded)
    runs = []
    for place, item in enumerate(items):
        own = {argument: item, **{name: value[place] for name, value in also_mapped.items()}}
        runs.append(
            TaskRun(lambda own=own: definition.unmap(own), store=StateStore(), map_index=place)  # type: ignore[misc]
        )
    return runs


@pytest.mark.parametrize("template", [SAME, "{name}.{ext}", "{item}-{index}.{ext}", "{model}-{index}.{ext}"])
def test_mapped_task_whose_items_share_a_name_is_refused_unpaid(
    evolink: SimulatorServer, tmp_path: Path, template: str
) -> None:
    tasks = mapped(
        EvoImageGenerateOperator,
        "prompt",
        ["a red fox", "a blue fox"],
        save_to=str(tmp_path),
        filename_template=template,
        quality="low",
    )
    for task in tasks:
        with pytest.raises(InvalidRequestError, match="every item of this mapped task the same name"):
            task.run()
    assert evolink.state.counters.submissions == 0


def test_mapped_batch_whose_items_share_a_name_is_refused_unpaid(
    evolink: SimulatorServer, tmp_path: Path
) -> None:
    tasks = mapped(
        EvoImageBatchOperator,
        "requests",
        [["a red fox"], ["a blue fox"]],
        save_to=str(tmp_path),
        filename_template="{item}-{index}.{ext}",
        model="gpt-image-1",
        quality="low",
    )
    for task in tasks:
        with pytest.raises(InvalidRequestError, match="every item of this mapped task the same name"):
            task.run()
    assert evolink.state.counters.submissions == 0


def test_mapped_save_whose_items_share_a_name_is_refused(evolink: SimulatorServer, tmp_path: Path) -> None:
    made = [TaskRun(generate(), map_index=place, store=StateStore()).run() for place in range(2)]
    tasks = mapped(
        EvoImageSaveOperator,
        "generation",
        made,
        save_to=str(tmp_path),
        filename_template="hero-{index}.{ext}",
    )
    for task in tasks:
        with pytest.raises(InvalidRequestError, match="every item of this mapped task the same name"):
            task.run()
    assert evolink.state.counters.downloads == 0


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"filename_template": "{map_index}-{index}.{ext}"},
        {"filename_template": "a{map_suffix}-{index}.{ext}"},
        {"filename_template": "{evolink_task_id}.{ext}"},
        {"filename_template": ("red-{index}.{ext}", "blue-{index}.{ext}")},
        # Nothing tells here what it renders to.
        {"filename_template": "{{ params.name }}-{index}.{ext}"},
    ],
    ids=str,
)
def test_mapped_task_whose_items_may_have_names_of_their_own_is_let_through(
    evolink: SimulatorServer, tmp_path: Path, arguments: dict[str, Any]
) -> None:
    tasks = mapped(
        EvoImageGenerateOperator,
        "prompt",
        ["a red fox", "a blue fox"],
        save_to=str(tmp_path),
        quality="low",
        **arguments,
    )
    if "params" in str(arguments):
        for place, task in enumerate(tasks):
            make = task.make

            def rendered(make: Any = make, place: int = place) -> Any:
                operator = make()
                operator.filename_template = f"{place}-{{index}}.{{ext}}"
                return operator

            task.make = rendered
    for task in tasks:
        task.run()
    assert len(list(tmp_path.rglob("*.png"))) == evolink.state.counters.paid == 2


@pytest.mark.parametrize("if_exists", ["overwrite", "skip"])
def test_second_task_of_a_run_leaves_the_files_of_the_first_alone(
    evolink: SimulatorServer, tmp_path: Path, if_exists: str
) -> None:
    arguments = {"save_to": str(tmp_path), "filename_template": SAME, "if_exists": if_exists}
    first = TaskRun(generate(prompt="a red fox", **arguments), store=StateStore()).run()
    image = Path(first["images"][0]["path"].removeprefix("file://"))
    before = image.read_bytes()
    other = TaskRun(
        generate(prompt="a blue fox", **arguments), retries=0, store=StateStore(), task_id="draw_blue"
    )
    with pytest.raises(NameTakenError) as caught:
        other.run()
    assert "campaign.draw of run" in str(caught.value)
    assert "campaign.draw_blue of run" in str(caught.value)
    assert not caught.value.retryable
    assert image.read_bytes() == before
    # Nothing is lost: with a name of its own the cleared task saves the image that was paid for.
    other.make = generate(prompt="a blue fox", save_to=str(tmp_path))
    other.clear()
    other.run()
    assert len(list(tmp_path.rglob("*.png"))) == evolink.state.counters.paid == 2


def save_with_another_at_the_same_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: dict[str, Any], **arguments: Any
) -> tuple[dict[str, Any], list[str]]:
    """Let another task's sidecar come just after this one's image; return the manifest, and the JSON files read."""
    read: list[str] = []
    publish, read_json = Destination.publish, Destination.read_json

    def published(destination: Destination, local: Path, name: str, content_type: str) -> str:
        url = publish(destination, local, name, content_type)
        if name.endswith(".png"):
            (tmp_path / name).with_suffix(".json").write_text(json.dumps(other))
        return url

    def counted(destination: Destination, name: str) -> Any:
        read.append(name)
        return read_json(destination, name)

    monkeypatch.setattr(Destination, "publish", published)
    monkeypatch.setattr(Destination, "read_json", counted)
    task = TaskRun(generate(save_to=str(tmp_path), **arguments), retries=0, store=StateStore())
    return task.run(), [name for name in read if "saving" not in name]


OTHER = {
    "evolink_task_id": "task-unified-1-other",
    "made_by": {"dag_id": "campaign", "run_id": "run", "task_id": "draw_blue", "map_index": -1},
}


def test_task_that_saves_at_the_same_time_and_comes_first_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = {**OTHER, "made_by": {**OTHER["made_by"], "run_id": TaskRun(generate()).ti.run_id}}  # type: ignore[dict-item]
    with pytest.raises(NameTakenError, match="draw_blue"):
        save_with_another_at_the_same_time(tmp_path, monkeypatch, other, filename_template=SAME)
    (sidecar,) = tmp_path.rglob("hero-0.json")
    assert json.loads(sidecar.read_text()) == other


def test_sidecar_that_no_other_task_can_have_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, read = save_with_another_at_the_same_time(tmp_path, monkeypatch, OTHER)
    (sidecar,) = [each for each in tmp_path.rglob("*.json") if not each.name.startswith(".")]
    assert json.loads(sidecar.read_text())["evolink_task_id"] == manifest["evolink_task_id"]
    assert [each for each in read if each.endswith(sidecar.name)] == read[:1]


def test_rerun_of_the_same_task_replaces_its_files(evolink: SimulatorServer, tmp_path: Path) -> None:
    task = TaskRun(generate(save_to=str(tmp_path), filename_template=SAME), store=StateStore())
    task.run()
    task.clear()
    task.run()
    assert evolink.state.counters.paid == 2
    assert len(list(tmp_path.rglob("*.png"))) == 1


def test_images_of_another_run_are_overwritten_with_one_warning(
    tmp_path: Path, log_lines: list[dict[str, Any]]
) -> None:
    arguments = {"save_to": str(tmp_path), "filename_template": SAME}
    first = TaskRun(generate(**arguments), store=StateStore()).run()
    TaskRun(generate(**arguments), store=StateStore(), run_id="tomorrow").run()
    (warning,) = [line for line in log_lines if "Overwriting images of" in str(line["event"])]
    assert warning["log_level"] == "warning"
    assert first["evolink_task_id"] in str(warning)


def test_existing_file_can_be_an_error_of_the_generate_operator(tmp_path: Path) -> None:
    arguments = {"save_to": str(tmp_path), "filename_template": SAME, "if_exists": "error"}
    TaskRun(generate(**arguments), store=StateStore()).run()
    with pytest.raises(FileExistsAtDestinationError):
        TaskRun(generate(**arguments), store=StateStore(), run_id="tomorrow").run()


@pytest.mark.parametrize("if_exists", ["overwrite", "skip"])
def test_later_save_by_bare_id_keeps_the_prompt_in_the_sidecar(tmp_path: Path, if_exists: str) -> None:
    made = TaskRun(generate(save_to=str(tmp_path), filename_template=SAME), store=StateStore()).run()
    (sidecar,) = tmp_path.rglob("*.json")
    before = json.loads(sidecar.read_text())
    assert before["request"]["prompt"] == "a red fox"
    again = TaskRun(
        save(made["evolink_task_id"], tmp_path, filename_template=SAME, if_exists=if_exists), task_id="save"
    ).run()
    after = json.loads(sidecar.read_text())
    assert after["request"] == again["request"] == before["request"]
    assert after["usage"] == before["usage"]
    if if_exists == "skip":
        assert after == before


def test_cleared_task_replaces_its_image_although_another_task_saved_it_again(
    evolink: SimulatorServer, tmp_path: Path
) -> None:
    draw = TaskRun(generate(save_to=str(tmp_path), filename_template=SAME), store=StateStore())
    first = draw.run()
    TaskRun(save(first, tmp_path, filename_template=SAME), task_id="save").run()
    draw.clear()
    second = draw.run()
    assert second["evolink_task_id"] != first["evolink_task_id"]
    TaskRun(save(second, tmp_path, filename_template=SAME), task_id="save").run()
    (sidecar,) = tmp_path.rglob("*.json")
    described = json.loads(sidecar.read_text())
    assert described["evolink_task_id"] == second["evolink_task_id"]
    assert described["made_by"]["task_id"] == "draw"


def test_mapped_models_tell_items_apart(evolink: SimulatorServer, tmp_path: Path) -> None:
    tasks = mapped(
        EvoImageGenerateOperator,
        "model",
        ["gpt-image-1", "gpt-image-1.5"],
        prompt="a red fox",
        save_to=str(tmp_path),
        filename_template="{model}-{index}.{ext}",
        quality="low",
    )
    for task in tasks:
        task.run()
    assert len(list(tmp_path.rglob("*.png"))) == evolink.state.counters.paid == 2


@pytest.mark.parametrize("template", ["{name}-{index}.{ext}", "{model}-{item}-{index}.{ext}"])
def test_names_and_models_of_requests_tell_mapped_batches_apart(
    evolink: SimulatorServer, tmp_path: Path, template: str
) -> None:
    tasks = mapped(
        EvoImageBatchOperator,
        "requests",
        [
            [{"prompt": "a red fox", "name": "red", "model": "gpt-image-1"}],
            [{"prompt": "a blue fox", "name": "blue", "model": "gpt-image-1.5"}],
        ],
        save_to=str(tmp_path),
        filename_template=template,
        quality="low",
    )
    for task in tasks:
        task.run()
    assert len(list(tmp_path.rglob("*.png"))) == evolink.state.counters.paid == 2


@pytest.mark.parametrize("by", ["DAG", "group"])
def test_template_in_default_args_is_checked_as_well(
    evolink: SimulatorServer, tmp_path: Path, by: str
) -> None:
    defaults = {"save_to": str(tmp_path), "filename_template": SAME}
    with (
        DAG("campaign", default_args=defaults if by == "DAG" else {}),
        TaskGroup("pictures", default_args=defaults if by == "group" else {}),
    ):
        definition = EvoImageGenerateOperator.partial(task_id="draw", quality="low").expand(
            prompt=["a red fox", "a blue fox"]
        )
    task = TaskRun(lambda: definition.unmap({"prompt": "a red fox"}), store=StateStore(), map_index=0)
    with pytest.raises(InvalidRequestError, match="every item of this mapped task the same name"):
        task.run()
    assert evolink.state.counters.submissions == 0


def test_template_of_a_decorated_task_is_checked_as_well(evolink: SimulatorServer, tmp_path: Path) -> None:
    with DAG("campaign") as dag:

        @airflow_task.evoimage(save_to=str(tmp_path), filename_template=SAME, quality="low")
        def draw(subject: str) -> str:
            return subject

        draw.expand(subject=["a red fox", "a blue fox"])
    definition = dag.task_dict["draw"]
    task = TaskRun(
        lambda: definition.unmap({"op_kwargs": {"subject": "a red fox"}}),
        store=StateStore(),
        map_index=0,
    )
    with pytest.raises(InvalidRequestError, match="every item of this mapped task the same name"):
        task.run()
    assert evolink.state.counters.submissions == 0
