"""The tree of failures: drawn as it is, and every error says what happened, to which money, and what a retry does."""

import ast
import inspect
import pickle
import re
from pathlib import Path

import pytest

from airflow_provider_evoimage import exceptions
from airflow_provider_evoimage.exceptions import (
    DestinationError,
    EvoImageError,
    InvalidRequestError,
    LinkExpiredError,
    SensorTimeoutError,
    summed_up,
)
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


@every_class
def test_corrected_error_says_the_new_and_keeps_the_rest(kind):
    error = kind("Before.", **ATTRIBUTES)
    assert (
        error.restate(message="After.", evolink_task_id="task-2", billed=None, on_retry="Nothing.") is error
    )
    assert error.args == ("After.",)
    assert str(error) == (
        "After. EvoLink task: task-2. Billed: unknown. Nothing. EvoLink's request id: req_1."
    )
    assert (error.code, error.retry_after, error.http_status) == ("some_code", 7.5, 418)


def test_correction_that_gives_nothing_changes_nothing():
    error = EvoImageError("It failed.", **ATTRIBUTES)
    before = (str(error), error.args, vars(error).copy())
    assert (str(error.restate()), error.args, vars(error)) == before


PACKAGE = Path(exceptions.__file__).parent
CORRECTED = {"message", "args", "billed", "on_retry", "evolink_task_id", "retry_after", "request_id", "code"}


def test_no_error_is_edited_after_it_was_raised():
    """Only ``restate`` keeps text, args and fields in step."""
    edited = [
        f"{file.relative_to(PACKAGE)}:{node.lineno}"
        for file in PACKAGE.rglob("*.py")
        if "simulator" not in file.parts
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, (ast.Assign, ast.AugAssign))
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Attribute)
        and target.attr in CORRECTED
        and not (isinstance(target.value, ast.Name) and target.value.id == "self")
    ]
    assert edited == []


def test_expired_links_name_the_images_that_are_saved():
    error = LinkExpiredError("The links are dead.")
    assert "the images are lost" in str(error)
    error.name_saved(["file:///a-0.png", "file:///a-1.png"], of=3)
    assert "2 of 3 images are saved: file:///a-0.png, file:///a-1.png." in str(error)
    assert "the missing images are lost" in str(error)
    assert error.args == (error.message,)


def test_several_failures_are_one_error_that_a_retry_may_mend():
    final, passing = InvalidRequestError("No."), DestinationError("Full.")
    error = summed_up([final, passing], "2 of 3 images could not be saved.")
    assert error is passing
    assert error.message == "2 of 3 images could not be saved. The first: Full."
    assert summed_up([final], "") is final
    assert final.message == "No."
