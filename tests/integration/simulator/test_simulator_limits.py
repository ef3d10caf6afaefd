"""Rates, concurrency, the credits of keys and accounts, and what `n` gives."""

import httpx
import pytest

from airflow_provider_evoimage.simulator import SimulatorServer

OTHER = {"authorization": "Bearer sk-other"}


def test_account_over_its_rate_is_told_when_to_come_again(customer):
    customer.control("POST", "settings", rps=2)
    statuses = [customer.http.get("/v1/credits").status_code for _ in range(3)]
    assert statuses == [200, 200, 429]
    refused = customer.submit()
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert customer.counters["rate_limited"] == 2
    assert customer.counters["paid"] == 0
    customer.pass_time(0.5)
    assert customer.submit().status_code == 200
    assert customer.http.get("/v1/tasks").status_code == 429


def test_slow_rate_needs_a_longer_wait(customer):
    customer.control("POST", "settings", rps=0.1)
    assert customer.http.get("/v1/models").status_code == 200
    assert customer.http.get("/v1/models").headers["retry-after"] == "10"


def test_rate_is_counted_for_each_account_and_not_for_public_pages(customer):
    customer.control("POST", "settings", rps=1, api_keys={"sk-evo-test-key": "a", "sk-other": "b"})
    assert customer.http.get("/v1/credits").status_code == 200
    assert customer.http.get("/v1/credits", headers=OTHER).status_code == 200
    assert customer.http.get("/v1/credits").status_code == 429
    assert httpx.get(f"{customer.url}/v1/catalog/health", trust_env=False).status_code == 200
    assert customer.http.get("/api/v1/files/quota").status_code == 200


def test_only_so_many_generations_run_at_one_time(customer):
    customer.control("POST", "settings", concurrency=2, api_keys={"sk-evo-test-key": "a", "sk-other": "b"})
    first = customer.submit("[[duration:100]]", key="airflow-fox-0123456789")
    customer.submit("[[never]]")
    refused = customer.submit("three")
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "5")
    replayed = customer.submit("[[duration:100]]", key="airflow-fox-0123456789")
    assert replayed.json()["id"] == first.json()["id"]
    body = {"model": "gpt-image-1", "prompt": "x"}
    assert customer.http.post("/v1/images/generations", json=body, headers=OTHER).status_code == 200
    customer.pass_time(5)
    assert customer.submit("three").status_code == 200
    assert customer.counters["paid"] == 4


def test_endless_generations_give_no_endless_wait(customer):
    customer.control("POST", "settings", concurrency=1)
    customer.submit("[[never]]")
    assert customer.submit("two").headers["retry-after"] == "30"


def test_key_runs_out_of_its_total_limit(customer):
    customer.control("POST", "settings", token_credits=1)
    assert customer.submit("one").status_code == 200
    answer = customer.submit("two")
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (402, "key_quota_exhausted")
    assert error["total_limit_credits"] == 1
    assert {"key_name", "used_credits", "remaining_credits", "estimated_credits", "request_id"} <= set(error)
    assert customer.counters["paid"] == 1


def test_key_runs_out_of_its_daily_limit_until_midnight(customer):
    two_hours_before = (_until_midnight(customer) - 7200) % 86_400
    customer.control("POST", "settings", token_daily_credits=1, advance=two_hours_before)
    assert customer.submit("one").status_code == 200
    answer = customer.submit("two")
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (402, "key_daily_quota_exhausted")
    assert (error["daily_limit_credits"], error["reset_timezone"]) == (1, "Asia/Shanghai")
    assert 0.5 < error["daily_used_credits"] < 1
    token = customer.credits()["token"]
    assert token["daily_used_credits"] == error["daily_used_credits"]
    assert token["unlimited_credits"] is True
    customer.pass_time(7200)
    assert customer.submit("two").status_code == 200


def test_failed_generation_gives_its_share_of_the_day_back(customer):
    customer.control("POST", "settings", token_daily_credits=1)
    customer.finished("[[fail:service_error]]")
    assert customer.credits()["token"]["daily_used_credits"] == 0


def _until_midnight(customer):
    now = customer.control("GET", "settings")["clock"]["now"]
    return 86_400 - (now + 8 * 3600) % 86_400


def test_account_runs_out_during_a_campaign_and_goes_on_after_a_top_up(customer):
    customer.control("POST", "settings", credits=3)
    statuses = [customer.submit(f"shoe {number}").status_code for number in range(8)]
    assert statuses == [200] * 5 + [402] * 3
    customer.pass_time()
    assert customer.credits()["user"]["remaining_credits"] < 0.54
    customer.control("POST", "settings", credits=100)
    assert customer.submit("shoe 5").status_code == 200
    assert customer.counters["paid"] == 6


@pytest.mark.parametrize(
    ("model", "as_asked", "single"),
    [
        ("gpt-image-1", {4}, {4}),
        ("gpt-image-1.5", {4}, {1}),
        ("gpt-image-1.5-beta", {4}, {1}),
        ("gpt-image-2", {4}, {1, 4}),
    ],
)
def test_n_can_give_one_image_where_pages_say_so(customer, model, as_asked, single):
    made = {}
    for behaviour in ("as_asked", "single"):
        customer.control("POST", "settings", n_behaviour=behaviour)
        tasks = [customer.finished(f"fox {number}", model=model, n=4) for number in range(12)]
        made[behaviour] = [len(task["results"]) for task in tasks]
    assert set(made["as_asked"]) == as_asked
    assert set(made["single"]) == single
    if model == "gpt-image-2":
        assert made["single"].count(1) > 6
        again = [len(customer.finished(f"fox {number}", model=model, n=4)["results"]) for number in range(12)]
        assert again == made["single"]


def test_one_image_in_place_of_several_costs_one(customer):
    customer.control("POST", "settings", n_behaviour="single")
    assert customer.finished(n=4)["usage"]["image_output_tokens"] == 272


def campaign(seed):
    """What one run of a seeded simulator gives."""
    with (
        SimulatorServer(seed=seed) as server,
        httpx.Client(base_url=server.url, headers=OTHER | {"user-agent": "tests"}, trust_env=False) as http,
    ):
        answers = []
        for prompt in ("a red fox", "a blue fox"):
            body = {"model": "gpt-image-1", "prompt": prompt, "quality": "low"}
            answers.append(http.post("/v1/images/generations", json=body))
            http.get("/")
        durations = [each.duration for each in server.state.generations.values()]
        server.state.clock.advance(3600)
        tasks = [http.get(f"/v1/tasks/{answer.json()['id']}").json() for answer in answers]
        del http.headers["authorization"]
        pictures = [http.get(task["results"][0]).content for task in tasks]
        names = [task["results"][0].rpartition("/")[2] for task in tasks]
        ids = [answer.json()["id"] for answer in answers]
        return ids, names, durations, pictures


def test_seed_makes_a_run_repeatable():
    first = campaign(7)
    assert campaign(7) == first
    other = campaign(8)
    assert set(other[0]).isdisjoint(first[0])
    assert other[3] == first[3]


def test_seed_starts_anew_at_a_reset():
    with SimulatorServer(seed=1) as server:
        ids = [server.state.names.task_id(0) for _ in range(2)]
        server.state.reset()
        assert [server.state.names.task_id(0) for _ in range(2)] == ids
        assert ids[0] != ids[1]


def test_slow_start_answers_503_at_first(customer):
    customer.control("POST", "settings", slow_start=30)
    answer = customer.submit()
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "30")
    assert answer.json()["error"]["code"] == "service_unavailable"
    assert customer.http.get("/api/v1/files/quota").json()["success"] is False
    assert customer.counters["submissions"] == 0
    customer.pass_time(30)
    assert customer.submit().status_code == 200
