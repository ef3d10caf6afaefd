"""The Idempotency-Key header: what is paid once, what is refused, and for how long it is remembered."""

import threading

import pytest

from tools.local_airflow.processes import poll

KEY = "airflow-fox-0123456789"


def test_same_key_and_body_give_the_original_task(customer):
    first = customer.submit(key=KEY)
    again = customer.submit(key=KEY)
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert again.json()["id"] == first.json()["id"]
    assert customer.counters["paid"] == 1
    assert customer.counters["submissions"] == 2
    assert customer.counters["replays"] == 1


def test_replay_of_a_failed_generation_is_failed(customer):
    task = customer.finished("fox [[fail:service_error]]", key=KEY)
    again = customer.submit("fox [[fail:service_error]]", key=KEY).json()
    assert (again["id"], again["status"]) == (task["id"], "failed")
    assert again["error"]["code"] == "service_error"


def test_rotated_api_key_gives_the_original_task_too(customer):
    first = customer.submit(key=KEY).json()
    customer.http.headers["authorization"] = "Bearer sk-evo-rotated"
    try:
        assert customer.submit(key=KEY).json()["id"] == first["id"]
    finally:
        customer.http.headers["authorization"] = "Bearer sk-evo-test-key"


def test_same_key_with_another_body_is_a_conflict(customer):
    customer.submit(key=KEY)
    answer = customer.submit("a blue fox", key=KEY)
    assert answer.status_code == 409
    assert answer.json()["error"]["code"] == "idempotency_conflict"
    assert customer.counters["paid"] == 1
    assert customer.counters["conflicts"] == 1


def test_key_whose_submission_is_still_undecided_is_refused(customer):
    first = []
    thread = threading.Thread(target=lambda: first.append(customer.submit("[[delay:0.6]]", key=KEY)))
    thread.start()
    # The count rises with the headers; the key is in the memory once the body is read.
    poll(lambda: customer.state.key_memory._remembered, seconds=5, what="the first request", interval=0.01)
    answer = customer.submit("[[delay:0.6]]", key=KEY)
    thread.join()
    assert answer.status_code == 409
    assert answer.json()["error"]["code"] == "paid_outcome_unknown"
    assert first[0].status_code == 200
    assert customer.submit("[[delay:0.6]]", key=KEY).json()["id"] == first[0].json()["id"]
    assert customer.counters["paid"] == 1


def test_key_is_remembered_for_a_day(customer):
    first = customer.submit(key=KEY).json()["id"]
    customer.pass_time(24 * 3600 - 1)
    assert customer.submit(key=KEY).json()["id"] == first
    customer.pass_time(1)
    assert customer.submit(key=KEY).json()["id"] != first
    assert customer.counters["paid"] == 2


def test_submission_that_was_refused_is_not_remembered(customer):
    customer.control("POST", "settings", credits=0.1)
    assert customer.submit(key=KEY).status_code == 402
    customer.control("POST", "settings", credits=10)
    answer = customer.submit(key=KEY)
    assert answer.status_code == 200
    assert "idempotency-replayed" not in answer.headers


@pytest.mark.parametrize("key", ["short", "x" * 97, "with spaces in the key", "with/slashes/in/the/key"])
def test_malformed_key_is_refused(customer, key):
    answer = customer.submit(key=key)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "Idempotency-Key"


def test_keys_can_be_ignored(customer):
    customer.control("POST", "settings", ignore_keys=True)
    assert customer.submit(key=KEY).json()["id"] != customer.submit(key=KEY).json()["id"]
    assert customer.counters["paid"] == 2


def test_keys_of_two_accounts_do_not_meet(customer):
    customer.control("POST", "settings", api_keys={"sk-evo-test-key": "one", "sk-other": "two"})
    first = customer.submit(key=KEY).json()
    customer.http.headers["authorization"] = "Bearer sk-other"
    try:
        assert customer.submit(key=KEY).json()["id"] != first["id"]
        assert customer.http.get(f"/v1/tasks/{first['id']}").status_code == 404
        batch = customer.http.post("/v1/tasks/batch", json={"task_ids": [first["id"]]})
        assert batch.json() == {"data": []}
    finally:
        customer.http.headers["authorization"] = "Bearer sk-evo-test-key"
