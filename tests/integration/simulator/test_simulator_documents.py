"""The simulator against the examples of the service's documents, field by field, and a client written by them.

Each example is typed in here as the documents print it. An answer must have the same fields of the same JSON
types, nested alike, and no others than the documents name somewhere.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from airflow_provider_evoimage.simulator import SimulatorServer
from tests.integration.simulator.test_simulator_uploads import upload, uploaded

SUBMITTED = json.loads("""
{"created":1757156493,"id":"task-unified-1757156493-imcg5zqt","model":"gpt-image-2",
 "object":"image.generation.task","progress":0,"status":"pending",
 "task_info":{"can_cancel":true,"estimated_time":100},"type":"image",
 "usage":{"billing_rule":"per_call","credits_reserved":2.5,"user_group":"default"}}
""")
COMPLETED = json.loads("""
{"created":1782914405,"duration":4,"id":"task-unified-1782914404-w4fcqq0x",
 "model":"gemini-3.1-flash-lite-image","object":"image.generation.task","progress":100,
 "result_data":[{"url":"https://files.evolink.ai/account/images/2026/07/01/hex_0.jpg"}],
 "results":["https://files.evolink.ai/account/images/2026/07/01/hex_0.jpg"],
 "status":"completed","task_info":{"can_cancel":false},"type":"image",
 "usage":{"credits_used":1.783,"image_cached_input_tokens":0,"image_input_tokens":0,
          "image_output_tokens":1120,"text_cached_input_tokens":0,"text_input_tokens":57,"total_tokens":1177}}
""")
FAILED = json.loads("""
{"id":"task-unified-1772618027-cmeisy8h","object":"image.generation.task","status":"failed",
 "model":"gemini-3.1-flash-image-preview","progress":0,
 "error":{"code":"content_policy_violation","message":"Content policy violation.","type":"task_error"}}
""")
# The example shows a part of what the schema of the same page lists.
FAILED_ALSO = {"created": 1, "task_info": {"can_cancel": True}, "type": "image"}
LISTED = {
    "id": "task-unified-1-abcdefgh", "status": "completed", "model": "gpt-image-2", "type": "image",
    "progress": 100, "created_at": 1757156493, "has_results": True, "has_error": False, "credits_used": 1.5,
}  # fmt: skip
NEW_ERROR = {"code": "rate_limit_exceeded", "message": "…", "type": "rate_limit_error", "param": "…"}
OLD_ERROR = NEW_ERROR | {"code": 429, "fallback_suggestion": "retry after 60 seconds"}
FILES_ERROR = {"success": False, "code": 40003, "msg": "…"}
UPLOADED = json.loads("""
{"success":true,"code":200,"msg":"File uploaded successfully","data":{"file_id":"file_abc123","file_name":"photo.png",
 "original_name":"photo.png","file_size":2048,"mime_type":"image/png","upload_path":"photos",
 "file_url":"https://files.evolink.ai/photos/photo.png",
 "download_url":"https://files.evolink.ai/api/v1/files/download/file_abc123",
 "upload_time":"2025-10-09T00:00:00+08:00","expires_at":"2025-10-12T00:00:00+08:00"}}
""")
CREDITS = json.loads("""
{"data":{"token":{"remaining_credits":99416.4429,"unlimited_credits":false,"used_credits":583.5571},
         "user":{"remaining_credits":1095.3996,"used_credits":135.9048}},"message":"","success":true}
""")


def shape(value):
    """Reduce JSON to its fields and types; the first item stands for a list."""
    if isinstance(value, dict):
        return {name: shape(field) for name, field in sorted(value.items())}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    if isinstance(value, bool):
        return "boolean"
    return "number" if isinstance(value, int | float) else type(value).__name__


def whole_numbers(value, names):
    return all(isinstance(value[name], int) and not isinstance(value[name], bool) for name in names)


def test_submission(customer):
    answer = customer.submit(model="gpt-image-2")
    task = answer.json()
    assert answer.status_code == 200
    assert shape(task) == shape(SUBMITTED)
    assert re.fullmatch(r"task-unified-\d{10}-[a-z0-9]{8}", task["id"])
    assert whole_numbers(task, ("created", "progress"))
    assert isinstance(task["task_info"]["estimated_time"], int)
    same = ("object", "progress", "status", "type", "model")
    assert {name: task[name] for name in same} == {name: SUBMITTED[name] for name in same}


def test_completed_task(customer):
    task = customer.finished(model="gpt-image-2")
    assert shape(task) == shape(COMPLETED)
    assert whole_numbers(task, ("created", "duration", "progress"))
    assert whole_numbers(task["usage"], [name for name in task["usage"] if name.endswith("tokens")])
    assert task["task_info"] == COMPLETED["task_info"]
    assert [item["url"] for item in task["result_data"]] == task["results"]
    assert re.search(r"/images/\d{4}/\d\d/\d\d/[0-9a-f]+_0\.\w+$", task["results"][0])


def test_failed_task(customer):
    task = customer.finished("[[fail:content_policy_violation]]")
    assert shape(task) == shape(FAILED | FAILED_ALSO)
    assert task["error"]["code"] == FAILED["error"]["code"]
    assert task["error"]["message"].startswith(FAILED["error"]["message"])
    assert (task["status"], task["progress"], task["error"]["type"]) == ("failed", 0, "task_error")


def test_list_item_and_batch(customer):
    task = customer.finished()
    listed = customer.http.get("/v1/tasks").json()
    assert shape(listed) == shape({"data": [LISTED], "total": 1, "page": 1, "page_size": 20})
    assert isinstance(listed["data"][0]["created_at"], int)
    batch = customer.http.post("/v1/tasks/batch", json={"task_ids": [task["id"]]}).json()
    assert batch == {"data": [task]}


def test_three_shapes_of_errors(customer):
    new = customer.submit(size="9:9").json()["error"]
    assert shape(new) == shape(NEW_ERROR | {"request_id": "…"})
    customer.control("POST", "settings", error_style="old", files_errors_with_200=True)
    old = customer.submit("[[http:429]]").json()["error"]
    assert shape(old) == shape(OLD_ERROR)
    assert old["fallback_suggestion"] == OLD_ERROR["fallback_suggestion"]
    customer.control("POST", "settings", files_quota=0)
    refused = upload(customer)
    assert refused.status_code == 200
    assert shape(refused.json()) == shape(FILES_ERROR)
    assert refused.json()["code"] == FILES_ERROR["code"]


@pytest.mark.parametrize(
    ("path", "status", "code", "kind"),
    [
        ("/v1/tasks/other", 400, "invalid_task_id", "invalid_request_error"),
        ("/v1/tasks/task-unified-1-abcdefgh", 404, "task_not_found", "not_found_error"),
    ],
)
def test_errors_of_the_task_page(customer, path, status, code, kind):
    answer = customer.http.get(path)
    assert answer.status_code == status
    assert (answer.json()["error"]["code"], answer.json()["error"]["type"]) == (code, kind)


def test_uploaded_file(customer):
    answer = upload(customer, upload_path="photos").json()
    data = answer["data"]
    assert shape(answer) == shape(UPLOADED)
    assert (answer["code"], answer["msg"]) == (UPLOADED["code"], UPLOADED["msg"])
    same = ("file_name", "original_name", "mime_type", "upload_path")
    assert {name: data[name] for name in same} == {name: UPLOADED["data"][name] for name in same}
    assert re.fullmatch(r"file_\w+", data["file_id"])
    assert data["file_url"].endswith("/photos/photo.png")
    assert data["download_url"].endswith(f"/api/v1/files/download/{data['file_id']}")
    for name in ("upload_time", "expires_at"):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+08:00", data[name])


def test_files_list_and_quota(customer):
    uploaded(customer)
    listed = customer.http.get("/api/v1/files/list?page=1&pageSize=20").json()["data"]
    file = {"file_id": "file_a", "file_name": "a.png", "file_size": 1, "upload_time": "2025"}
    assert shape(listed) == shape({"total": 1, "files": [file]})
    quota = customer.http.get("/api/v1/files/quota").json()["data"]
    assert shape(quota) == shape(
        {"user_group": "default", "used_files": 1, "max_files": 100, "remain_files": 99}
    )


def test_credits(customer):
    customer.finished()
    assert shape(customer.http.get("/v1/credits").json()) == shape(CREDITS)


def test_client_written_by_the_documents_works_unchanged(tmp_path):
    script = Path(__file__).with_name("quick_start.py")
    with SimulatorServer(speed=50) as server:
        env = os.environ | {
            "EVOLINK_BASE_URL": server.url,
            "EVOLINK_API_KEY": "sk-evo-anything",
            "PAUSE_SECONDS": "0.1",
            "NO_PROXY": "127.0.0.1",
        }
        printed = subprocess.check_output(
            [sys.executable, str(script), "a", "red", "fox"], text=True, env=env, cwd=tmp_path, timeout=60
        )
        counters = server.state.counters
        assert (counters.paid, counters.downloads_served, counters.downloads_with_auth) == (1, 2, 0)
        assert counters.reads["task"] >= 1
    assert printed.startswith("submitted task-unified-")
    assert "completed 100 %" in printed
    assert "charged 1.3" in printed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["image-0.png", "image-1.png"]


def test_every_documented_route_is_served(customer):
    routes = [
        ("POST", "/v1/images/generations"), ("GET", "/v1/tasks/x"), ("GET", "/v1/tasks"),
        ("POST", "/v1/tasks/batch"), ("GET", "/v1/credits"), ("GET", "/v1/models"),
        ("POST", "/api/v1/files/upload/stream"), ("POST", "/api/v1/files/upload/base64"),
        ("POST", "/api/v1/files/upload/url"), ("GET", "/api/v1/files/list"), ("GET", "/api/v1/files/quota"),
        ("DELETE", "/api/v1/files/x"), ("GET", "/api/v1/files/upload-receipts/x"),
    ]  # fmt: skip
    for method, path in routes:
        answer = httpx.request(method, customer.url + path, trust_env=False)
        assert answer.status_code == 401, (method, path)
