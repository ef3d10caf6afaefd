"""Keys, counters, settings, the clock, and the life of the server itself."""

import time

import httpx
import pytest

from airflow_provider_evoimage.simulator import SimulatorServer
from airflow_provider_evoimage.simulator.service.accounts import key_hash
from airflow_provider_evoimage.simulator.service.faults import Fault
from tools.local_airflow.processes import poll

API_KEY = "sk-evo-test-key"


def test_request_without_a_key_is_refused(customer):
    answer = httpx.get(f"{customer.url}/v1/tasks/task-unified-1-x", trust_env=False)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "unauthorized"
    assert answer.json()["error"]["type"] == "authentication_error"


def test_credits_page_refuses_with_an_integer_code(customer):
    assert httpx.get(f"{customer.url}/v1/credits", trust_env=False).json()["error"]["code"] == 401


def test_keys_can_be_limited_rotated_and_revoked(customer):
    customer.control("POST", "settings", api_keys=["another"])
    assert customer.submit().json()["error"]["code"] == "invalid_token"
    customer.control("POST", "settings", api_keys=["another", API_KEY])
    assert customer.submit().status_code == 200
    customer.control("POST", "settings", revoked_keys=[API_KEY])
    assert customer.submit().status_code == 401
    customer.control("POST", "settings", api_keys=None, revoked_keys=[])
    assert customer.submit().status_code == 200


def test_counters_say_what_was_asked(customer):
    task = customer.finished()
    customer.submit(size="9:9")
    customer.image(task["results"][0])
    customer.http.post("/v1/tasks/batch", json={"task_ids": [task["id"], "task-unified-1-x"]})
    customer.credits()
    counters = customer.counters
    assert counters["submissions"] == 2
    assert counters["paid"] == 1
    assert counters["ids_read"] == 3
    assert {route: count for route, count in counters["reads"].items() if count} == {
        "task": 1, "batch": 1, "credits": 1, "download": 1,
    }  # fmt: skip
    assert (counters["downloads"], counters["downloads_served"]) == (1, 1)
    assert counters["credits_charged"] == task["usage"]["credits_used"]
    # An answer may be here a moment before the server has noted that it is away.
    poll(lambda: customer.counters["open_requests"] == 0, seconds=5, what="every request to be closed")
    assert 1 <= counters["most_open_requests"] <= 2
    assert counters["per_key"][key_hash(API_KEY)] == {
        "submissions": 2, "paid": 1, "task_reads": 1, "batch_reads": 1, "credits_reads": 1,
    }  # fmt: skip


def test_no_key_is_shown_or_kept(customer):
    customer.control("POST", "settings", api_keys=[API_KEY], revoked_keys=["sk-old"])
    customer.submit(key="airflow-fox-0123456789")
    shown = "".join(str(customer.control("GET", what)) for what in ("counters", "generations", "settings"))
    kept = str(vars(customer.state)) + str(vars(customer.state.keys))
    assert API_KEY not in shown + kept
    assert "sk-old" not in shown + kept


def test_generations_are_listed_with_their_keys_and_prompts(customer):
    task_id = customer.submit("a red fox", key="airflow-fox-0123456789").json()["id"]
    (listed,) = customer.control("GET", "generations")["data"]
    assert listed["id"] == task_id
    assert listed["prompt"] == "a red fox"
    assert listed["idempotency_key"] == "airflow-fox-0123456789"
    assert listed["key"] == key_hash(API_KEY)


def test_clock_can_be_moved_from_outside(customer):
    task_id = customer.submit("[[duration:1000]]").json()["id"]
    customer.control("POST", "settings", advance=49)
    assert customer.task(task_id)["status"] == "processing"
    customer.control("POST", "settings", advance=1)
    assert customer.task(task_id)["status"] == "completed"
    assert customer.control("GET", "settings")["clock"]["frozen"] is True
    customer.control("POST", "settings", freeze=False)
    assert customer.control("GET", "settings")["clock"]["frozen"] is False


def test_generation_can_be_ended_or_slowed_from_outside(customer):
    first, second, third = (customer.submit("[[never]]").json()["id"] for _ in range(3))
    customer.control("POST", f"generations/{first}", end="completed")
    assert len(customer.task(first)["results"]) == 1
    customer.control("POST", f"generations/{second}", end="failed", code="service_error")
    assert customer.task(second)["error"]["code"] == "service_error"
    assert customer.control("POST", f"generations/{third}", end="cancelled")["status"] == "cancelled"
    slow = customer.submit().json()["id"]
    customer.control("POST", f"generations/{slow}", duration=20_000)
    customer.pass_time(999)
    assert customer.task(slow)["status"] == "processing"
    again = customer.http.post(f"/_simulator/generations/{first}", json={"end": "failed"})
    assert again.status_code == 400


def test_generation_can_be_made_elsewhere_some_time_ago(customer):
    mine = customer.finished("mine")
    made = customer.control("POST", "generations", prompt="a poster", n=2, age=21 * 3600)
    task = customer.task(made["id"])
    assert (task["status"], len(task["results"])) == ("completed", 2)
    assert task["created"] == int(customer.state.clock.now()) - 21 * 3600
    listed = customer.http.get("/v1/tasks").json()["data"]
    assert [each["id"] for each in listed] == [mine["id"], made["id"]]
    # The key of the tests was not charged for it, its account was.
    assert customer.credits()["token"]["used_credits"] == mine["usage"]["credits_used"]
    assert customer.credits()["user"]["used_credits"] > mine["usage"]["credits_used"]
    # Those of another account are not seen, and dead links stay dead.
    customer.control("POST", "generations", prompt="a poster", account="another")
    old = customer.control("POST", "generations", prompt="a poster", age=25 * 3600)
    assert len(customer.http.get("/v1/tasks").json()["data"]) == 3
    assert customer.files.get(customer.task(old["id"])["results"][0]).status_code == 403


@pytest.mark.parametrize(
    "body", [{}, {"prompt": "x", "age": -1}, {"prompt": "x", "account": 3}, {"prompt": "x", "n": 0}]
)
def test_generation_made_elsewhere_with_a_wrong_field_is_refused(customer, body):
    answer = customer.http.post("/_simulator/generations", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]


def test_duration_of_all_generations_can_be_set(customer):
    customer.control("POST", "settings", duration=0)
    assert customer.submit().json()["status"] == "completed"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", {"charge_status": "charged", "refund_status": "not_required", "refunded_credits": 0}),
        ("[[fail:service_error]]", {"charge_status": "released", "refund_status": "completed"}),
        ("[[never]]", {"charge_status": "reserved", "refund_status": "not_required"}),
    ],
)
def test_tasks_can_carry_the_billing_object(customer, words, expected):
    customer.control("POST", "settings", billing_object=True)
    billing = customer.finished(f"fox {words}")["billing"]
    assert expected.items() <= billing.items()
    assert billing["refunded_credits"] in (0, billing["reserved_credits"])


@pytest.mark.parametrize(
    "body",
    [
        {"speeed": 1},
        {"speed": 0},
        {"credits": -1},
        {"ignore_keys": 1},
        {"api_keys": "x"},
        {"error_style": "x"},
    ],
)
def test_wrong_setting_is_refused_and_changes_nothing(customer, body):
    before = customer.control("GET", "settings")
    answer = customer.http.post("/_simulator/settings", json={"duration": 5} | body)
    assert answer.status_code == 400
    assert next(iter(body)) in answer.json()["error"]
    assert customer.control("GET", "settings") == before


def test_reset_forgets_everything(customer):
    customer.control("POST", "settings", credits=1, ignore_keys=True, advance=100)
    task_id = customer.submit("[[never]]").json()["id"]
    customer.control("POST", "reset")
    assert customer.http.get(f"/v1/tasks/{task_id}").status_code == 404
    assert customer.credits()["user"]["remaining_credits"] == 1000
    assert customer.control("GET", "settings")["ignore_keys"] is False
    assert customer.counters["submissions"] == 0


def test_real_durations_follow_model_and_quality(customer):
    customer.control("POST", "settings", speed=1)
    answer = customer.submit("a red fox", quality="high").json()
    assert answer["task_info"]["estimated_time"] == 100
    (listed,) = customer.control("GET", "generations")["data"]
    assert 20 <= listed["ends_at"] - listed["created"] <= 60


def test_stopped_server_starts_again_with_all_it_knew():
    lines: list[str] = []
    server = SimulatorServer(report=lines.append)
    headers = {"authorization": "Bearer k"}
    with server:
        body = {"model": "gpt-image-1", "prompt": "a red\nfox"}
        task = httpx.post(
            f"{server.url}/v1/images/generations", json=body, headers=headers, trust_env=False
        ).json()
        url = server.url
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/v1/credits", headers=headers, trust_env=False)
    with server:
        assert server.url == url
        again = httpx.get(f"{url}/v1/tasks/{task['id']}", headers=headers, trust_env=False)
        assert again.json()["id"] == task["id"]
    assert len(lines) == 1
    assert "a red fox" in lines[0]


def test_server_stops_although_requests_wait(caplog):
    with httpx.Client(headers={"user-agent": "tests"}, trust_env=False) as files, SimulatorServer() as server:
        body = {"model": "gpt-image-1", "prompt": "[[silence:90]]"}
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(
                f"{server.url}/v1/images/generations",
                json=body,
                headers={"authorization": "Bearer k"},
                timeout=1.5,
                trust_env=False,
            )
        (generation,) = server.state.generations.values()
        server.state.end(generation.id, "completed")
        server.state.faults.post("download", Fault("slow", seconds=60))
        stream = files.stream("GET", server.state.links(generation)[0])
        answer = stream.__enter__()
        assert answer.status_code == 200
        before = time.monotonic()
    assert time.monotonic() - before < 5
    assert "Exception" not in caplog.text


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "example.com"])
def test_only_loopback_is_listened_on(host):
    with pytest.raises(ValueError, match="loopback"):
        SimulatorServer(host=host).start()


@pytest.mark.parametrize(
    "host", ["attacker.example.com", "127.0.0.1.nip.io:80", "evil.localhost.example", "", "["]
)
def test_page_of_another_name_is_answered_nothing(customer, host):
    for path in ("/", "/v1/credits", "/_simulator/generations"):
        assert customer.http.get(path, headers={"Host": host}).status_code == 403


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8585", "[::1]:8585", "LOCALHOST:80"])
def test_names_of_this_machine_are_answered(customer, host):
    assert customer.http.get("/_simulator/counters", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"]
)
def test_form_of_another_page_changes_nothing(customer, kind):
    headers = {} if kind is None else {"Content-Type": kind}
    customer.submit()
    for path, body in (("reset", b""), ("settings", b'{"credits": 0}'), ("faults", b'{"route": "task"}')):
        answer = customer.http.post(f"/_simulator/{path}", content=body, headers=headers)
        assert answer.status_code == 415
        assert "application/json" in answer.text
    assert customer.counters["paid"] == 1
