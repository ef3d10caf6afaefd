"""What one task saved to a store is the reference of the next: one step edits what another made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from airflow_provider_evoimage.exceptions import InvalidRequestError, ReferenceUnreadableError
from airflow_provider_evoimage.simulator import SimulatorServer
from tests.integration.stores import store_servers
from tests.integration.stores.store_servers import RunningStore
from tests.integration.task_driver import TaskRun, generate
from tools.local_airflow.airflow import LocalAirflow

EXAMPLES = Path(__file__).parents[3] / "example_dags"


@pytest.mark.usefixtures("airflow_connection", "fake_time")
@pytest.mark.parametrize("as_what", ["manifest", "path", "sidecar"])
def test_saved_image_is_the_reference_of_an_edit(
    store: RunningStore, folder: str, evolink: SimulatorServer, as_what: str
) -> None:
    save_to = f"{store.root}/{folder}-{as_what}"
    scene = TaskRun(generate(save_to=save_to), task_id="scene").run()
    path = scene["images"][0]["path"]
    given = {"manifest": scene, "path": path, "sidecar": path.rpartition(".")[0] + ".json"}[as_what]
    edit = TaskRun(
        generate(prompt="at night", model="gpt-image-1", image_urls=given, save_to=save_to), task_id="edit"
    ).run()

    (reference,) = edit["request"]["references"]
    assert reference["source"] == path
    assert reference["sha256"] == scene["images"][0]["sha256"]
    order = evolink.state.generations[edit["evolink_task_id"]].order
    (url,) = order.image_urls
    # Result hosts refuse the names of common HTTP clients.
    answer = httpx.get(url, headers={"user-agent": "evoimage-tests/1"}, trust_env=False)
    assert len(answer.content) == scene["images"][0]["bytes"]


@pytest.mark.usefixtures("airflow_connection")
def test_reference_that_is_not_in_the_store_is_found_before_anything_is_paid(
    store: RunningStore, folder: str, evolink: SimulatorServer
) -> None:
    missing = f"{store.root}/{folder}/no-such.png"
    with pytest.raises((InvalidRequestError, ReferenceUnreadableError)) as caught:
        TaskRun(generate(model="gpt-image-1", image_urls=missing)).run()
    assert caught.value.billed is False
    assert evolink.state.counters.paid == 0


@pytest.mark.system
def test_edit_chain_on_a_real_airflow_goes_through_s3(tmp_path: Path, evolink: SimulatorServer) -> None:
    with store_servers.s3(tmp_path) as store:
        connections: dict[str, Any] = {
            name.removeprefix("AIRFLOW_CONN_").lower(): value for name, value in store.connections.items()
        }
        connections["evoimage_default"] = {
            "conn_type": "evoimage",
            "host": evolink.url,
            "password": "a-key-of-the-tests",
        }
        with LocalAirflow(tmp_path / "airflow", dags=[EXAMPLES], connections=connections) as airflow:
            dag_id = "evoimage_edit_chain"
            airflow.unpause(dag_id)
            run_id = airflow.run(dag_id, {"save_to": f"{store.root}/chain"})
            airflow.wait_for_success(dag_id, run_id, deadline=240)
            scene = airflow.xcom(dag_id, run_id, "save_scene")
            edits = [airflow.xcom(dag_id, run_id, "edit", map_index=index) for index in (0, 1)]
        for edit in edits:
            (reference,) = edit["request"]["references"]
            assert reference["source"] == scene["images"][0]["path"]
        for manifest in (scene, *edits):
            for image in manifest["images"]:
                there = store.read(image["path"].removeprefix(f"{store.root}/"))
                assert len(there.content) == image["bytes"]
                assert there.content_type == "image/png"
    assert evolink.state.counters.paid == 3
