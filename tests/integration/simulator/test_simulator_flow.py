"""Submit, look, download: the way every image goes."""

import re
import time

import httpx
import pytest

from airflow_provider_evoimage.simulator import SimulatorServer


def test_submission_is_answered_in_the_documented_shape(customer):
    answer = customer.submit("a red fox", n=2)
    task = answer.json()
    assert answer.status_code == 200
    assert set(task) == {
        "created", "id", "model", "object", "progress", "status", "task_info", "type", "usage",
    }  # fmt: skip
    assert re.fullmatch(rf"task-unified-{task['created']}-[a-z0-9]{{8}}", task["id"])
    assert task["object"] == "image.generation.task"
    assert (task["status"], task["progress"], task["type"]) == ("pending", 0, "image")
    assert task["task_info"] == {"can_cancel": True, "estimated_time": 5}
    assert set(task["usage"]) == {"billing_rule", "credits_reserved", "user_group"}


def test_generation_moves_from_pending_over_processing_to_completed(customer):
    task_id = customer.submit("a red fox [[duration:200]]").json()["id"]
    seen = []
    for _ in range(11):
        task = customer.task(task_id)
        seen.append((task["status"], task["progress"]))
        customer.pass_time(1)
    statuses = [status for status, _ in seen]
    assert sorted(set(statuses), key=statuses.index) == ["pending", "processing", "completed"]
    progress = [percent for _, percent in seen]
    assert progress == sorted(progress)
    assert progress[-1] == 100
    assert "results" not in customer.task(customer.submit().json()["id"])


def test_completed_task_has_the_recorded_shape(customer):
    task = customer.finished(n=2)
    assert set(task) == {
        "created", "duration", "id", "model", "object", "progress", "result_data", "results", "status",
        "task_info", "type", "usage",
    }  # fmt: skip
    assert task["result_data"] == [{"url": link} for link in task["results"]]
    assert len(task["results"]) == 2
    path = r"/files/[0-9a-f]{12}/images/\d{4}/\d{2}/\d{2}/[0-9a-f]{32}_[01]\.png"
    assert all(re.fullmatch(re.escape(customer.url) + path, link) for link in task["results"])
    assert set(task["usage"]) == {
        "credits_used", "image_cached_input_tokens", "image_input_tokens", "image_output_tokens",
        "text_cached_input_tokens", "text_input_tokens", "total_tokens",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "pixels"),
    [
        ({}, (1024, 1024)),
        ({"size": "1:1"}, (1024, 1024)),
        ({"size": "2:3"}, (1024, 1536)),
        ({"size": "1536x1024"}, (1536, 1024)),
        ({"model": "gpt-image-2", "size": "auto"}, (1024, 1024)),
        ({"model": "gpt-image-2", "size": "16:9"}, (1360, 768)),
        ({"model": "gpt-image-2", "size": "9:16", "resolution": "2k"}, (1536, 2736)),
        ({"model": "gpt-image-2", "size": "1280x640"}, (1280, 640)),
        ({"model": "gpt-image-2-beta", "size": "4:5"}, (912, 1152)),
        ({"model": "some-new-model", "size": "7:5"}, (1212, 865)),
    ],
)
def test_images_have_the_asked_size(customer, fields, pixels):
    task = customer.finished(**fields)
    image = customer.image(task["results"][0])
    assert image.size == pixels
    assert image.format == "PNG"


@pytest.mark.parametrize(("file_format", "extension"), [("jpeg", "jpg"), ("webp", "webp"), ("png", "png")])
def test_images_have_the_asked_format(customer, file_format, extension):
    link = customer.finished(model="gpt-image-2", output_format=file_format)["results"][0]
    answer = customer.files.get(link)
    assert link.endswith(f"_0.{extension}")
    assert answer.headers["content-type"] == f"image/{file_format}"
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert customer.image(link).format == file_format.upper()


def test_images_of_one_generation_differ_and_stay_the_same(customer):
    links = customer.finished(n=3)["results"]
    files = [customer.files.get(link).content for link in links]
    assert len(set(files)) == 3
    assert [customer.files.get(link).content for link in links] == files


def test_links_die_after_their_lifetime(customer):
    link = customer.finished()["results"][0]
    customer.state.configure({"link_lifetime": 7200})
    assert customer.files.get(link).status_code == 200
    customer.pass_time(7200)
    answer = customer.files.get(link)
    assert answer.status_code == 403
    assert answer.headers["content-type"] == "application/xml"
    assert "AccessDenied" in answer.text


def test_result_hosts_refuse_the_api_key_and_count_it(customer):
    link = customer.finished()["results"][0]
    answer = customer.files.get(link, headers={"authorization": "Bearer x"})
    assert answer.status_code == 400
    assert customer.counters["downloads_with_auth"] == 1
    assert customer.counters["downloads_served"] == 0


@pytest.mark.parametrize("agent", ["Python-urllib/3.12", "python-httpx/0.28.1"])
def test_result_hosts_refuse_the_user_agents_of_plain_libraries(customer, agent):
    link = customer.finished()["results"][0]
    answer = customer.files.get(link, headers={"user-agent": agent})
    assert (answer.status_code, answer.text) == (403, "error code: 1010")


def test_unknown_file_is_not_found(customer):
    assert customer.files.get(f"{customer.url}/files/nobody/images/x.png").status_code == 404


def test_batch_leaves_unknown_ids_out(customer):
    ids = [customer.submit(f"fox {number}").json()["id"] for number in range(3)]
    answer = customer.http.post(
        "/v1/tasks/batch", json={"task_ids": [ids[2], "task-unified-1-nothing0", ids[0], ids[0]]}
    )
    assert [task["id"] for task in answer.json()["data"]] == [ids[2], ids[0]]
    assert customer.counters["ids_read"] == 4


def test_batch_shows_what_the_task_endpoint_shows(customer):
    task = customer.finished()
    assert customer.http.post("/v1/tasks/batch", json={"task_ids": [task["id"]]}).json() == {"data": [task]}


@pytest.mark.parametrize("task_ids", [["task-unified-1-a"] * 51, [], "task-unified-1-a", [7]])
def test_batch_refuses_other_than_1_to_50_ids(customer, task_ids):
    answer = customer.http.post("/v1/tasks/batch", json={"task_ids": task_ids})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "task_ids"


def test_batch_can_be_absent(customer):
    customer.control("POST", "settings", batch=False)
    assert customer.http.post("/v1/tasks/batch", json={"task_ids": ["x"]}).status_code == 404


def test_what_is_no_task_id_is_refused_and_an_unknown_one_is_not_found(customer):
    refused = customer.http.get("/v1/tasks/other-1")
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "invalid_task_id"
    assert refused.json()["error"]["param"] == "task_id"
    unknown = customer.http.get("/v1/tasks/task-unified-1-nothing0")
    assert unknown.status_code == 404
    assert unknown.json()["error"]["code"] == "task_not_found"


def test_every_answer_has_a_request_id(customer):
    answers = [
        customer.submit(),
        customer.submit(size="9:9"),
        customer.http.get("/v1/credits"),
        customer.http.get("/nowhere"),
        customer.files.get(f"{customer.url}/files/x"),
    ]
    ids = [answer.headers["x-request-id"] for answer in answers]
    assert len(set(ids)) == len(ids)
    assert answers[1].json()["error"]["request_id"] == ids[1]


def test_instant_generation_is_complete_in_the_answer_to_its_submission(customer):
    task = customer.submit("fox [[instant]]").json()
    assert task["status"] == "completed"
    assert customer.image(task["results"][0]).size == (1024, 1024)


def test_generation_completes_by_itself_as_time_goes_by():
    with SimulatorServer(speed=500) as server:
        with httpx.Client(
            base_url=server.url, headers={"authorization": "Bearer k"}, trust_env=False
        ) as http:
            body = {"model": "gpt-image-1", "prompt": "x", "quality": "low"}
            task = http.post("/v1/images/generations", json=body).json()
            assert task["task_info"]["estimated_time"] == 1
            deadline = time.monotonic() + 5
            while task["status"] != "completed":
                assert time.monotonic() < deadline
                task = http.get(f"/v1/tasks/{task['id']}").json()
        assert server.state.counters.paid == 1
