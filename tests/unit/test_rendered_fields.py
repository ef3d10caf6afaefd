"""What Airflow stores of an operator's fields for its tab Rendered Templates; by this version's own code."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from airflow.sdk import DAG
from airflow.sdk._shared.secrets_masker import _secrets_masker
from airflow.sdk.execution_time.task_runner import _serialize_rendered_fields

from airflow_provider_evoimage.decorators.evoimage import evoimage_task
from airflow_provider_evoimage.operators.batch import EvoImageBatchOperator
from airflow_provider_evoimage.operators.generate import EvoImageGenerateOperator
from airflow_provider_evoimage.operators.save import EvoImageSaveOperator
from airflow_provider_evoimage.rendered_fields import MOST_SECRETS, secrets_of

SIGNED = "https://shop.example/mug.png?X-Amz-Credential=AKIAEXAMPLE&X-Amz-Signature=5ec2e7"
CALLBACK = "https://hooks.example/services/T0001/B0002/xyzzyxyzzy?token=letmein"


@pytest.fixture(autouse=True)
def masker() -> Iterator[None]:
    """The masker of this process as it was before: what is masked in it stays masked."""
    found = _secrets_masker()
    patterns, replacer = set(found.patterns), found.replacer
    found.reset_masker()
    yield
    found.patterns, found.replacer = patterns, replacer


def stored(operator: Any) -> dict[str, Any]:
    """Render as Airflow does before a task runs, and return what it stores."""
    operator.render_template_fields({}, operator.get_template_env())
    return _serialize_rendered_fields(operator)


def test_signed_references_and_callback_are_not_readable_and_stay_what_is_sent():
    operator = EvoImageGenerateOperator(
        task_id="draw",
        prompt=f"as in {SIGNED}",
        image_urls=[SIGNED, "s3://conn@shop/mug.png"],
        callback_url=CALLBACK,
        extra_body={"mask_url": "https://user:hunter2!@shop.example/mask.png"},
    )
    fields = stored(operator)
    assert fields["image_urls"] == ["https://shop.example/mug.png?***", "s3://conn@shop/mug.png"]
    assert fields["callback_url"] == "https://hooks.example***"
    assert fields["extra_body"] == {"mask_url": "https://***@shop.example/mask.png"}
    assert fields["prompt"] == "as in https://shop.example/mug.png?***"
    assert operator.image_urls == [SIGNED, "s3://conn@shop/mug.png"]
    assert operator.callback_url == CALLBACK
    assert operator.extra_body == {"mask_url": "https://user:hunter2!@shop.example/mask.png"}


def test_mapped_instance_hides_them_too():
    with DAG("shop", schedule=None):
        mapped = EvoImageGenerateOperator.partial(task_id="draw", prompt="x").expand(image_urls=[[SIGNED]])
    operator = mapped.unmap({"image_urls": [SIGNED]})
    # As Airflow's mapped operator does it.
    operator._do_render_template_fields(
        parent=operator,
        template_fields=mapped.template_fields,
        context={},
        jinja_env=operator.get_template_env(),
        seen_oids=set(),
    )
    assert _serialize_rendered_fields(operator)["image_urls"] == ["https://shop.example/mug.png?***"]


def test_decorated_function_hides_what_it_returned(mocker: Any):
    mocker.patch.object(EvoImageGenerateOperator, "execute")
    with DAG("shop", schedule=None) as dag:

        @evoimage_task
        def draw() -> dict[str, Any]:
            return {"prompt": "x", "image_urls": [SIGNED], "callback_url": CALLBACK}

        draw()
    (operator,) = dag.tasks
    operator.execute({})
    fields = _serialize_rendered_fields(operator)
    assert "5ec2e7" not in json.dumps(fields)
    assert "letmein" not in json.dumps(fields)


def test_other_operators_hide_them_too():
    manifest = {"evolink_task_id": "task-1", "images": [{"url": SIGNED}]}
    save = EvoImageSaveOperator(task_id="save", generation=[manifest], save_to="file:///tmp/images")
    batch = EvoImageBatchOperator(
        task_id="batch",
        requests=[{"prompt": "x", "image_urls": [SIGNED]}, {"prompt": "y"}],
        save_to="file:///tmp/images",
    )
    for operator in (save, batch):
        assert "5ec2e7" not in json.dumps(stored(operator))
        assert "file:///tmp/images" in json.dumps(stored(operator))


def test_long_field_is_cut_without_showing_half_a_secret(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AIRFLOW__CORE__MAX_TEMPLATED_FIELD_LENGTH", "300")
    requests = [{"prompt": "x", "image_urls": [f"{SIGNED}{number:03}"]} for number in range(MOST_SECRETS)]
    shown = json.dumps(
        stored(EvoImageBatchOperator(task_id="b", requests=requests, save_to="file:///tmp/i"))["requests"]
    )
    assert len(shown) < 600
    assert "AKIA" not in shown


def test_field_with_more_secrets_than_the_masker_can_hold_is_not_shown():
    requests = [{"prompt": "x", "image_urls": [f"{SIGNED}{number:04}"]} for number in range(MOST_SECRETS + 1)]
    operator = EvoImageBatchOperator(task_id="b", requests=requests, save_to="file:///tmp/i")
    fields = stored(operator)
    assert "requests" not in fields
    assert fields["save_to"] == "file:///tmp/i"
    assert operator.requests == requests


def test_no_secret_shows_where_a_shorter_one_begins_it():
    operator = EvoImageGenerateOperator(
        task_id="draw",
        prompt="x",
        image_urls=[
            "https://a.example/1?v=12345",
            "https://a.example/2?v=12345&token=hidden-one",
            "https://a.example/3?v=12345&token=hidden-one-more",
        ],
    )
    shown = json.dumps(stored(operator))
    assert "hidden" not in shown
    assert "-more" not in shown


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, []),
        ("https://a.example/image.png", []),
        ("https://a.example/image.png?", []),
        ("a fox? https://a.example/i.png?code=1234", ["code=1234"]),
        (("https://a.example/?key=value#part",), ["key=value#part"]),
        ({"https://a.example/?in=the-name": 1}, ["in=the-name"]),
        ("HTTPS://U:PASSWORD@A.EXAMPLE/", ["U:PASSWORD"]),
        ("https://[", []),
        ("https://???", []),
    ],
)
def test_parts_that_are_hidden(value: object, expected: list[str]):
    assert list(secrets_of(value)) == expected


def test_short_path_of_a_callback_is_shown():
    assert list(secrets_of("https://hooks.example/image", is_callback=True)) == []
    assert list(secrets_of("https://hooks.example/in?token=1", is_callback=True)) == ["token=1"]


def test_lists_in_lists_without_end_are_given_up():
    value: Any = "https://a.example/i.png?token=letmein-please"
    assert list(secrets_of([[value]])) == ["token=letmein-please"]
    for _ in range(30):
        value = [value]
    assert list(secrets_of(value)) == []
