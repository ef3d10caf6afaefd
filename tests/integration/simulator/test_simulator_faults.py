"""Everything that can be made to go wrong does, and only as often as it was asked for."""

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_provider_evoimage.simulator.service.errors import FAILURES
from airflow_provider_evoimage.simulator.service.faults import ROUTES, WORDS

KEY = "airflow-fox-0123456789"
CUT = (httpx.RemoteProtocolError, httpx.ReadError)


@pytest.mark.parametrize("code", FAILURES)
def test_generation_fails_with_the_asked_code(customer, code):
    task = customer.finished(f"fox [[fail:{code}]]")
    assert task["status"] == "failed"
    assert task["progress"] == 0
    assert task["error"] == {"code": code, "message": FAILURES[code], "type": "task_error"}
    assert "results" not in task


def test_cancelled_empty_and_endless_generations(customer):
    assert customer.finished("[[cancelled]]")["status"] == "cancelled"
    empty = customer.finished("[[results:0]]")
    assert (empty["status"], empty["results"]) == ("completed", [])
    endless = customer.finished("[[never]]")
    assert (endless["status"], endless["progress"]) == ("processing", 99)


def test_status_at_submission_lasts(customer):
    for _ in range(3):
        answer = customer.submit("fox [[http:429 retry_after=7]]")
        assert answer.status_code == 429
        assert answer.headers["retry-after"] == "7"
        assert answer.json()["error"]["code"] == "rate_limit_exceeded"
        assert answer.json()["error"]["type"] == "rate_limit_error"
    assert customer.counters["paid"] == 0


def test_status_at_submission_ends_after_its_times(customer):
    prompt = "fox [[http:503 times=2 retry_after=1 code=model_unavailable]]"
    answers = [customer.submit(prompt) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [503, 503, 200]
    assert answers[0].json()["error"]["code"] == "model_unavailable"


def test_words_follow_one_another(customer):
    prompt = "fox [[http:503 times=1]] [[status-after:502]]"
    statuses = [customer.submit(prompt, key=KEY).status_code for _ in range(3)]
    assert statuses == [503, 502, 200]
    assert customer.counters["paid"] == 1


def test_connection_cut_before_acceptance_pays_nothing(customer):
    with pytest.raises(CUT):
        customer.submit("fox [[cut:before]]", key=KEY)
    assert customer.counters["paid"] == 0
    assert "idempotency-replayed" not in customer.submit("fox [[cut:before]]", key=KEY).headers
    assert customer.counters["paid"] == 1


@pytest.mark.parametrize("word", ["[[cut:after]]", "[[cut:after times=2]]"])
def test_connection_cut_after_acceptance_is_paid_and_replayed(customer, word):
    with pytest.raises(CUT):
        customer.submit(f"fox {word}", key=KEY)
    assert customer.counters["paid"] == 1
    if "times=2" in word:
        with pytest.raises(CUT):
            customer.submit(f"fox {word}", key=KEY)
    assert customer.submit(f"fox {word}", key=KEY).headers["idempotency-replayed"] == "true"
    assert customer.counters["paid"] == 1


def test_proxy_page_after_acceptance(customer):
    answer = customer.submit("fox [[status-after:504]]", key=KEY)
    assert answer.status_code == 504
    assert answer.headers["content-type"].startswith("text/html")
    assert customer.counters["paid"] == 1


def test_unreadable_body_after_acceptance(customer):
    answer = customer.submit("fox [[junk-after]]", key=KEY)
    assert answer.status_code == 200
    with pytest.raises(ValueError, match="delimiter"):
        answer.json()
    assert customer.counters["paid"] == 1


def test_silence_after_acceptance(customer):
    with pytest.raises(httpx.ReadTimeout):
        customer.submit("fox [[silence:90]]", key=KEY, timeout=1.5)
    assert customer.counters["paid"] == 1
    assert customer.submit("fox [[silence:90]]", key=KEY).headers["idempotency-replayed"] == "true"


def test_short_silence_ends_with_the_answer(customer):
    assert customer.submit("fox [[silence:0.1]]").json()["status"] == "pending"


@pytest.mark.parametrize(
    "prompt",
    ["[[http:200]]", "[[cut:sometimes]]", "[[results:few]]", "[[duration:nan]]", "[[http:429 times=x]]"],
)
def test_word_with_a_wrong_value_is_refused(customer, prompt):
    answer = customer.submit(prompt)
    assert answer.status_code == 400
    assert "Simulator word" in answer.json()["error"]["message"]


def test_other_words_in_brackets_are_text(customer):
    assert customer.submit("see [[the wiki]] and [[wiki:page]]").status_code == 200


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(sorted(set(WORDS) - {"silence", "delay", "cut"})),
    st.text(max_size=12),
    st.text(max_size=8),
)
def test_no_prompt_breaks_the_simulator(customer, word, value, rest):
    answer = customer.submit(
        f"{rest} [[{word}:{value} times={rest}]] {value}".encode(errors="replace").decode()
    )
    assert answer.headers["x-request-id"]
    assert "Internal Server Error" not in answer.text


# Files


def test_links_can_be_dead_from_the_start(customer):
    assert customer.files.get(customer.finished("[[expired]]")["results"][0]).status_code == 403


def test_short_file_ends_half_way(customer):
    link = customer.finished("[[download:short]]")["results"][0]
    with pytest.raises(httpx.RemoteProtocolError, match=r"incomplete|without sending complete"):
        customer.files.get(link)
    assert customer.counters["downloads_served"] == 0


def test_slow_file_is_complete_in_the_end(customer):
    link = customer.finished("[[download:slow seconds=0.3]]")["results"][0]
    with customer.files.stream("GET", link) as answer:
        length = int(answer.headers["content-length"])
        pieces = list(answer.iter_raw())
    assert sum(map(len, pieces)) == length
    assert len(pieces) > 5
    assert answer.elapsed.total_seconds() > 0.2


def test_html_in_place_of_a_file(customer):
    answer = customer.files.get(customer.finished("[[download:html]]")["results"][0])
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")


def test_file_of_unsaid_type_and_file_of_another_type(customer):
    unsaid = customer.files.get(customer.finished("[[download:octet]]")["results"][0])
    assert unsaid.headers["content-type"] == "application/octet-stream"
    assert unsaid.content.startswith(b"\x89PNG")
    other = customer.files.get(customer.finished("[[download:jpeg]]")["results"][0])
    assert other.headers["content-type"] == "image/png"
    assert other.content.startswith(b"\xff\xd8")


def test_spoiled_download_ends_after_its_times(customer):
    link = customer.finished("[[download:503 times=1]]")["results"][0]
    assert [customer.files.get(link).status_code for _ in range(2)] == [503, 200]


def test_download_cut(customer):
    link = customer.finished("[[download:cut times=1]]")["results"][0]
    with pytest.raises(CUT):
        customer.files.get(link)


# Faults on a route


def use(customer, route):
    """Send one request to a route."""
    if route == "submit":
        return customer.submit()
    if route == "batch":
        return customer.http.post("/v1/tasks/batch", json={"task_ids": ["task-unified-1-x"]})
    if route == "download":
        return customer.files.get(f"{customer.url}/files/x")
    if route == "upload":
        return customer.http.post("/api/v1/files/upload/base64", json={})
    return customer.http.get(
        {
            "task": "/v1/tasks/task-unified-1-x",
            "list": "/v1/tasks",
            "credits": "/v1/credits",
            "models": "/v1/models",
            "catalog": "/v1/catalog/models",
            "files": "/api/v1/files/quota",
        }[route]
    )


@pytest.mark.parametrize("route", ROUTES)
def test_posted_faults_happen_on_their_route_and_end(customer, route):
    expected = use(customer, route).status_code
    customer.control("POST", "faults", route=route, kind="status", status=429, retry_after=3, times=1)
    customer.control("POST", "faults", route=route, kind="cut", times=1)
    customer.control("POST", "faults", route=route, kind="junk", times=1)
    customer.control("POST", "faults", route=route, kind="delay", seconds=0.05)
    limited = use(customer, route)
    assert (limited.status_code, limited.headers["retry-after"]) == (429, "3")
    with pytest.raises(CUT):
        use(customer, route)
    junk = use(customer, route)
    assert junk.status_code == 200
    with pytest.raises(ValueError, match="delimiter"):
        junk.json()
    assert use(customer, route).status_code == expected
    customer.control("DELETE", "faults")
    assert not customer.state.faults.posted


def test_posted_fault_after_acceptance_pays(customer):
    customer.control(
        "POST", "faults", route="submit", kind="status", status=502, after=True, page=True, times=1
    )
    assert customer.submit(key=KEY).status_code == 502
    assert customer.submit(key=KEY).headers["idempotency-replayed"] == "true"
    assert customer.counters["paid"] == 1


def test_posted_faults_can_be_a_matter_of_chance(customer):
    customer.control("POST", "faults", route="credits", kind="status", status=500, probability=0.5)
    statuses = [use(customer, "credits").status_code for _ in range(40)]
    assert 5 < statuses.count(500) < 35


def test_posted_fault_spoils_files(customer):
    link = customer.finished()["results"][0]
    customer.control("POST", "faults", route="download", kind="html", times=1)
    kinds = [customer.files.get(link).headers["content-type"] for _ in range(2)]
    assert kinds == ["text/html; charset=utf-8", "image/png"]


@pytest.mark.parametrize(
    "body",
    [
        {"route": "nowhere", "kind": "cut"},
        {"route": "task", "kind": "short"},
        {"route": "task", "kind": "status", "status": 200},
        {"route": "task", "kind": "cut", "how": "fast"},
        {"route": "task", "kind": "cut", "probability": 2},
    ],
)
def test_wrong_fault_is_refused(customer, body):
    answer = customer.http.post("/_simulator/faults", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]
