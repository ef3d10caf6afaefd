"""Money over many tasks: the month's budget before each POST, and waiting until enough credits are left."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.exceptions import TaskDeferred

from airflow_provider_evoimage.exceptions import (
    AuthenticationError,
    BatchFailedError,
    BudgetUnknownError,
    EvoLinkUnavailableError,
    InvalidRequestError,
    MonthBudgetError,
    OutcomeUnknownError,
    SensorTimeoutError,
)
from airflow_provider_evoimage.sensors.credits import EvoImageCreditsSensor
from airflow_provider_evoimage.simulator import SimulatorServer
from airflow_provider_evoimage.simulator.service import listing
from airflow_provider_evoimage.simulator.service.faults import Fault
from airflow_provider_evoimage.submission import month_budget
from airflow_provider_evoimage.triggers.credits import EvoImageCreditsTrigger
from airflow_provider_evoimage.version_compat import AirflowSkipException
from tests.integration import task_driver
from tests.integration.command_runs import evoimage
from tests.integration.fake_time import FakeTime
from tests.integration.task_driver import API_KEY, StateStore, TaskRun, batch, first_leg, generate

pytestmark = pytest.mark.usefixtures("airflow_connection", "fake_time")


class Variable:
    """The Variable of the month, shared by all tasks, as JSON."""

    def __init__(self) -> None:
        self.text: str | None = None
        self.error: Exception | None = None
        self.written = 0

    def get(self) -> object:
        if self.error is not None:
            raise self.error
        return None if self.text is None else json.loads(self.text)

    def set(self, value: Mapping[str, Any]) -> None:
        if self.error is not None:
            raise self.error
        self.text = json.dumps(value)
        self.written += 1


@pytest.fixture
def variable(monkeypatch: pytest.MonkeyPatch) -> Variable:
    """Stand for Airflow's Variables, which need a supervisor; the real ones are in tests/system."""
    found = Variable()
    monkeypatch.setattr(month_budget, "VariableStore", lambda conn_id: found)
    return found


def draw(number: int = 0, **arguments: Any) -> Any:
    return TaskRun(generate(**arguments), run_id=f"run {number}", store=StateStore()).run()


def test_requests_pass_until_the_budget_is_used_up_and_then_nothing_is_sent(
    airflow_connection: Any, evolink: SimulatorServer, variable: Variable, fake_time: FakeTime
) -> None:
    airflow_connection(budget_credits_per_month=2)
    for number in range(3):
        draw(number)
    submissions = evolink.state.counters.submissions
    with pytest.raises(MonthBudgetError) as refused:
        draw(3)
    assert evolink.state.counters.submissions == submissions == 3
    words = str(refused.value)
    charged = float(evolink.state.counters.credits_charged)
    month = f"{datetime.fromtimestamp(fake_time.time(), UTC):%B %Y}"
    for part in (
        "evoimage_default",
        f"{charged:,.4f} credits",
        "budget_credits_per_month=2",
        month,
        "https://evolink.ai/dashboard/keys",
        "Billed: no.",
    ):
        assert part in words
    assert not refused.value.retryable
    assert API_KEY not in words
    assert API_KEY not in str(variable.text)


def test_without_a_budget_neither_evolink_nor_airflow_is_asked(
    evolink: SimulatorServer, variable: Variable
) -> None:
    draw()
    assert evolink.state.counters.reads["credits"] == 0
    assert variable.text is None


def test_use_before_the_first_request_does_not_count_and_that_of_others_does(
    airflow_connection: Any, submitted: Callable[..., str], variable: Variable, fake_time: FakeTime
) -> None:
    submitted(n=3)
    fake_time.advance(600)
    airflow_connection(budget_credits_per_month=1.5)
    draw(0)
    submitted()
    fake_time.advance(600)
    with pytest.raises(MonthBudgetError):
        draw(1)


def test_next_month_begins_anew(airflow_connection: Any, variable: Variable, fake_time: FakeTime) -> None:
    airflow_connection(budget_credits_per_month=0.8)
    draw(0)
    # The Variable learns of the charge.
    fake_time.advance(700)
    with pytest.raises(MonthBudgetError):
        draw(1)
    fake_time.advance(timedelta(days=31).total_seconds())
    draw(2)


def test_request_that_is_paid_already_is_resumed_whatever_the_budget_says(
    airflow_connection: Any, evolink: SimulatorServer, variable: Variable
) -> None:
    airflow_connection(budget_credits_per_month=0.6)
    task = TaskRun(generate(), store=StateStore())
    first_leg(task)
    airflow_connection(budget_credits_per_month=0.0001)
    assert task.run()["status"] == "completed"
    assert evolink.state.counters.paid == 1


def test_lost_answer_keeps_its_doubt_when_the_budget_is_used_up_meanwhile(
    airflow_connection: Any, evolink: SimulatorServer, variable: Variable
) -> None:
    airflow_connection(budget_credits_per_month=5)
    task = TaskRun(generate(prompt="a red fox [[junk-after times=9]]"), store=StateStore())
    with pytest.raises(OutcomeUnknownError):
        task.run()
    airflow_connection(budget_credits_per_month=0.0001)
    with pytest.raises(MonthBudgetError) as refused:
        task.run()
    assert refused.value.billed is None
    assert evolink.state.counters.paid == 1


@pytest.mark.parametrize("broken", ["get", "credits", "no key"])
def test_budget_that_cannot_be_checked_sends_nothing_and_is_retried(
    airflow_connection: Any,
    evolink: SimulatorServer,
    variable: Variable,
    broken: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    airflow_connection(budget_credits_per_month=5)
    expected: type[Exception] = BudgetUnknownError
    if broken == "get":
        variable.error = RuntimeError("no database")
    elif broken == "credits":
        evolink.state.faults.post("credits", Fault(kind="status", status=500))
        expected = EvoLinkUnavailableError
    else:
        describe = evolink.state.bank.describe

        def without_token(*given: Any) -> Any:
            answer = describe(*given)
            del answer["data"]["token"]["used_credits"]
            return answer

        monkeypatch.setattr(evolink.state.bank, "describe", without_token)
    with pytest.raises(expected) as refused:
        draw()
    assert (refused.value.retryable, refused.value.billed) == (True, False)  # type: ignore[attr-defined]
    assert evolink.state.counters.submissions == 0
    variable.error = None
    evolink.state.faults.clear()
    monkeypatch.undo()


def test_later_figure_that_cannot_be_kept_is_only_a_warning(
    airflow_connection: Any,
    variable: Variable,
    fake_time: FakeTime,
    log_lines: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    airflow_connection(budget_credits_per_month=5)
    draw(0)
    fake_time.advance(700)

    def refuse(value: object) -> None:
        raise RuntimeError("database is locked")

    monkeypatch.setattr(variable, "set", refuse)
    draw(1)
    assert any("cannot be written" in line["event"] for line in log_lines)


def test_batch_sends_what_fits_and_leaves_out_the_rest(
    airflow_connection: Any, evolink: SimulatorServer, variable: Variable, tmp_path: Path
) -> None:
    airflow_connection(budget_credits_per_month=3.2)
    requests = [{"prompt": f"fox {number}"} for number in range(8)]
    task = TaskRun(batch(requests, tmp_path, model="gpt-image-1.5"), store=StateStore())
    with pytest.raises(BatchFailedError, match="budget_credits_per_month"):
        task.run_with_retries()
    # Each may cost up to 0.5357 credits: five fit, a sixth would not.
    assert evolink.state.counters.paid == 5
    assert len(list(tmp_path.rglob("*.png"))) == 5
    assert float(evolink.state.counters.credits_charged) <= 3.2


def test_batch_of_many_chunks_reads_the_balance_once_a_minute(
    airflow_connection: Any, evolink: SimulatorServer, variable: Variable, tmp_path: Path
) -> None:
    airflow_connection(budget_credits_per_month=500)
    requests = [{"prompt": f"fox {number}"} for number in range(120)]
    with pytest.raises(TaskDeferred):
        TaskRun(batch(requests, tmp_path, model="gpt-image-1.5"), store=StateStore()).start()
    assert evolink.state.counters.reads["credits"] <= 2
    assert variable.written <= 2


# The sensor


def sense(**arguments: Any) -> Callable[[], EvoImageCreditsSensor]:
    return lambda: EvoImageCreditsSensor(task_id="enough", **arguments)


@pytest.fixture(autouse=True)
def _trigger_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_driver, "TRIGGERS", (*task_driver.TRIGGERS, EvoImageCreditsTrigger))


@pytest.mark.parametrize("mode", [{"deferrable": True}, {"deferrable": False}])
def test_enough_is_enough_at_once(mode: dict[str, Any], evolink: SimulatorServer) -> None:
    result = TaskRun(sense(min_credits=500, **mode)).run()
    assert result == {
        "credits": 1000.0,
        "account": 1000.0,
        "key": None,
        "credits_per_day": None,
        "days": None,
    }
    assert evolink.state.counters.submissions == 0


@pytest.mark.parametrize("mode", [{"deferrable": True}, {"deferrable": False}])
def test_waits_until_somebody_tops_up(
    mode: dict[str, Any], evolink: SimulatorServer, fake_time: FakeTime
) -> None:
    evolink.state.configure({"credits": 10})

    def top_up(seconds: float) -> None:
        if fake_time.passed > 3600:
            evolink.state.configure({"credits": 600})
            fake_time.on_sleep = lambda seconds: None

    fake_time.on_sleep = top_up
    task = TaskRun(sense(min_credits="500", **mode))
    assert task.run()["credits"] == 600
    assert fake_time.passed > 3600
    if task.deferrals:
        assert task.deferrals[0]["kwargs"]["min_credits"] == 500
        assert task.events == [
            {"v": 1, "status": "enough", "deadline": task.deferrals[0]["kwargs"]["deadline"]}
        ]


def test_limit_of_the_key_counts_if_it_is_smaller(evolink: SimulatorServer) -> None:
    evolink.state.configure({"token_credits": 400})
    with pytest.raises(TaskDeferred):
        TaskRun(sense(min_credits=500)).start()


def test_days_are_at_the_pace_of_the_last_week(
    evolink: SimulatorServer, submitted: Callable[..., str], fake_time: FakeTime
) -> None:
    for _ in range(15):
        submitted("a red fox [[instant]]")
        fake_time.advance(12 * 3600)
    # The first two are older than seven days.
    charged = float(evolink.state.counters.credits_charged) * 13 / 15
    evolink.state.configure({"credits": charged * 2})
    # 7 days at this pace would need as much as was charged, so twice as much lasts for fourteen.
    found = TaskRun(sense(min_days=13.5)).run()
    assert found["credits_per_day"] == pytest.approx(charged / 7, rel=0.02)
    assert found["days"] == pytest.approx(14, rel=0.02)
    with pytest.raises(TaskDeferred):
        TaskRun(sense(min_days=15)).start()


def test_time_that_is_over_says_what_is_lacking_and_is_not_retried(evolink: SimulatorServer) -> None:
    evolink.state.configure({"credits": 10})
    for mode in ({"deferrable": True}, {"deferrable": False}):
        with pytest.raises(SensorTimeoutError, match="not enough credits") as late:
            TaskRun(sense(min_credits=500, timeout=3600, **mode)).run()
        assert not late.value.retryable
        assert "Billed: no." in str(late.value)
    skipped = TaskRun(sense(min_credits=500, timeout=3600, deferrable=False, soft_fail=True))
    with pytest.raises(AirflowSkipException):
        skipped.run()


def test_credits_that_were_spent_again_before_the_worker_woke_are_waited_for_again(
    evolink: SimulatorServer,
) -> None:
    evolink.state.configure({"credits": 10})
    task = TaskRun(sense(min_credits=500, timeout=7200))
    deferred = first_leg(task)
    evolink.state.configure({"credits": 600})
    event = task.wait_in_triggerer(task.stored(deferred))
    evolink.state.configure({"credits": 100})
    with pytest.raises(TaskDeferred) as again:
        task.resume(deferred, event)
    assert again.value.trigger.deadline == deferred.trigger.deadline


def test_outage_is_waited_out_and_a_wrong_key_is_not(
    evolink: SimulatorServer, airflow_connection: Any, fake_time: FakeTime
) -> None:
    evolink.state.configure({"credits": 10})
    task = TaskRun(sense(min_credits=500))
    deferred = first_leg(task)
    evolink.state.faults.post("credits", Fault(kind="status", status=503, times=9))
    evolink.state.configure({"credits": 600})
    assert task.go_on(deferred)["credits"] == 600

    evolink.state.configure({"credits": 10})
    task = TaskRun(sense(min_credits=500))
    deferred = first_leg(task)
    evolink.state.configure({"api_keys": ["another"]})
    with pytest.raises(AuthenticationError):
        task.go_on(deferred)
    assert task.events[-1]["status"] == "failed"


@pytest.mark.parametrize(
    "arguments", [{}, {"min_credits": ""}, {"min_credits": "many"}, {"min_days": -1}, {"min_credits": True}]
)
def test_sensor_without_a_number_to_wait_for_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError):
        TaskRun(sense(**arguments)).run()


def test_list_without_charges_cannot_say_days(
    evolink: SimulatorServer, submitted: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted("a red fox [[instant]]")
    shown = listing.list_item
    monkeypatch.setattr(
        listing,
        "list_item",
        lambda *given: {name: value for name, value in shown(*given).items() if name != "credits_used"},
    )
    with pytest.raises(InvalidRequestError, match="min_days cannot be held"):
        TaskRun(sense(min_days=3)).run()


# The command


@pytest.mark.parametrize(("limit", "code"), [("999", 0), ("1000", 0), ("1000.5", 1)])
def test_command_ends_with_1_if_fewer_credits_are_left(
    evolink: SimulatorServer, limit: str, code: int
) -> None:
    environment = {"EVOLINK_API_KEY": API_KEY, "EVOLINK_BASE_URL": evolink.url}
    ended = evoimage("credits", "--fail-below", limit, "--json", env=environment)
    assert ended.returncode == code, ended.stderr
    assert json.loads(ended.stdout)["account"]
    assert ("fewer than 1,000.5000" in ended.stderr) is bool(code)


def test_sensor_that_must_not_fail_is_skipped_at_its_first_look(evolink: SimulatorServer) -> None:
    evolink.state.configure({"api_keys": ["another"]})
    with pytest.raises(AirflowSkipException, match="must not fail"):
        first_leg(TaskRun(sense(min_credits=500, soft_fail=True)))
    with pytest.raises(AuthenticationError):
        first_leg(TaskRun(sense(min_credits=500)))


def test_outage_at_the_first_look_is_waited_out(evolink: SimulatorServer) -> None:
    evolink.state.faults.post("credits", Fault(kind="status", status=503, times=9))
    task = TaskRun(sense(min_credits=500))
    assert task.go_on(first_leg(task))["credits"] == 1000
