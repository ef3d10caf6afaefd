"""What people and services get wrong: each mistake ends in one named error, and before the POST where it can."""

import hashlib
import json
from datetime import timedelta
from types import SimpleNamespace

import pytest
from airflow.exceptions import TaskDeferred

from airflow_provider_evoimage.evolink.request import ImageRequest
from airflow_provider_evoimage.exceptions import (
    AccessDeniedError,
    AuthenticationError,
    ConnectionNotFoundError,
    ConnectionSettingsError,
    ContentPolicyError,
    ContentRefusedError,
    DestinationError,
    DestinationUnusableError,
    DownloadError,
    EvoImageError,
    EvoLinkUnavailableError,
    EvoLinkUnreachableError,
    FileExistsAtDestinationError,
    GenerationCancelledError,
    GenerationFailedError,
    GenerationLostError,
    GenerationNotFoundError,
    GenerationRefusedError,
    GenerationTimeoutError,
    GenerationUnfinishedError,
    InsufficientCreditsError,
    InvalidRequestError,
    KeyLimitError,
    LinkExpiredError,
    NoImagesError,
    NotAnImageError,
    OutcomeUnknownError,
    RateLimitError,
    RequestRefusedError,
    SensorTimeoutError,
    UnrepeatableSubmissionError,
)
from airflow_provider_evoimage.hooks.evoimage import EvoImageHook
from airflow_provider_evoimage.operators.generate import EvoImageGenerateOperator
from airflow_provider_evoimage.operators.save import EvoImageSaveOperator
from airflow_provider_evoimage.sensors.generation import EvoImageGenerationSensor
from airflow_provider_evoimage.simulator import SimulatorServer
from airflow_provider_evoimage.simulator.service.faults import Fault

API_KEY = "sk-evo-0123456789abcdef"
CONN = "AIRFLOW_CONN_EVOIMAGE_DEFAULT"
REFERENCE = "https://example.com/a.png"
UNKNOWN_TASK = "task-unified-1-unknown"


class TaskInstance:
    """As much of Airflow's as an operator asks for."""

    dag_id, run_id, task_id = "campaign", "manual__2026-11-01", "poster"
    map_index = -1
    max_tries = 0
    try_number = 1

    def __init__(self):
        self.xcoms = {}

    def xcom_push(self, key, value):
        self.xcoms[key] = value

    def xcom_pull(self, *, key, **_):
        return self.xcoms.get(key)


@pytest.fixture
def context():
    return {"ti": TaskInstance()}


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Waiting between attempts takes no time."""
    waits = []
    monkeypatch.setattr("tenacity.nap.time", SimpleNamespace(sleep=waits.append))
    return waits


@pytest.fixture(scope="module")
def server():
    with SimulatorServer(api_key=API_KEY) as server:
        yield server


@pytest.fixture
def evolink(server, monkeypatch):
    server.reset()
    server.state.clock.freeze()
    monkeypatch.setenv(CONN, as_connection(server.url))
    return server


def as_connection(host, password=API_KEY, **extra):
    return json.dumps({"conn_type": "evoimage", "host": host, "password": password, "extra": extra})


def generate(context, **arguments):
    operator = EvoImageGenerateOperator(
        **({"task_id": "poster", "prompt": "a fox", "model": "gpt-image-1"} | arguments)
    )
    return operator.execute(context)


def save(context, folder, **arguments):
    operator = EvoImageSaveOperator(**({"task_id": "save", "save_to": f"file://{folder}"} | arguments))
    return operator.execute(context)


def sense(context, **arguments):
    return EvoImageGenerationSensor(**({"task_id": "sense"} | arguments)).execute(context)


def submitted(prompt="a fox", **fields):
    """Pay for a generation as another task would; return its id."""
    hook = EvoImageHook()
    request = ImageRequest.build(model="gpt-image-1", prompt=prompt, quality="low", **fields)
    generation = hook.submit(request, hashlib.sha256(prompt.encode()).hexdigest()).generation
    hook.close()
    return generation.evolink_task_id


def assert_error(caught, kind, fragment):
    assert type(caught.value) is kind
    assert fragment in str(caught.value)
    assert "Billed: " in str(caught.value)
    assert API_KEY not in str(caught.value)


# What is known before anything is sent

BEFORE_THE_POST = [
    ("prompt-empty", {"prompt": ""}, InvalidRequestError, "prompt: must not be empty"),
    ("prompt-blank", {"prompt": " \n "}, InvalidRequestError, "prompt: must not be empty"),
    ("prompt-none", {"prompt": None}, InvalidRequestError, "prompt: must be text"),
    ("prompt-list", {"prompt": ["a fox"]}, InvalidRequestError, "prompt: must be text"),
    ("prompt-surrogate", {"prompt": "\ud800"}, InvalidRequestError, "half a character"),
    ("model-number", {"model": 1}, InvalidRequestError, "model must be text"),
    ("model-long", {"model": "m" * 201}, InvalidRequestError, "model: "),
    ("size-unknown", {"size": "16:9"}, InvalidRequestError, "size: '16:9' is not a size of gpt-image-1"),
    ("size-number", {"size": 1024}, InvalidRequestError, "size: "),
    ("quality-unknown", {"quality": "ultra"}, InvalidRequestError, "quality: 'ultra'"),
    ("quality-of-another", {"quality": "auto"}, InvalidRequestError, "quality: 'auto'"),
    ("n-zero", {"n": 0}, InvalidRequestError, "n: "),
    ("n-eleven", {"n": 11}, InvalidRequestError, "allowed: 1 to 10"),
    ("n-eleven-rendered", {"n": "11"}, InvalidRequestError, "allowed: 1 to 10"),
    ("n-word", {"n": "two"}, InvalidRequestError, "n: "),
    ("n-bool", {"n": True}, InvalidRequestError, "must be a whole number"),
    ("reference-path", {"image_urls": ["/data/a.png"]}, InvalidRequestError, "no reference file"),
    ("reference-name", {"image_urls": "a.png"}, InvalidRequestError, "not an http(s) URL"),
    ("reference-number", {"image_urls": 5}, InvalidRequestError, "image_urls"),
    ("references-17", {"image_urls": [REFERENCE] * 17}, InvalidRequestError, "allowed: 16"),
    ("references-broken", {"image_urls": '["https://a'}, InvalidRequestError, "not valid JSON"),
    ("callback-http", {"callback_url": "http://example.com"}, InvalidRequestError, "must be an https URL"),
    ("callback-local", {"callback_url": "https://localhost/"}, InvalidRequestError, "private or loopback"),
    ("callback-private", {"callback_url": "https://10.0.0.1"}, InvalidRequestError, "private or loopback"),
    (
        "callback-long",
        {"callback_url": "https://example.com/".ljust(2049, "x")},
        InvalidRequestError,
        "2048",
    ),
    ("extra-repeats", {"extra_body": {"prompt": "x"}}, InvalidRequestError, "must not repeat prompt"),
    ("extra-list", {"extra_body": [1]}, InvalidRequestError, "extra_body"),
    ("extra-object", {"extra_body": {"a": object()}}, InvalidRequestError, "must be plain JSON"),
    (
        "resolution",
        {"model": "gpt-image-2", "extra_body": {"resolution": "8K"}},
        InvalidRequestError,
        "extra_body.resolution: '8K'",
    ),
    ("save-relative", {"save_to": "images"}, InvalidRequestError, "is no storage URL"),
    ("save-number", {"save_to": 5}, InvalidRequestError, "save_to must be text"),
    (
        "save-unknown",
        {"save_to": "nosuch://x/y"},
        DestinationUnusableError,
        "no installed package knows nosuch://",
    ),
    ("save-extra", {"save_to": "gs://x/y"}, DestinationUnusableError, "airflow-provider-evoimage[gcs]"),
    ("save-connection", {"save_to": "s3://nope@x/y"}, DestinationError, "no Airflow connection 'nope'"),
    (
        "name-unknown",
        {"save_to": "file:///tmp/x", "filename_template": "{nmae}.{ext}"},
        InvalidRequestError,
        "unknown field {nmae}",
    ),
    (
        "name-leaves",
        {"save_to": "file:///tmp/x", "filename_template": "../{index}.{ext}"},
        InvalidRequestError,
        "must not leave save_to",
    ),
    (
        "name-absolute",
        {"save_to": "file:///tmp/x", "filename_template": "/{index}.{ext}"},
        InvalidRequestError,
        "must be relative",
    ),
    (
        "name-empty",
        {"save_to": "file:///tmp/x", "filename_template": ""},
        InvalidRequestError,
        "it names no file",
    ),
    (
        "name-brace",
        {"save_to": "file:///tmp/x", "filename_template": "{index"},
        InvalidRequestError,
        "cannot be used",
    ),
    (
        "name-format",
        {"save_to": "file:///tmp/x", "filename_template": "{dag_id:d}-{index}.{ext}"},
        InvalidRequestError,
        "cannot be used",
    ),
    (
        "name-the-same-for-all",
        {"save_to": "file:///tmp/x", "filename_template": "{task_id}.{ext}", "n": 2},
        InvalidRequestError,
        "the same name: add {index}",
    ),
    ("conn-unknown", {"evoimage_conn_id": "nowhere"}, ConnectionNotFoundError, "finds no connection"),
    ("conn-empty", {"evoimage_conn_id": ""}, ConnectionNotFoundError, "finds no connection ''"),
]


@pytest.mark.parametrize(
    ("arguments", "kind", "fragment"),
    [row[1:] for row in BEFORE_THE_POST],
    ids=[row[0] for row in BEFORE_THE_POST],
)
def test_mistake_in_an_argument_is_named_before_anything_is_sent(evolink, context, arguments, kind, fragment):
    with pytest.raises(EvoImageError) as caught:
        generate(context, **arguments)
    assert_error(caught, kind, fragment)
    assert caught.value.billed is not True
    assert evolink.state.counters.submissions == 0
    assert "evolink_task_id" not in context["ti"].xcoms


@pytest.mark.parametrize(
    ("connection", "fragment"),
    [
        ({"password": ""}, "has no API key"),
        ({"password": f"Bearer {API_KEY}"}, "paste it again"),
        ({"host": "https://docs.evolink.ai"}, "web site, not its API"),
        ({"host": "http://api.evolink.ai"}, "unencrypted"),
        ({"host": "https://[::1"}, "not the address of an HTTP API"),
        ({"request_timeout": "soon"}, "request_timeout must be a number above 0"),
        ({"max_requests_per_second": 0}, "max_requests_per_second must be a number above 0"),
        ({"idempotency": "perhaps"}, "idempotency must be 'trusted' or 'ignored'"),
        ({"default_model": 5}, "default_model must be text"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
@pytest.mark.parametrize("model", ["gpt-image-1", None], ids=["model-given", "model-of-the-connection"])
def test_mistake_in_the_connection_is_named_before_anything_is_sent(
    evolink, context, monkeypatch, connection, fragment, model
):
    monkeypatch.setenv(CONN, as_connection(**({"host": evolink.url} | connection)))
    with pytest.raises(EvoImageError) as caught:
        generate(context, model=model)
    assert_error(caught, ConnectionSettingsError, fragment)
    assert caught.value.billed is False
    assert evolink.state.counters.submissions == 0


@pytest.mark.parametrize(
    ("operator", "arguments", "fragment"),
    [
        (EvoImageGenerateOperator, {"prompt": "a", "timeout": 0}, "timeout must be"),
        (EvoImageGenerateOperator, {"prompt": "a", "timeout": -1}, "timeout must be"),
        (EvoImageGenerateOperator, {"prompt": "a", "timeout": "60"}, "timeout must be"),
        (EvoImageGenerateOperator, {"prompt": "a", "timeout": None}, "timeout must be"),
        (EvoImageGenerateOperator, {"prompt": "a", "timeout": True}, "timeout must be"),
        (EvoImageGenerateOperator, {"prompt": "a", "timeout": float("nan")}, "timeout must be"),
        (EvoImageGenerateOperator, {"prompt": "a", "timeout": float("inf")}, "timeout must be"),
        (EvoImageGenerateOperator, {"prompt": "a", "timeout": 1e300}, "at most a year"),
        (EvoImageGenerateOperator, {"prompt": "a", "timeout": timedelta.max}, "at most a year"),
        (EvoImageGenerateOperator, {"prompt": "a", "timeout": timedelta(0)}, "timeout must be"),
        (EvoImageGenerateOperator, {"prompt": "a", "poll_interval": 0}, "poll_interval must be"),
        (EvoImageGenerateOperator, {"prompt": "a", "submit_timeout": "x"}, "submit_timeout must be"),
        (EvoImageGenerateOperator, {"prompt": "a", "on_clear": "again"}, "on_clear must be one of 'auto'"),
        (
            EvoImageSaveOperator,
            {"generation": "a", "save_to": "s", "if_exists": "x"},
            "if_exists must be one",
        ),
        (EvoImageSaveOperator, {"generation": "a", "save_to": "s", "parallel": 0}, "parallel must be"),
        (EvoImageSaveOperator, {"generation": "a", "save_to": "s", "parallel": True}, "parallel must be"),
        (EvoImageSaveOperator, {"generation": "a", "save_to": "s", "parallel": 1.5}, "parallel must be"),
        (EvoImageGenerationSensor, {"evolink_task_id": "a", "timeout": 0}, "timeout must be"),
        (EvoImageGenerationSensor, {"evolink_task_id": "a", "timeout": "60"}, "timeout must be"),
        (EvoImageGenerationSensor, {"evolink_task_id": "a", "poll_interval": -1}, "poll_interval must be"),
    ],
    ids=lambda value: None if isinstance(value, (dict, str)) else value.__name__,
)
def test_mistake_that_the_dag_file_shows_is_named_when_it_is_read(operator, arguments, fragment):
    with pytest.raises(InvalidRequestError) as caught:
        operator(task_id="t", **arguments)
    assert fragment in str(caught.value)


# What the service answers to the submission

REFUSALS = [
    ("400", "[[http:400]]", RequestRefusedError, "HTTP 400 invalid_request"),
    ("moderation", "[[http:400 code=moderation_blocked]]", ContentRefusedError, "moderation_blocked"),
    ("401", "[[http:401]]", AuthenticationError, "HTTP 401"),
    ("402", "[[http:402]]", InsufficientCreditsError, "insufficient_quota"),
    ("402-key", "[[http:402 code=key_quota_exhausted]]", KeyLimitError, "key_quota_exhausted"),
    ("402-day", "[[http:402 code=key_daily_quota_exhausted]]", KeyLimitError, "wait for its reset"),
    ("403", "[[http:403]]", AccessDeniedError, "HTTP 403"),
    ("403-model", "[[http:403 code=model_access_denied]]", AccessDeniedError, "model_access_denied"),
    ("404", "[[http:404]]", RequestRefusedError, "HTTP 404"),
    ("413", "[[http:413]]", RequestRefusedError, "HTTP 413"),
    ("415", "[[http:415]]", RequestRefusedError, "HTTP 415"),
    ("429", "[[http:429 retry_after=9]]", RateLimitError, "HTTP 429"),
    ("503", "[[http:503 retry_after=9]]", EvoLinkUnavailableError, "HTTP 503"),
]


REFUSALS_IN_BOTH_STYLES = [
    *(("new", *row) for row in REFUSALS),
    # Integer codes tell no more than the status does.
    *(
        ("old", name, prompt, kind, f"HTTP {name}: ")
        for name, prompt, kind, _ in REFUSALS
        if "code=" not in prompt
    ),
]


@pytest.mark.parametrize(
    ("style", "prompt", "kind", "fragment"),
    [(style, *row) for style, _, *row in REFUSALS_IN_BOTH_STYLES],
    ids=[f"{style}-{name}" for style, name, *_ in REFUSALS_IN_BOTH_STYLES],
)
def test_refused_submission_is_named_and_was_not_billed(evolink, context, style, prompt, kind, fragment):
    evolink.state.configure({"error_style": style})
    with pytest.raises(EvoImageError) as caught:
        generate(context, prompt=prompt, submit_timeout=1)
    assert_error(caught, kind, fragment)
    assert caught.value.billed is False
    assert caught.value.request_id is not None
    assert evolink.state.counters.paid == 0
    assert evolink.state.counters.submissions == 1
    assert "evolink_task_id" not in context["ti"].xcoms


def test_model_that_nobody_offers_is_refused_by_the_service(evolink, context):
    with pytest.raises(EvoImageError) as caught:
        generate(context, model="no-such-model")
    assert_error(caught, RequestRefusedError, "model_not_found")
    assert evolink.state.counters.paid == 0


def test_account_without_credit_is_told_before_anything_is_made(evolink, context):
    evolink.state.configure({"credits": 0.5})
    with pytest.raises(EvoImageError) as caught:
        generate(context)
    assert_error(caught, InsufficientCreditsError, "top up the account")
    assert evolink.state.counters.paid == 0


def test_wrong_key_is_told(evolink, context, monkeypatch):
    monkeypatch.setenv(CONN, as_connection(evolink.url, "sk-evo-mistyped"))
    with pytest.raises(EvoImageError) as caught:
        generate(context)
    assert_error(caught, AuthenticationError, "put a valid API key into the connection")
    assert "sk-evo-mistyped" not in str(caught.value)


def test_nobody_at_the_address_was_not_billed(context, monkeypatch):
    monkeypatch.setenv(CONN, as_connection("http://127.0.0.1:1"))
    with pytest.raises(EvoImageError) as caught:
        generate(context, submit_timeout=0.001)
    assert_error(caught, EvoLinkUnreachableError, "No connection")
    assert caught.value.billed is False


@pytest.mark.parametrize(
    "prompt",
    ["[[cut:after times=9]]", "[[status-after:502 times=9]]", "[[junk-after times=9]]", "[[http:500]]"],
    ids=["cut", "502", "junk", "500"],
)
def test_lost_answer_is_asked_for_once_more_and_then_named_unknown(evolink, context, prompt):
    with pytest.raises(EvoImageError) as caught:
        generate(context, prompt=prompt)
    assert_error(caught, OutcomeUnknownError, "same idempotency key")
    assert caught.value.billed is None
    assert caught.value.retryable
    assert evolink.state.counters.submissions == 2
    assert evolink.state.counters.paid <= 1


@pytest.mark.parametrize("prompt", ["[[cut:after]]", "[[status-after:502]]", "[[junk-after]]"])
def test_lost_answer_is_final_where_keys_are_ignored(evolink, context, monkeypatch, prompt):
    monkeypatch.setenv(CONN, as_connection(evolink.url, idempotency="ignored"))
    with pytest.raises(EvoImageError) as caught:
        generate(context, prompt=prompt)
    assert_error(caught, UnrepeatableSubmissionError, "so that nothing is paid twice")
    assert not caught.value.retryable
    assert evolink.state.counters.submissions == 1


def test_submission_that_stays_undecided_is_not_called_unbilled(evolink, context):
    evolink.state.faults.post("submit", undecided())
    with pytest.raises(EvoImageError) as caught:
        generate(context, submit_timeout=1)
    assert_error(caught, OutcomeUnknownError, "paid_outcome_unknown")
    assert caught.value.billed is None


def test_submission_that_stays_undecided_is_final_where_keys_are_ignored(evolink, context, monkeypatch):
    monkeypatch.setenv(CONN, as_connection(evolink.url, idempotency="ignored"))
    evolink.state.faults.post("submit", undecided())
    with pytest.raises(EvoImageError) as caught:
        generate(context, submit_timeout=1)
    assert_error(caught, UnrepeatableSubmissionError, "paid_outcome_unknown")
    assert evolink.state.counters.submissions == 1


def undecided():
    return Fault("status", 409, code="paid_outcome_unknown", retry_after="9")


# How the generation ends

ENDINGS = [
    ("[[fail:content_policy_violation]]", ContentPolicyError, "content_policy_violation", False),
    ("[[fail:invalid_parameters]]", GenerationRefusedError, "invalid_parameters", False),
    ("[[fail:service_error]]", GenerationFailedError, "a new generation", False),
    ("[[fail:resource_exhausted]]", GenerationFailedError, "resource_exhausted", False),
    ("[[fail:code_of_tomorrow]]", GenerationRefusedError, "code_of_tomorrow", False),
    ("[[fail:request_cancelled]]", GenerationCancelledError, "was cancelled at EvoLink", None),
    ("[[cancelled]]", GenerationCancelledError, "was cancelled at EvoLink", None),
    ("[[results:0]]", NoImagesError, "without a single image", True),
]


@pytest.mark.parametrize(
    ("prompt", "kind", "fragment", "billed"), ENDINGS, ids=[prompt.strip("[]") for prompt, *_ in ENDINGS]
)
def test_generation_that_brings_no_image_is_named_with_its_id_and_money(
    evolink, context, prompt, kind, fragment, billed
):
    with pytest.raises(EvoImageError) as caught:
        generate(context, prompt=f"{prompt} [[instant]]")
    assert_error(caught, kind, fragment)
    (task,) = evolink.state.generations
    assert task in str(caught.value)
    assert caught.value.evolink_task_id == task
    assert caught.value.billed is billed
    assert context["ti"].xcoms["evolink_task_id"] == task


@pytest.mark.parametrize(
    ("word", "kind", "fragment"),
    [
        ("[[expired]]", DownloadError, "refuses the result link"),
        ("[[download:html]]", NotAnImageError, "is not an image"),
        ("[[download:short]]", DownloadError, "EvoLink task"),
        ("[[download:503]]", DownloadError, "HTTP 503"),
        ("[[download:cut]]", DownloadError, "The connection was cut"),
    ],
)
def test_paid_image_that_cannot_be_fetched_is_named_and_billed(
    evolink, context, tmp_path, word, kind, fragment
):
    with pytest.raises(EvoImageError) as caught:
        generate(context, prompt=f"{word} [[instant]]", quality="low", save_to=f"file://{tmp_path}")
    assert_error(caught, kind, fragment)
    assert caught.value.billed is True
    assert caught.value.evolink_task_id in evolink.state.generations
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert evolink.state.counters.paid == 1


def test_storage_that_takes_no_file_is_named_and_the_images_are_kept(evolink, context, tmp_path):
    (tmp_path / "campaign").write_text("a file where a folder must be")
    with pytest.raises(EvoImageError) as caught:
        generate(context, prompt="[[instant]]", quality="low", save_to=f"file://{tmp_path}")
    assert_error(caught, DestinationError, "cannot be written")
    assert caught.value.billed is True
    assert caught.value.retryable
    assert caught.value.evolink_task_id in evolink.state.generations


# The save operator


@pytest.mark.parametrize(
    ("generation", "kind", "fragment"),
    [
        (None, InvalidRequestError, "a manifest, an EvoLink task id"),
        ("", InvalidRequestError, "a manifest, an EvoLink task id"),
        (5, InvalidRequestError, "a manifest, an EvoLink task id"),
        ([], InvalidRequestError, "nothing to save"),
        ([[]], InvalidRequestError, "nothing to save"),
        ([None], InvalidRequestError, "skipped or returned nothing"),
        ({}, InvalidRequestError, "a manifest"),
        ({"evolink_task_id": None}, InvalidRequestError, "a manifest"),
        ({"evolink_task_id": 5}, InvalidRequestError, "a manifest"),
        ("../etc/passwd", InvalidRequestError, "a manifest"),
        ("a b", InvalidRequestError, "a manifest"),
        ("x" * 129, InvalidRequestError, "a manifest"),
        (b"task-unified-1-a", InvalidRequestError, "a manifest"),
        ("..", InvalidRequestError, "an EvoLink task id"),
        (UNKNOWN_TASK, GenerationNotFoundError, "does not know task task-unified-1-unknown"),
        ([UNKNOWN_TASK, "task-unified-2-x"], GenerationNotFoundError, "2 of 2 generations"),
    ],
    ids=lambda value: repr(value)[:30] if not isinstance(value, type) else None,
)
def test_save_of_what_is_no_generation_is_refused(evolink, context, tmp_path, generation, kind, fragment):
    with pytest.raises(EvoImageError) as caught:
        save(context, tmp_path, generation=generation)
    assert_error(caught, kind, fragment)
    assert evolink.state.counters.submissions == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "kind", "fragment"),
    [
        ({"save_to": ""}, InvalidRequestError, "save_to is empty"),
        ({"save_to": "None"}, InvalidRequestError, "save_to is empty"),
        ({"save_to": "images"}, InvalidRequestError, "is no storage URL"),
        ({"save_to": "nosuch://x"}, DestinationError, "cannot be opened"),
        ({"filename_template": "{oops}"}, InvalidRequestError, "unknown field {oops}"),
        ({"filename_template": "a/../../b"}, InvalidRequestError, "must not leave save_to"),
        ({"evoimage_conn_id": "nowhere"}, ConnectionNotFoundError, "finds no connection"),
    ],
    ids=lambda value: repr(value)[:40] if isinstance(value, dict) else None,
)
def test_mistake_in_a_save_is_named_before_anything_is_read(
    evolink, context, tmp_path, arguments, kind, fragment
):
    with pytest.raises(EvoImageError) as caught:
        save(context, tmp_path, **({"generation": UNKNOWN_TASK} | arguments))
    assert_error(caught, kind, fragment)
    assert evolink.state.counters.reads.total() == 0


@pytest.mark.parametrize(
    ("prompt", "kind", "fragment"),
    [
        ("[[never]]", GenerationUnfinishedError, "wait for it first with EvoImageGenerationSensor"),
        ("[[instant]] [[fail:service_error]]", GenerationRefusedError, "only the task that submitted it"),
        ("[[instant]] [[cancelled]]", GenerationCancelledError, "was cancelled"),
        ("[[instant]] [[results:0]]", NoImagesError, "without a single image"),
        ("[[instant]] [[download:html]]", NotAnImageError, "is not an image"),
    ],
    ids=["unfinished", "failed", "cancelled", "no-image", "a-page"],
)
def test_save_of_what_has_no_image_is_named_with_its_id(evolink, context, tmp_path, prompt, kind, fragment):
    task = submitted(prompt)
    with pytest.raises(EvoImageError) as caught:
        save(context, tmp_path, generation=task)
    assert_error(caught, kind, fragment)
    assert caught.value.evolink_task_id == task
    assert not caught.value.retryable
    assert list(tmp_path.iterdir()) == []


def test_save_of_one_bad_among_good_saves_the_good_and_names_the_bad(evolink, context, tmp_path):
    good, bad = submitted("[[instant]]"), submitted("[[instant]] [[cancelled]]")
    with pytest.raises(EvoImageError) as caught:
        save(context, tmp_path, generation=[good, {"evolink_task_id": bad}])
    assert_error(caught, GenerationCancelledError, "1 of 2 generations could not be saved")
    assert bad in str(caught.value)
    assert len(list(tmp_path.rglob("*.png"))) == 1


def test_save_after_the_links_died_says_what_is_lost(evolink, context, tmp_path):
    task = submitted("[[instant]]")
    evolink.state.configure({"link_lifetime": 0})
    task_created = evolink.state.generations[task]
    task_created.accepted_at -= 25 * 3600
    with pytest.raises(EvoImageError) as caught:
        save(context, tmp_path, generation=task)
    assert_error(caught, LinkExpiredError, "the images are lost. Set save_to")
    assert caught.value.billed is True


def test_save_over_a_file_is_refused_when_asked_to(evolink, context, tmp_path):
    first, second = submitted("[[instant]]"), submitted("[[instant]] another")
    save(context, tmp_path, generation=first, filename_template="poster.{ext}")
    with pytest.raises(EvoImageError) as caught:
        save(context, tmp_path, generation=second, filename_template="poster.{ext}", if_exists="error")
    assert_error(caught, FileExistsAtDestinationError, "poster.png exists")


def test_save_of_several_under_one_name_is_refused_and_says_that_the_images_are_kept(
    evolink, context, tmp_path
):
    tasks = [submitted("[[instant]]"), submitted("[[instant]] another")]
    with pytest.raises(EvoImageError) as caught:
        save(context, tmp_path, generation=tasks, filename_template="poster.{ext}")
    assert_error(caught, InvalidRequestError, "the same name")
    assert "the links live 24 hours" in str(caught.value)
    assert "Nothing was sent" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


# The sensor


@pytest.mark.parametrize(
    ("evolink_task_id", "kind", "fragment"),
    [
        (None, InvalidRequestError, "an EvoLink task id"),
        ("", InvalidRequestError, "an EvoLink task id"),
        (5, InvalidRequestError, "an EvoLink task id"),
        ({}, InvalidRequestError, "an EvoLink task id"),
        ("a/b", InvalidRequestError, "an EvoLink task id"),
        ("..", InvalidRequestError, "an EvoLink task id"),
        (["task-unified-1-a", "task-unified-1-b"], InvalidRequestError, "names 2 generations"),
        ("another-services-id", GenerationNotFoundError, "invalid_task_id"),
    ],
    ids=lambda value: repr(value)[:30] if not isinstance(value, type) else None,
)
@pytest.mark.parametrize("deferrable", [True, False], ids=["deferrable", "poking"])
def test_sensor_of_what_is_no_generation_fails_at_once(
    evolink, context, evolink_task_id, kind, fragment, deferrable
):
    with pytest.raises(EvoImageError) as caught:
        sense(context, evolink_task_id=evolink_task_id, deferrable=deferrable)
    assert_error(caught, kind, fragment)
    assert not caught.value.retryable


@pytest.mark.parametrize(
    ("prompt", "kind"),
    [
        ("[[instant]] [[fail:content_policy_violation]]", ContentPolicyError),
        ("[[instant]] [[fail:service_error]]", GenerationRefusedError),
        ("[[instant]] [[cancelled]]", GenerationCancelledError),
        ("[[instant]] [[results:0]]", NoImagesError),
    ],
)
@pytest.mark.parametrize("deferrable", [True, False], ids=["deferrable", "poking"])
def test_sensor_of_a_generation_without_images_fails_for_good(evolink, context, prompt, kind, deferrable):
    task = submitted(prompt)
    with pytest.raises(EvoImageError) as caught:
        sense(context, evolink_task_id=task, deferrable=deferrable)
    assert_error(caught, kind, task)
    assert not caught.value.retryable


def test_sensor_with_a_refused_key_fails_at_once(evolink, context):
    task = submitted("[[never]]")
    evolink.state.configure({"revoked_keys": [API_KEY]})
    with pytest.raises(EvoImageError) as caught:
        sense(context, evolink_task_id=task)
    assert_error(caught, AuthenticationError, "The generation is kept")


@pytest.mark.parametrize("status", [429, 500, 503])
def test_sensor_outlasts_trouble_that_passes(evolink, context, status):
    task = submitted("[[never]]")
    evolink.state.faults.post("task", Fault("status", status))
    with pytest.raises(TaskDeferred):
        sense(context, evolink_task_id=task)


# Events, which come from another process and perhaps another version


@pytest.mark.parametrize(
    "event",
    [
        None,
        "completed",
        [],
        {},
        {"v": 2, "status": "completed", "generations": {UNKNOWN_TASK: "completed"}},
        {"v": 1, "status": "completed"},
        {"v": 1, "status": "completed", "generations": {}},
        {"v": 1, "status": "completed", "generations": {UNKNOWN_TASK: "done"}},
        {"v": 1, "status": "completed", "generations": {"../x": "completed"}},
        {"v": 1, "status": "completed", "generations": [UNKNOWN_TASK]},
        {"status": "error", "message": "boom"},
    ],
    ids=lambda event: repr(event)[:60],
)
@pytest.mark.parametrize("operator", [EvoImageGenerateOperator, EvoImageGenerationSensor])
def test_event_of_another_version_is_named_and_submits_nothing(evolink, context, operator, event):
    arguments = {"prompt": "a fox"} if operator is EvoImageGenerateOperator else {"evolink_task_id": "a"}
    with pytest.raises(EvoImageError) as caught:
        operator(task_id="t", **arguments).execute_complete(context, event)
    assert_error(caught, EvoImageError, "an event that this version of the provider does not know")
    assert caught.value.retryable
    assert evolink.state.counters.submissions == 0


@pytest.mark.parametrize(
    ("ending", "kind", "fragment"),
    [("timeout", GenerationTimeoutError, "still"), ("lost", GenerationLostError, "broke off")],
)
def test_wait_that_ended_too_early_names_the_generation_and_what_a_retry_does(
    evolink, context, ending, kind, fragment
):
    task = submitted("[[never]]")
    event = {"v": 1, "status": ending, "generations": {task: ending}, "reason": "unreadable"}
    with pytest.raises(EvoImageError) as caught:
        EvoImageGenerateOperator(task_id="t", prompt="a").execute_complete(context, event)
    assert_error(caught, kind, fragment)
    assert task in str(caught.value)
    assert "a retry goes on waiting for it and submits nothing" in str(caught.value)


def test_sensor_that_timed_out_says_that_it_is_not_retried(evolink, context):
    task = submitted("[[never]]")
    event = {"v": 1, "status": "timeout", "generations": {task: "timeout"}}
    with pytest.raises(EvoImageError) as caught:
        EvoImageGenerationSensor(task_id="t", evolink_task_id=task).execute_complete(context, event)
    assert_error(caught, SensorTimeoutError, "Airflow does not retry a sensor that timed out")
    assert task in str(caught.value)
