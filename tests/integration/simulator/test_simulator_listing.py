"""The list of tasks, the models, and the public catalogue."""

import httpx
import pytest

from airflow_provider_evoimage.simulator.documents.catalog import MODELS


def listed(customer, **query):
    answer = customer.http.get("/v1/tasks", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_tasks_are_listed_newest_first_without_links(customer):
    first = customer.finished("one")
    second = customer.submit("two").json()
    answer = listed(customer)
    assert [task["id"] for task in answer["data"]] == [second["id"], first["id"]]
    assert (answer["total"], answer["page"], answer["page_size"]) == (2, 1, 20)
    assert "://" not in str(answer)
    assert answer["data"][1] == {
        "id": first["id"],
        "status": "completed",
        "model": "gpt-image-1.5",
        "type": "image",
        "progress": 100,
        "created_at": first["created"],
        "has_results": True,
        "has_error": False,
        "credits_used": first["usage"]["credits_used"],
    }


def test_list_is_filtered(customer):
    customer.finished("[[fail:service_error]]")
    customer.finished("[[cancelled]]")
    customer.finished("done", model="gpt-image-1")
    waiting = customer.submit("[[duration:1000]]").json()
    running = customer.submit("[[duration:20000]]").json()
    customer.pass_time(1)
    statuses = {status: listed(customer, status=status)["total"] for status in ("failed", "cancelled")}
    assert statuses == {"failed": 1, "cancelled": 1}
    processing = listed(customer, status="processing")["data"]
    assert {task["id"] for task in processing} == {waiting["id"], running["id"]}
    assert {task["status"] for task in processing} == {"pending"}
    assert listed(customer, model="gpt-image-1")["total"] == 1
    assert listed(customer, type="video")["data"] == []
    assert listed(customer, status="failed")["data"][0]["has_error"] is True


def test_list_has_pages(customer):
    ids = [customer.submit(str(number)).json()["id"] for number in range(5)]
    pages = [listed(customer, page=page, page_size=2) for page in (1, 2, 3, 4)]
    assert [task["id"] for page in pages for task in page["data"]] == ids[::-1]
    assert {page["total"] for page in pages} == {5}
    assert pages[3]["data"] == []


def test_list_shows_the_account_of_the_key_only(customer):
    customer.submit()
    customer.control("POST", "settings", api_keys={"sk-other": "other", "sk-evo-test-key": "default"})
    answer = httpx.get(
        f"{customer.url}/v1/tasks", headers={"authorization": "Bearer sk-other"}, trust_env=False
    )
    assert answer.json()["total"] == 0
    assert listed(customer)["total"] == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("status", "done"), ("type", "text"), ("page", "0"), ("page", "x"), ("page", "9" * 5000),
        ("page_size", "51"), ("page_size", "-1"),
    ],
)  # fmt: skip
def test_wrong_query_is_refused(customer, name, value):
    answer = customer.http.get("/v1/tasks", params={name: value})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == name


def test_models_are_listed_for_a_key(customer):
    answer = customer.http.get("/v1/models").json()
    assert {model["id"] for model in answer["data"]} == set(MODELS)
    assert httpx.get(f"{customer.url}/v1/models", trust_env=False).status_code == 401


def test_catalogue_is_public(customer):
    models = httpx.get(f"{customer.url}/v1/catalog/models", trust_env=False).json()["models"]
    assert {model["model_id"] for model in models} == set(MODELS)
    assert all(
        set(model) == {"model_id", "display_name", "aliases", "capabilities", "protocols", "lifecycle"}
        for model in models
    )


def test_unavailable_model_shows_in_the_catalogue_and_takes_no_orders(customer):
    customer.control("POST", "settings", unavailable_models=["gpt-image-2"])
    models = httpx.get(f"{customer.url}/v1/catalog/health", trust_env=False).json()["models"]
    statuses = {model["model_id"]: model["status"] for model in models}
    assert (statuses["gpt-image-2"], statuses["gpt-image-1.5"]) == ("unavailable", "available")
    answer = customer.submit(model="gpt-image-2")
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "model_unavailable"
    assert customer.counters["paid"] == 0
