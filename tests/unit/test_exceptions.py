"""The tree of failures: drawn as it is, and every error says what happened, to which money, and what a retry does."""

import inspect
import pickle
import re

import pytest

from airflow_provider_evoimage import exceptions
from airflow_provider_evoimage.exceptions import EvoImageError, SensorTimeoutError
from airflow_provider_evoimage.version_compat import (
    AirflowException,
    AirflowFailException,
    AirflowSensorTimeout,
)

CLASSES = [
    kind
    for kind in vars(exceptions).values()
    if inspect.isclass(kind) and kind.__module__ == exceptions.__name__
]
ATTRIBUTES = {
    "evolink_task_id": "task-unified-1-a",
    "billed": True,
    "on_retry": "A retry does this.",
    "retry_after": 7.5,
    "request_id": "req_1",
    "code": "some_code",
    "http_status": 418,
}
every_class = pytest.mark.parametrize("kind", CLASSES, ids=[kind.__name__ for kind in CLASSES])


def drawn_tree():
    """Read the drawing: (name, name of the parent, has a star), in order."""
    found, path = [], []
    for line in exceptions.__doc__.splitlines():
        match = re.match(r"^(?P<branch>[│├└─ ]*)(?P<name>\w+Error)(?P<star> \*)?(\s|$)", line)
        if match is None:
            continue
        depth = len(match["branch"]) // 4
        path[depth:] = [match["name"]]
        found.append((match["name"], path[depth - 1] if depth else None, match["star"] is not None))
    return found


def test_drawing_holds_every_class_once():
    names = [name for name, *_ in drawn_tree()]
    assert sorted(names) == sorted(kind.__name__ for kind in CLASSES)


@pytest.mark.parametrize(("name", "parent", "starred"), drawn_tree(), ids=[name for name, *_ in drawn_tree()])
def test_class_stands_where_its_base_class_says(name, parent, starred):
    kind = getattr(exceptions, name)
    ours = [base for base in kind.__bases__ if base.__module__ == exceptions.__name__]
    assert [base.__name__ for base in ours] == ([parent] if parent else [])
    # An inherited star counts: what an ancestor ends, its heir ends too.
    assert issubclass(kind, AirflowFailException) is starred


@every_class
def test_stars_are_the_errors_that_no_retry_mends(kind):
    assert issubclass(kind, AirflowException)
    final = issubclass(kind, (AirflowFailException, AirflowSensorTimeout))
    assert kind("It broke.").retryable is not final


def test_sensor_time_out_is_airflows_too():
    assert issubclass(SensorTimeoutError, AirflowSensorTimeout)


@every_class
@pytest.mark.parametrize(
    ("billed", "sentence"), [(True, "Billed: yes."), (False, "Billed: no."), (None, "Billed: unknown.")]
)
def test_text_holds_message_money_retry_and_references(kind, billed, sentence):
    text = str(kind("It broke.", **(ATTRIBUTES | {"billed": billed})))
    assert text.startswith("It broke.")
    assert sentence in text
    assert "A retry does this." in text
    assert "EvoLink task: task-unified-1-a." in text
    assert "EvoLink's request id: req_1." in text


@every_class
def test_text_says_by_default_whether_it_was_billed_and_what_a_retry_does(kind):
    text = str(kind("It broke."))
    assert re.search(r"Billed: (yes|no|unknown)\.", text)
    if kind not in (EvoImageError, exceptions.EvoLinkApiError):
        assert kind.default_on_retry
        assert kind.default_on_retry in text


@every_class
def test_final_error_does_not_promise_a_retry_and_a_passing_one_does(kind):
    words = kind.default_on_retry.lower()
    if issubclass(kind, AirflowFailException):
        assert "no retry follows" in words
    elif kind is SensorTimeoutError:
        assert "does not retry" in words
    elif words:
        assert "retry" in words
        assert "no retry" not in words


def test_id_that_the_message_names_is_not_repeated():
    text = str(EvoImageError("EvoLink task task-1 broke.", evolink_task_id="task-1"))
    assert text.count("task-1") == 1


def test_retry_sentence_can_be_left_out():
    assert str(exceptions.RateLimitError("It broke.", on_retry="")) == "It broke. Billed: unknown."


@every_class
def test_pickling_keeps_text_and_attributes(kind):
    error = kind("It broke.", **ATTRIBUTES)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert vars(again) == vars(error)
    assert again.args == error.args
    assert str(again) == str(error)
    assert again.retryable == error.retryable


@every_class
def test_every_class_says_what_it_is(kind):
    assert kind.__doc__
