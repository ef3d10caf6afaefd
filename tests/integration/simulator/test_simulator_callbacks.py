"""Webhooks: what is sent, when, how often, and to whom never."""

import http.server
import json
import threading
import time
from contextlib import contextmanager

import pytest

SECONDS = 10


class Receiver:
    """Takes webhooks on this machine, and answers them with the given statuses, the last one for ever."""

    def __init__(self, *statuses, delay=0.0):
        self.statuses, self.delay = list(statuses), delay
        self.bodies, self.paths = [], []

    @contextmanager
    def listening(self):
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.bodies.append(json.loads(body))
                receiver.paths.append(self.path)
                time.sleep(receiver.delay)
                status = receiver.statuses.pop(0) if len(receiver.statuses) > 1 else receiver.statuses[0]
                self.send_response(status)
                if status == 302:
                    self.send_header("location", "/elsewhere")
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *arguments):
                pass

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield f"http://localhost:{server.server_port}/hook?token=secret"
            server.shutdown()


@pytest.fixture
def caller(customer):
    customer.control("POST", "settings", loopback_callbacks=True)
    return customer


def deliveries(customer, **expected):
    """Wait until the only delivery is as expected, and return it."""
    deadline = time.monotonic() + SECONDS
    while True:
        data = customer.control("GET", "callbacks")["data"]
        if data and expected.items() <= data[0].items():
            return data[0]
        assert time.monotonic() < deadline, data
        time.sleep(0.02)


def look_again(customer):
    """Wait until the courier has looked twice for what is due, and has sent all that it found."""
    callbacks, looks = customer.state.callbacks, []
    look = callbacks.due

    def noted(now):
        looks.append(now)
        return look(now)

    callbacks.due = noted
    deadline = time.monotonic() + SECONDS
    while len(looks) < 2 or any(each.under_way for each in callbacks.deliveries):
        assert time.monotonic() < deadline, looks
        time.sleep(0.02)
    del callbacks.due


@pytest.mark.parametrize(
    ("words", "status"),
    [("", "completed"), ("[[fail:service_error]]", "failed"), ("[[cancelled]]", "cancelled")],
)
def test_task_detail_is_sent_once_it_is_billed(caller, words, status):
    receiver = Receiver(204)
    with receiver.listening() as url:
        task_id = caller.submit(f"fox {words}", callback_url=url).json()["id"]
        assert caller.control("GET", "callbacks")["data"] == []
        caller.pass_time()
        delivery = deliveries(caller, outcome="delivered")
    assert receiver.bodies == [caller.task(task_id)]
    assert receiver.bodies[0]["status"] == status
    assert receiver.paths == ["/hook?token=secret"]
    assert delivery["statuses"] == [204]
    assert delivery["host"] == url.split("/")[2]
    assert "secret" not in str(delivery)


def test_ended_from_outside_is_sent_too(caller):
    receiver = Receiver(200)
    with receiver.listening() as url:
        task_id = caller.submit("[[never]]", callback_url=url).json()["id"]
        caller.control("POST", f"generations/{task_id}", end="failed", code="service_error")
        deliveries(caller, outcome="delivered", status="failed", task_id=task_id)


def test_failing_receiver_is_tried_again_after_1_2_and_4_seconds(caller):
    caller.control("POST", "settings", speed=1)
    receiver = Receiver(500)
    with receiver.listening() as url:
        caller.submit("fox [[instant]]", callback_url=url)
        for attempts, pause in ((1, 1), (2, 2), (3, 4)):
            deliveries(caller, attempts=attempts, outcome="waiting")
            caller.pass_time(pause - 0.01)
            look_again(caller)
            deliveries(caller, attempts=attempts)
            caller.pass_time(0.02)
        delivery = deliveries(caller, attempts=4, outcome="failed")
        caller.pass_time()
        look_again(caller)
    assert delivery["statuses"] == [500] * 4
    assert len(receiver.bodies) == 4


def test_receiver_that_comes_back_gets_it(caller):
    receiver = Receiver(503, 302, 201)
    with receiver.listening() as url:
        caller.submit("fox [[instant]]", callback_url=url)
        deliveries(caller, attempts=1)
        caller.pass_time(1)
        deliveries(caller, attempts=2)
        caller.pass_time(2)
        deliveries(caller, outcome="delivered", statuses=[503, 302, 201])
    assert set(receiver.paths) == {"/hook?token=secret"}


def test_silent_receiver_is_given_up(caller, monkeypatch):
    monkeypatch.setattr("airflow_provider_evoimage.simulator.http.courier.TIMEOUT_SECONDS", 0.2)
    receiver = Receiver(200, delay=0.6)
    with receiver.listening() as url:
        caller.submit("fox [[instant]]", callback_url=url)
        assert deliveries(caller, attempts=1)["statuses"] == ["no answer in 0.2 s"]


def test_missing_receiver_is_noted(caller):
    caller.submit("fox [[instant]]", callback_url="http://127.0.0.1:9/hook")
    assert deliveries(caller, attempts=1)["statuses"] == ["ConnectError"]


@pytest.mark.parametrize("url", ["https://example.com/hook", "https://user:pass@example.com:8443/hook"])
def test_nothing_is_sent_to_another_machine(caller, url):
    caller.submit("fox [[instant]]", callback_url=url)
    delivery = deliveries(caller, attempts=0)
    assert delivery["outcome"] == "not sent: outside"
    assert delivery["host"] in ("example.com", "example.com:8443")


@pytest.mark.parametrize("url", ["http://localhost:9/hook", "https://127.0.0.1/hook", "http://[::1]:9/"])
def test_receivers_on_this_machine_must_be_allowed(customer, url):
    answer = customer.submit(callback_url=url)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "callback_url")
    customer.control("POST", "settings", loopback_callbacks=True)
    assert customer.submit(callback_url=url).status_code == 200
    assert customer.submit(callback_url="http://example.com/").status_code == 400


def test_replayed_submission_sends_nothing_twice(caller):
    receiver = Receiver(200)
    with receiver.listening() as url:
        for _ in range(2):
            caller.submit("fox", key="airflow-fox-0123456789", callback_url=url)
        caller.pass_time()
        deliveries(caller, outcome="delivered")
        look_again(caller)
    assert len(receiver.bodies) == 1
