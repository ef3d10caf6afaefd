"""The sensor that waits until enough credits are left, before a campaign starts."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseSensorOperator, PokeReturnValue

from airflow_provider_evoimage.arguments import poll_seconds, seconds
from airflow_provider_evoimage.defaults import DEFAULT_CONN_ID
from airflow_provider_evoimage.exceptions import (
    EvoImageError,
    InvalidRequestError,
    SensorTimeoutError,
)
from airflow_provider_evoimage.links import ACCOUNT_LINKS
from airflow_provider_evoimage.typed_output import HasTypedOutput
from airflow_provider_evoimage.version_compat import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
)

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_provider_evoimage.evolink.usage import CreditsLeft
    from airflow_provider_evoimage.hooks.evoimage import EvoImageHook
    from airflow_provider_evoimage.shapes import CreditsSensorResult


class EvoImageCreditsSensor(HasTypedOutput, BaseSensorOperator):
    """Wait until enough credits are left, so that a campaign does not stop half-way. Costs nothing.

    What counts is the smaller of the account's balance and what the API key's own limit leaves. Nothing is reserved:
    other tasks may spend it meanwhile. When ``timeout`` is over the sensor fails and, as with every Airflow sensor, is
    **not** retried; with ``soft_fail=True`` it is skipped instead.

    Returns ``{"credits", "account", "key", "credits_per_day", "days"}``; what is unknown, unlimited, or was not asked
    for, is null.

    :param min_credits: credits that must be left.
    :param min_days: days that they must last at the mean of the account's last seven days, by its list of tasks. An
        account that spends nothing has enough for any number of days. If EvoLink's list tells no charges, the sensor
        fails.
    :param deferrable: wait in the triggerer (default); False pokes on a worker, by ``mode``.
    :param poll_interval: seconds between looks while deferred. The other modes look every ``poke_interval`` seconds.
    :param timeout: seconds (or a timedelta) to wait in all.
    :param evoimage_conn_id: id of the Airflow connection.
    """

    template_fields: Sequence[str] = ("min_credits", "min_days", "evoimage_conn_id")
    operator_extra_links = ACCOUNT_LINKS
    ui_color = "#e6fff2"

    def __init__(
        self,
        *,
        min_credits: float | str | None = None,
        min_days: float | str | None = None,
        deferrable: bool = True,
        poll_interval: float = 300.0,
        timeout: float | timedelta = timedelta(hours=12),
        poke_interval: float | timedelta = 300,
        evoimage_conn_id: str = DEFAULT_CONN_ID,
        **kwargs: Any,
    ) -> None:
        seconds("timeout", timeout)
        super().__init__(timeout=timeout, poke_interval=poke_interval, **kwargs)
        self.min_credits = min_credits
        self.min_days = min_days
        self.deferrable = deferrable
        self.poll_interval = poll_seconds(poll_interval)
        self.evoimage_conn_id = evoimage_conn_id

    @functools.cached_property
    def hook(self) -> EvoImageHook:
        """The hook of this task's connection."""
        from airflow_provider_evoimage.hooks.evoimage import EvoImageHook

        return EvoImageHook(self.evoimage_conn_id)

    def execute(self, context: Context) -> Any:
        """Look once; then defer, or poke."""
        if not self.deferrable:
            return self._poke_until_enough(context)
        try:
            result = self.poke(context)
        except AirflowFailException as error:
            # As BaseSensorOperator does in the other modes and after a deferral.
            if self.soft_fail or self.never_fail:
                raise AirflowSkipException(f"Skipped, as this sensor must not fail. {error}") from error
            raise
        if not result.is_done:
            self._defer(time.time() + self.timeout)
        return result.xcom_value

    def poke(self, context: Context) -> PokeReturnValue:
        """Look once. Transient errors count as "not yet"."""
        del context
        try:
            left, lacking = self._look()
        except EvoImageError as error:
            if not error.retryable:
                raise
            self.log.warning("The credits could not be read: %s", error.message)
            return PokeReturnValue(is_done=False)
        if lacking:
            self.log.info("Waiting for credits: %s.", lacking)
            return PokeReturnValue(is_done=False)
        return PokeReturnValue(is_done=True, xcom_value=self._enough(left))

    def execute_complete(self, context: Context, event: Any = None) -> CreditsSensorResult:
        """Go on after the trigger's event: look again, as the credits may have been spent meanwhile."""
        del context
        deadline = event.get("deadline") if isinstance(event, dict) else None
        left, lacking = self._look()
        if not lacking:
            return self._enough(left)
        if isinstance(deadline, (int, float)) and time.time() < deadline:
            self.log.info("Waiting for credits again: %s.", lacking)
            self._defer(deadline)
        raise SensorTimeoutError(f"There are not enough credits: {lacking}.", billed=False)

    def _look(self) -> tuple[CreditsLeft, str]:
        min_credits, min_days = self._wanted
        left = self.hook.get_credits_left(with_pace=min_days is not None)
        if min_days is not None and left.days is None:
            raise InvalidRequestError(
                "min_days cannot be held: EvoLink's list of tasks tells no charges for this account. Use min_credits."
            )
        return left, left.lacking(min_credits=min_credits, min_days=min_days)

    @functools.cached_property
    def _wanted(self) -> tuple[float | None, float | None]:
        from airflow_provider_evoimage.submission.budget import credit_limit

        limits = [
            credit_limit(value, name=name, is_given=value is not None)
            for name, value in (("min_credits", self.min_credits), ("min_days", self.min_days))
        ]
        if limits == [None, None]:
            raise InvalidRequestError("EvoImageCreditsSensor needs min_credits, min_days or both.")
        min_credits, min_days = (None if each is None else float(each) for each in limits)
        return min_credits, min_days

    def _defer(self, deadline: float) -> None:
        from airflow_provider_evoimage.triggers.credits import EvoImageCreditsTrigger
        from airflow_provider_evoimage.waiting.deferral import deferral_timeout

        min_credits, min_days = self._wanted
        self.defer(
            trigger=EvoImageCreditsTrigger(
                min_credits=min_credits,
                min_days=min_days,
                deadline=deadline,
                poll_interval=self.poll_interval,
                evoimage_conn_id=self.evoimage_conn_id,
            ),
            method_name="execute_complete",
            timeout=deferral_timeout(max(0.0, deadline - time.time())),
        )

    def _poke_until_enough(self, context: Context) -> Any:
        try:
            return super().execute(context)
        except AirflowSensorTimeout as error:
            raise SensorTimeoutError(
                f"There were not enough credits after {self.timeout:.0f} s.", billed=False
            ) from error

    def _enough(self, left: CreditsLeft) -> CreditsSensorResult:
        self.log.info("%s credits are left.", f"{left.balance.usable:,.2f}")
        return left.to_json()
