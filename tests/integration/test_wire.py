"""What goes over the wire is what the product pages document, for every parameter and every allowed value."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from airflow_provider_evoimage import __version__
from airflow_provider_evoimage.client import Account, AsyncEvoLinkClient, EvoLinkClient
from airflow_provider_evoimage.evolink.request import ImageRequest
from airflow_provider_evoimage.hooks.evoimage import EvoImageHook
from airflow_provider_evoimage.simulator import SimulatorServer

API_KEY = "sk-evo-0123456789abcdef"
KEY = "airflow-evoimage-" + "0" * 64
PROMPT = "A beautiful colorful sunset over the ocean"
CALLBACK = "https://your-domain.com/webhooks/image-task-completed"
SIZES = ("1:1", "2:3", "3:2", "1024x1024", "1024x1536", "1536x1024")

# Both pages' "Request Parameters": allowed values, and the default of each.
PAGES = {
    "gpt-image-1": {
        "size": (SIZES, "1024x1024"),
        "quality": (("low", "medium", "high"), "high"),
        "n": (range(1, 11), 1),
    },
    "gpt-image-1.5-beta": {
        "size": (SIZES, "1:1"),
        "quality": (("auto", "low", "medium", "high"), "auto"),
        "n": (range(1, 11), 1),
    },
}
ALLOWED = [
    pytest.param(model, name, value, id=f"{model}-{name}-{value}")
    for model, parameters in PAGES.items()
    for name, (values, _) in parameters.items()
    for value in values
]
both_pages = pytest.mark.parametrize("model", PAGES)


@pytest.fixture(scope="module")
def server() -> Iterator[SimulatorServer]:
    with SimulatorServer(api_key=API_KEY, credits=1_000_000) as server:
        yield server


@pytest.fixture
def evolink(server, monkeypatch):
    server.reset()
    server.state.clock.freeze()
    monkeypatch.setenv("AIRFLOW_CONN_EVOIMAGE_DEFAULT", as_connection(server.url))
    return server


@pytest.fixture
def hook(evolink):
    hook = EvoImageHook()
    yield hook
    hook.close()


@pytest.fixture
def client(evolink):
    with EvoLinkClient(Account(base_url=evolink.url, api_key=API_KEY)) as client:
        yield client


def as_connection(url):
    return json.dumps({"conn_type": "evoimage", "host": url, "password": API_KEY})


def request_for(model, **fields):
    return ImageRequest.build(model=model, prompt=PROMPT, **fields)


def received(evolink):
    (generation,) = evolink.state.generations.values()
    return generation


@pytest.mark.parametrize("through", ["hook", "client"])
@pytest.mark.parametrize(("model", "name", "value"), ALLOWED)
def test_allowed_value_arrives_as_documented(evolink, hook, client, model, name, value, through):
    sender = hook if through == "hook" else client
    submitted = sender.submit(request_for(model, **{name: value}), KEY)
    generation = received(evolink)
    order = generation.order
    arrived = {"size": order.size, "quality": order.quality, "n": order.images}
    documented = {other: default for other, (_, default) in PAGES[model].items()}
    assert arrived == documented | {name: value}
    assert order.model == model
    assert order.prompt == PROMPT
    assert order.references == 0
    assert order.callback_url is None
    assert submitted.generation.evolink_task_id == generation.id
    assert submitted.replayed is False


@both_pages
def test_request_with_nothing_but_a_prompt_arrives_with_the_documented_defaults(evolink, hook, model):
    hook.submit(request_for(model), KEY)
    order = received(evolink).order
    defaults = {name: default for name, (_, default) in PAGES[model].items()}
    assert {"size": order.size, "quality": order.quality, "n": order.images} == defaults


@both_pages
@pytest.mark.parametrize("count", [1, 2, 16])
def test_references_arrive(evolink, hook, model, count):
    urls = [f"https://example.com/image{number}.png" for number in range(count)]
    hook.submit(request_for(model, image_urls=urls), KEY)
    assert received(evolink).order.references == count


@both_pages
@pytest.mark.parametrize(
    "url", [CALLBACK, "https://example.com/".ljust(2048, "x")], ids=["documented", "2048-characters"]
)
def test_callback_url_arrives(evolink, hook, model, url):
    hook.submit(request_for(model, callback_url=url), KEY)
    assert received(evolink).order.callback_url == url


@both_pages
@pytest.mark.parametrize(
    "prompt",
    ["🦊 на снегу", "ثعلب أحمر", "a\nb\tc", '"quoted" \\ back', "x" * 2000, " padded "],
    ids=["emoji", "arabic", "lines", "quotes", "2000-characters", "padded"],
)
def test_prompt_arrives_unchanged(evolink, hook, model, prompt):
    hook.submit(ImageRequest.build(model=model, prompt=prompt), KEY)
    assert received(evolink).order.prompt == prompt


def test_every_parameter_together_arrives(evolink, hook):
    hook.submit(
        request_for(
            "gpt-image-1",
            size="1024x1536",
            quality="medium",
            n=2,
            image_urls=["https://example.com/a.png"],
            callback_url=CALLBACK,
        ),
        KEY,
    )
    order = received(evolink).order
    assert (order.size, order.quality, order.images) == ("1024x1536", "medium", 2)
    assert (order.references, order.callback_url) == (1, CALLBACK)
    assert received(evolink).idempotency_key == KEY


def test_same_key_again_is_the_same_generation_and_is_paid_once(evolink, hook):
    first = hook.submit(request_for("gpt-image-1"), KEY)
    second = hook.submit(request_for("gpt-image-1"), KEY)
    assert (first.replayed, second.replayed) == (False, True)
    assert first.generation.evolink_task_id == second.generation.evolink_task_id
    assert evolink.state.counters.paid == 1


@both_pages
def test_answers_read_back_from_submission_to_result(evolink, hook, model):
    submitted = hook.submit(request_for(model, n=2, quality="low"), KEY).generation
    assert submitted.status == "pending"
    assert submitted.estimated_time > 0
    assert submitted.usage.credits_reserved > 0
    evolink.state.clock.advance(3600)
    done = hook.get_generation(submitted.evolink_task_id)
    assert done.status == "completed"
    assert done.progress == 100
    assert len(done.image_urls) == 2
    assert done.usage.credits_used > 0
    assert hook.get_generations([submitted.evolink_task_id, "task-unified-1-other"]) == {
        submitted.evolink_task_id: done
    }


def test_credits_read_back(evolink, hook):
    balance = hook.get_credits()
    assert balance.account_remaining == 1_000_000
    assert balance.key_remaining is None


# The bytes of a request


class Recorder(BaseHTTPRequestHandler):
    """Writes down what it is sent, and answers every POST with a task."""

    seen: list[dict]

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        self.answer({"method": "POST", "body": json.loads(body)}, self.reply(body))

    def do_GET(self):
        self.answer({"method": "GET"}, {"id": self.path.rpartition("/")[2], "status": "pending"})

    def reply(self, body):
        task = {"id": "task-unified-1-a", "status": "pending"}
        return {"data": [task]} if self.path.endswith("/batch") else task

    def answer(self, seen, data):
        type(self).seen.append(
            seen | {"path": self.path, "headers": {name.lower(): text for name, text in self.headers.items()}}
        )
        content = json.dumps(data).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@contextmanager
def recording():
    recorder = type("RecorderOfOneTest", (Recorder,), {"seen": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), recorder) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", recorder.seen
        finally:
            server.shutdown()


@pytest.fixture
def recorder():
    with recording() as both:
        yield both


def assert_headers(headers):
    assert headers["authorization"] == f"Bearer {API_KEY}"
    assert headers["user-agent"].startswith(f"airflow-provider-evoimage/{__version__} (Airflow/")
    assert headers["accept"] == "application/json"


@both_pages
def test_body_is_the_documented_json_and_nothing_else(recorder, model):
    url, seen = recorder
    request = request_for(
        model,
        size="2:3",
        quality="low",
        n=1,
        image_urls=["https://example.com/a b.png?x=ü"],
        callback_url=CALLBACK,
    )
    with EvoLinkClient(Account(base_url=url, api_key=API_KEY)) as client:
        client.submit(request, KEY)
    (sent,) = seen
    assert (sent["method"], sent["path"]) == ("POST", "/v1/images/generations")
    assert sent["body"] == {
        "model": model,
        "prompt": PROMPT,
        "size": "2:3",
        "quality": "low",
        "n": 1,
        "image_urls": ["https://example.com/a b.png?x=ü"],
        "callback_url": CALLBACK,
    }
    assert_headers(sent["headers"])
    assert sent["headers"]["content-type"] == "application/json"
    assert sent["headers"]["idempotency-key"] == KEY
    assert sent["headers"]["x-evo-run-id"] == KEY


def test_fields_without_a_value_are_not_sent(recorder):
    url, seen = recorder
    with EvoLinkClient(Account(base_url=url, api_key=API_KEY)) as client:
        client.submit(ImageRequest.build(model="model-of-tomorrow", prompt=PROMPT), KEY)
    assert seen[0]["body"] == {"model": "model-of-tomorrow", "prompt": PROMPT}


def test_extra_body_lies_beside_the_named_fields(recorder):
    url, seen = recorder
    extra = {"resolution": "4K", "background": "opaque", "model_params": {"web_search": False}}
    with EvoLinkClient(Account(base_url=url, api_key=API_KEY)) as client:
        client.submit(request_for("gpt-image-2", size="16:9", extra_body=extra), KEY)
    assert (
        seen[0]["body"]
        == {
            "model": "gpt-image-2",
            "prompt": PROMPT,
            "size": "16:9",
            "quality": "medium",
            "n": 1,
        }
        | extra
    )


def test_reads_carry_the_key_and_no_idempotency_key(recorder):
    url, seen = recorder
    with EvoLinkClient(Account(base_url=url, api_key=API_KEY)) as client:
        client.get_generation("task-unified-1-a")
        client.get_generations(["task-unified-1-a", "task-unified-1-b"])
    task, batch = seen
    assert (task["method"], task["path"]) == ("GET", "/v1/tasks/task-unified-1-a")
    assert (batch["method"], batch["path"]) == ("POST", "/v1/tasks/batch")
    assert batch["body"] == {"task_ids": ["task-unified-1-a", "task-unified-1-b"]}
    for sent in seen:
        assert_headers(sent["headers"])
        assert "idempotency-key" not in sent["headers"]


def test_prefix_of_the_base_url_stays_before_the_path(recorder):
    url, seen = recorder
    with EvoLinkClient(Account(base_url=f"{url}/evolink", api_key=API_KEY)) as client:
        client.get_generation("task-unified-1-a")
    assert seen[0]["path"] == "/evolink/v1/tasks/task-unified-1-a"


async def test_trigger_sends_what_a_worker_sends(recorder):
    url, seen = recorder
    account = Account(base_url=url, api_key=API_KEY)
    with EvoLinkClient(account) as client:
        client.get_generation("task-unified-1-a")
        client.get_generations(["task-unified-1-a", "task-unified-1-b"])
    async with AsyncEvoLinkClient(account) as client:
        await client.get_state("task-unified-1-a")
        await client.get_states(["task-unified-1-a", "task-unified-1-b"])
    assert len(seen) == 4
    assert seen[:2] == seen[2:]
