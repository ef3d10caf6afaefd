"""Submits a request to the first of several models that takes it, and never pays for two.

A request moves on to the next model only after a refusal or a failure that certainly cost nothing. The record of the
next submission lists the models that were left behind, and precedes its POST: a later try goes on from there. While
the outcome of any submission is unknown, nothing moves on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from airflow_provider_evoimage.defaults import OnClear
from airflow_provider_evoimage.evolink.answers import Generation
from airflow_provider_evoimage.evolink.errors import model_refusal
from airflow_provider_evoimage.evolink.given_up import GivenUp
from airflow_provider_evoimage.evolink.other_model import quality_for, size_for
from airflow_provider_evoimage.evolink.request import ImageRequest
from airflow_provider_evoimage.exceptions import EvoImageError, GenerationFailedError, InvalidRequestError
from airflow_provider_evoimage.metrics import model_given_up
from airflow_provider_evoimage.submission.decision import Submit, starts_anew
from airflow_provider_evoimage.submission.identity import RequestIdentity
from airflow_provider_evoimage.submission.record import RecordKeeper, SubmissionRecord, unrepeatable
from airflow_provider_evoimage.submission.submit import Submission

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0


@dataclass(frozen=True)
class Position:
    """Where in its list of models a request is.

    :param index: of the model to submit to, or whose submission is resumed.
    :param tried: the models that it left behind.
    :param is_new_purchase: whether a clear lets it begin again, whatever earlier tries did.
    """

    index: int = 0
    tried: tuple[GivenUp, ...] = ()
    is_new_purchase: bool = False

    def after(self, model: str, why: str) -> Position:
        """Return the position after leaving a model behind."""
        return replace(self, index=self.index + 1, tried=(*self.tried, GivenUp(model=model, why=why)))


def position_of(
    record: SubmissionRecord | None,
    identities: Sequence[RequestIdentity],
    models: Sequence[str],
    *,
    on_clear: OnClear,
) -> Position:
    """Find where earlier tries left a request.

    A submission that may be paid for is always the one to resolve first, whatever was tried before it. A new purchase
    after a clear begins with the first model.

    :param record: of an earlier try, if there is one.
    :param identities: of the request as each model would get it, in order.
    :param models: their names.
    """
    own = index_of(record, identities)
    if record is None or own is None:
        return Position()
    if starts_anew(record, identities[own], on_clear):
        return Position(is_new_purchase=True)
    position = Position(own, record.tried)
    if cost_nothing(record) and own + 1 < len(models):
        return position.after(models[own], record.failure or "failed")
    return position


def index_of(record: SubmissionRecord | None, identities: Sequence[RequestIdentity]) -> int | None:
    """Return which model's request a record is of; None where it is of another request."""
    if record is None:
        return None
    own = (record.fingerprint, record.occurrence)
    return next((n for n, each in enumerate(identities) if (each.fingerprint, each.occurrence) == own), None)


def identity_in(record: SubmissionRecord, first: RequestIdentity) -> RequestIdentity:
    """Return the identity of a record's request, to resolve it though its model is no longer listed."""
    return replace(first, fingerprint=record.fingerprint, occurrence=record.occurrence, item=record.item)


def cost_nothing(record: SubmissionRecord) -> bool:
    """Whether a record is of a generation that failed with a transient code and certainly was not charged."""
    return record.phase == "failed" and record.retryable and record.charged == 0


def reason_to_move_on(error: EvoImageError) -> str | None:
    """Return EvoLink's code where an error certainly cost nothing and another model may do better; else None."""
    if isinstance(error, GenerationFailedError):
        return (error.code or "failed") if error.retryable and error.billed is False else None
    return model_refusal(error)


def other_models(value: object, first: str) -> tuple[str, ...]:
    """Read ``fallback_models`` once it is rendered: each model once, in order, without the first.

    :raises InvalidRequestError: when it is no list of model ids.
    """
    if value is None or value == "":
        return ()
    given = value.split(",") if isinstance(value, str) else value
    if not isinstance(given, Sequence) or not all(isinstance(each, str) for each in given):
        raise InvalidRequestError(f"fallback_models must be a list of model ids, not {value!r:.120}.")
    named = [each.strip() for each in given]
    return tuple(dict.fromkeys(each for each in named if each not in {"", "None", first}))


def requests_for(
    models: Sequence[str], fields: dict[str, Any], resolve_size: Callable[[str, object], object]
) -> list[ImageRequest]:
    """Build the request for each fallback model, before anything is sent.

    :param fields: of the request for the first model, as the user gave them.
    :param resolve_size: turns ``for:channel`` into a size of a model; others stay.
    :raises InvalidRequestError: naming the model that cannot take it.
    """
    requests = []
    for model in models:
        try:
            size = resolve_size(model, fields.get("size"))
            quality = fields.get("quality")
            changed = {
                "model": model,
                "size": size_for(model, size) if isinstance(size, str) and size.strip() else size,
                "quality": quality_for(model, quality.strip() or None)
                if isinstance(quality, str)
                else quality,
            }
            requests.append(ImageRequest.build(**{**fields, **changed}))
        except InvalidRequestError as error:
            error.restate(message=f"fallback_models: {model} cannot take this request: {error.message}")
            raise
    return requests


@dataclass
class Patience:
    """How long refusals of one model have lasted; shared by all that submit to it.

    :param limit: seconds, from the first refusal, after which the model is given up.
    """

    limit: float
    _since: dict[str, float] = field(default_factory=dict)
    _pauses: dict[str, float] = field(default_factory=dict)
    _given_up: dict[str, str] = field(default_factory=dict)
    _proven: set[str] = field(default_factory=set)

    def refused(self, model: str, error: EvoImageError) -> float | None:
        """Note a refusal; return the seconds to wait before the next submission, or None where it is given up."""
        now, why = time.monotonic(), model_refusal(error) or "refused"
        left = self._since.setdefault(model, now) + self.limit - now
        if error.retryable and left > 0:
            pause = self._pauses.get(model, _FIRST_PAUSE)
            self._pauses[model] = min(pause * 2, _LONGEST_PAUSE)
            return min(left, max(error.retry_after or pause, _FIRST_PAUSE))
        self._given_up[model] = why
        return None

    def accepted(self, model: str) -> None:
        """Note that EvoLink takes requests for a model."""
        self._since.pop(model, None)
        self._pauses.pop(model, None)
        self._proven.add(model)

    def is_doubtful(self, model: str) -> bool:
        """Whether EvoLink refused the model last, or has not been asked yet."""
        return model in self._since or model not in self._proven

    def why_given_up(self, model: str) -> str | None:
        """Return why a model was given up; None where it was not."""
        return self._given_up.get(model)


class FallbackSubmission:
    """One logical request for which several models may do, from the first try to its delivery.

    :param models: the models in order.
    :param identities: of the request as each model would get it.
    :param submission_for: makes the submission for a position.
    :param fallback_after: seconds that refusals of one model may last.
    """

    def __init__(
        self,
        *,
        models: Sequence[str],
        identities: Sequence[RequestIdentity],
        keeper: RecordKeeper,
        on_clear: OnClear,
        fallback_after: float,
        submission_for: Callable[[Position], Submission],
        log: Logger,
    ) -> None:
        self._models = models
        self._identities = identities
        self._keeper = keeper
        self._on_clear = on_clear
        self._patience = Patience(fallback_after)
        self._submission_for = submission_for
        self._log = log

    def ensure(self, requests: Sequence[ImageRequest]) -> tuple[Generation, Submission]:
        """Return the generation of this request, an earlier try's or a new one, and the submission that has it.

        :param requests: as each model would get it.
        :raises UnrepeatableSubmissionError: when submitting could pay twice.
        :raises EvoImageError: when no model took it, or the outcome is unknown.
        """
        # Without the record it is unknown which model may have been paid: its key alone protects one model only.
        record = self._keeper.read(required=True, key_protects=False)
        self._require_same_place(record)
        position = position_of(record, self._identities, self._models, on_clear=self._on_clear)
        if record is not None and record.tried != position.tried and position.index:
            self._moved_on(position)
        while True:
            submission = self._submission_for(position)
            try:
                request = requests[position.index]
                if position.is_new_purchase:
                    anew = Submit(self._identities[position.index], "the task was cleared")
                    return submission.carry_out(anew, request, earlier=record), submission
                return submission.ensure(request), submission
            except EvoImageError as error:
                why = model_refusal(error)
                if why is None or position.index + 1 == len(self._models):
                    raise
                model = self._models[position.index]
                pause = self._patience.refused(model, error)
                if pause is None:
                    position = position.after(model, why)
                    self._moved_on(position)
                    continue
                self._log.info(
                    "EvoLink refuses model %s now (%s); asking again in %.0f s.", model, why, pause
                )
            time.sleep(pause)

    def _require_same_place(self, record: SubmissionRecord | None) -> None:
        """Refuse an item of a mapped list that changed after a clear: another place's record may name what was paid.

        :raises UnrepeatableSubmissionError: then.
        """
        first = self._identities[0]
        moved = record is not None and first.item and record.epoch != first.epoch
        if moved and index_of(record, self._identities) is None and self._on_clear != "regenerate":
            raise unrepeatable(
                "the mapped list has changed since the clear, so this item may have been submitted from another place "
                "of it, and to any of its models"
            )

    def _moved_on(self, position: Position) -> None:
        left = position.tried[-1]
        model_given_up(left.model, left.why)
        self._log.warning(
            "Falling back from %s to %s: %s, not billed.",
            left.model,
            self._models[position.index],
            left.why,
        )
