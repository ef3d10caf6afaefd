"""Every failure of this provider, in one tree.

Classes marked * also inherit ``AirflowFailException``: no retry can fix them, so the task fails at once.

EvoImageError
├── InvalidRequestError *            our own check found a mistake; nothing was sent
├── ConnectionSettingsError *        the Airflow connection is incomplete or wrong
├── ConnectionNotFoundError          Airflow finds no such connection, or its secrets backend fails
├── BudgetExceededError *            it may cost more than max_credits, so it was not sent
│   ├── PriceUnknownError *          max_credits is set and no price is known
│   └── MonthBudgetError *           it may cost more than budget_credits_per_month has left
├── BudgetUnknownError               the month's budget cannot be checked, so it was not sent
├── ReferenceUnreadableError         a reference image in your storage could not be read
├── EvoLinkApiError                  EvoLink answered with an error
│   ├── RequestRefusedError *        400, 413, 415, 404 for a model: never accepted as it is
│   │   ├── ContentRefusedError *    refused by moderation before a generation began
│   │   └── FileRefusedError *       the files API does not take this file
│   │       └── FileQuotaError *     the account has reached its limit of uploaded files
│   ├── AuthenticationError *        401: the key is missing, wrong or expired
│   ├── AccessDeniedError *          403: the key lacks the model, is disabled, or the address is barred
│   ├── InsufficientCreditsError *   402: the account is empty
│   │   └── KeyLimitError *          402: the key's own limit, not the account's
│   ├── GenerationNotFoundError *    404: EvoLink does not know this generation
│   ├── IdempotencyConflictError *   accepted earlier under the same key with another body
│   ├── RateLimitError               429
│   └── EvoLinkUnavailableError      5xx from EvoLink or from a proxy in front of it
├── EvoLinkUnreachableError          no answer: network, DNS, TLS, timeout
├── UnreadableAnswerError            the answer is not one of EvoLink's API
├── OutcomeUnknownError              the POST may have been accepted; a retry under the same key finds out
│   └── UnrepeatableSubmissionError *  the same, where submitting again may pay twice
├── GenerationFailedError            the generation ended in failure (retryable codes)
│   └── GenerationRefusedError *     the same, with a code that no retry fixes
│       └── ContentPolicyError *     moderation
├── GenerationCancelledError *       cancelled at EvoLink
├── GenerationTimeoutError           still unfinished at our deadline
│   └── SensorTimeoutError           the same in a sensor, which Airflow never retries
├── GenerationLostError              the wait broke off: EvoLink could not be read for too long
├── GenerationUnfinishedError *      a finished generation was needed, but it still runs
├── BatchIncompleteError             some items of a batch have no images yet; a retry may get them
├── BatchFailedError *               some items of a batch have no images; no retry gets them
├── SupersededTryError *             a later try of the same task has taken over
├── ImagesChangedError *             these are not the images that a person was asked about
├── AnswerUnclearError               a person's answer contradicts itself; a retry asks again
├── ApprovalTimeoutError *                  nobody answered in time, and on_timeout="fail"
├── NoImagesError *                  completed and charged, but without a single image
└── SaveError                        the images exist at EvoLink, but not all are saved
    ├── DownloadError                the link did not return a complete image
    │   ├── LinkExpiredError *       the 24 hours of the link have passed
    │   ├── UnsafeLinkError *        the link leads to an internal or a non-http(s) address
    │   ├── TooLargeError *          the result is larger than the connection allows
    │   └── NotAnImageError *        the bytes are not an image
    └── DestinationError             the storage refused
        ├── DestinationUnusableError *       it cannot be opened, and nothing is paid for yet
        ├── NameTakenError *                 another task of the same run has files with that name
        └── FileExistsAtDestinationError *   if_exists="error"
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from typing import ClassVar, Self

from airflow_provider_evoimage.version_compat import (
    AirflowException,
    AirflowFailException,
    AirflowSensorTimeout,
)

#: Airflow's log page does not wrap: a longer line leaves its window.
LOG_LINE_CHARACTERS = 90
_SENTENCE_END = re.compile(r"(?<=[.!?]) +(?=[A-Z])")
# A long URL in quotes would push the reason out of the line.
_LONG_QUOTE = re.compile(r"'([^']{16})[^']{8,}([^']{10})'")
_CLAUSE_END = re.compile(r"(?<=[.;:,]) +")
_NO_RETRY_LEFT = "Nothing to change. If no retry is left, clear the task."
_BILLED = {True: "Billed: yes.", False: "Billed: no.", None: "Billed: unknown."}


class EvoImageError(AirflowException):
    """Base of all errors. The text says what happened to which generation, whether it was billed, what a retry does.

    :param message: what happened and what to change, in whole sentences.
    :param evolink_task_id: EvoLink's id of the generation, if there is one.
    :param billed: True, False, or None if unknown.
    :param on_retry: what another try of the Airflow task will do.
    :param retry_after: seconds to wait before a retry, as EvoLink requested.
    :param request_id: EvoLink's reference of the HTTP exchange, for its support.
    :param code: EvoLink's own error code.
    :param http_status: status of the HTTP answer.
    """

    default_billed: ClassVar[bool | None] = None
    default_on_retry: ClassVar[str] = ""

    def __init__(
        self,
        message: str,
        *,
        evolink_task_id: str | None = None,
        billed: bool | str | None = "default",
        on_retry: str | None = None,
        retry_after: float | None = None,
        request_id: str | None = None,
        code: str | None = None,
        http_status: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.evolink_task_id = evolink_task_id
        self.billed: bool | None = self.default_billed if isinstance(billed, str) else billed
        self.on_retry = self.default_on_retry if on_retry is None else on_retry
        self.retry_after = retry_after
        self.request_id = request_id
        self.code = code
        self.http_status = http_status

    def __str__(self) -> str:
        parts = [self.message]
        if self.evolink_task_id and self.evolink_task_id not in self.message:
            parts.append(f"EvoLink task: {self.evolink_task_id}.")
        parts.append(_BILLED[self.billed])
        if self.on_retry:
            parts.append(self.on_retry)
        if self.request_id:
            parts.append(f"EvoLink's request id: {self.request_id}.")
        return " ".join(parts)

    def log_lines(self) -> list[str]:
        """Describe the failure in four lines of at most 90 characters, for a log that does not wrap.

        :returns: what happened; whether it was billed, with the task id; what a retry does; what to change.
        """
        what = _LONG_QUOTE.sub(r"'\1…\2'", _SENTENCE_END.split(self.message.strip(), maxsplit=1)[0])
        billed = _BILLED[self.billed]
        if self.evolink_task_id:
            billed = f"{billed} EvoLink task: {self.evolink_task_id}"
        retry, change = _retry_and_change(self.on_retry, retryable=self.retryable)
        return [_fitted(line) for line in (what, billed, retry, change)]

    def restate(
        self,
        *,
        message: str | None = None,
        evolink_task_id: str | None = None,
        billed: bool | str | None = "unchanged",
        on_retry: str | None = None,
    ) -> Self:
        """Correct this error, if the caller knows more than the code that raised it.

        This is the only way to change an error after it was made: it keeps text, ``args`` and fields consistent.
        Arguments that are not given change nothing.

        :returns: the same error object, with its traceback and cause.
        """
        if message is not None:
            self.message = message
            self.args = (message,)
        if evolink_task_id is not None:
            self.evolink_task_id = evolink_task_id
        if not isinstance(billed, str):
            self.billed = billed
        if on_retry is not None:
            self.on_retry = on_retry
        return self

    @property
    def retryable(self) -> bool:
        """Whether a retry of the same Airflow task can succeed."""
        return not isinstance(self, (AirflowFailException, AirflowSensorTimeout))


def _retry_and_change(on_retry: str, *, retryable: bool) -> tuple[str, str]:
    """Split the text about a retry into what a retry does and what to change."""
    clauses = _CLAUSE_END.split(on_retry.strip()) if on_retry.strip() else []
    about_retry = next((place for place, clause in enumerate(clauses) if "retry" in clause.lower()), None)
    if about_retry is None:
        retry, rest = "A retry does the same again." if retryable else "No retry follows.", clauses
    else:
        # "No retry follows, it would be refused again: …" is one statement.
        end = about_retry + 1
        while end < len(clauses) and clauses[end - 1].endswith(","):
            end += 1
        retry, rest = " ".join(clauses[about_retry:end]), clauses[end:]
    retry = f"{_capitalized(retry).rstrip(' .,:;')}."
    change = _capitalized(" ".join(rest))
    return retry, change or (_NO_RETRY_LEFT if retryable else "Correct the cause, then clear the task.")


def _capitalized(text: str) -> str:
    return text[:1].upper() + text[1:]


def _fitted(line: str) -> str:
    """Return the text in one line, cut off after a word if it is too long."""
    return textwrap.shorten(line, LOG_LINE_CHARACTERS, placeholder=" …")


class InvalidRequestError(EvoImageError, AirflowFailException):
    """The request certainly has a mistake; nothing was sent."""

    default_billed = False
    default_on_retry = "Nothing was sent and no retry follows: correct the argument."


class ConnectionSettingsError(EvoImageError, AirflowFailException):
    """A field of the Airflow connection is missing or cannot be used; nothing was sent."""

    default_billed = False
    default_on_retry = "Nothing was sent and no retry follows: correct the connection, then clear the task."


class ConnectionNotFoundError(EvoImageError):
    """Airflow finds no such connection. It reports the same when a secrets backend fails, so a retry may find it."""

    default_billed = False
    default_on_retry = "Nothing was sent by this try; a retry reads the connection again."


class BudgetExceededError(EvoImageError, AirflowFailException):
    """The request may cost more than ``max_credits`` allows; nothing was sent."""

    default_billed = False
    default_on_retry = (
        "Nothing was sent and no retry follows: change the request or max_credits, then clear the task."
    )


class PriceUnknownError(BudgetExceededError):
    """``max_credits`` is set and no price is known for the request; nothing was sent."""


class MonthBudgetError(BudgetExceededError):
    """The request may cost more than the connection's ``budget_credits_per_month`` has left; nothing was sent."""

    default_on_retry = (
        "Nothing was sent and no retry follows: raise budget_credits_per_month in the connection or wait for the next "
        "month, then clear the task."
    )


class BudgetUnknownError(EvoImageError):
    """What was used of ``budget_credits_per_month`` is unknown for the moment; nothing was sent."""

    default_billed = False
    default_on_retry = "Nothing was sent by this try; a retry checks the month's budget again."


class ReferenceUnreadableError(EvoImageError):
    """A reference image in your own storage could not be read, for a transient reason; nothing was sent."""

    default_billed = False
    default_on_retry = "Nothing was submitted by this try; a retry reads the reference again."


class EvoLinkApiError(EvoImageError):
    """EvoLink answered with an error; ``http_status``, ``code`` and ``request_id`` say which."""


class RequestRefusedError(EvoLinkApiError, AirflowFailException):
    """EvoLink will never accept this request as it is (400, 413, 415, unknown model)."""

    default_on_retry = "No retry follows, it would be refused again: correct the request."


class ContentRefusedError(RequestRefusedError):
    """Moderation refused the prompt or a reference before a generation began."""

    default_on_retry = "No retry follows, it would be refused again: change the prompt or the references."


class FileRefusedError(RequestRefusedError):
    """The files API does not take this file: too large, not an accepted type, or its URL cannot be read."""

    default_billed = False
    default_on_retry = "No retry follows, it would be refused again: use another file."


class FileQuotaError(FileRefusedError):
    """The account has reached its limit of uploaded files (100, or 500 on VIP accounts)."""

    default_on_retry = (
        "No retry follows: delete uploaded files (EvoImageHook.list_files, delete_file) or wait until they expire, "
        "72 hours after their upload; then clear the task. cleanup_references=True removes them after each task."
    )


class AuthenticationError(EvoLinkApiError, AirflowFailException):
    """401: the API key of the connection is missing, wrong or expired."""

    default_on_retry = "No retry follows: put a valid API key into the connection, then clear the task."


class AccessDeniedError(EvoLinkApiError, AirflowFailException):
    """403: this key is not allowed to do this (model not allowed, key disabled or expired, address barred)."""

    default_on_retry = "No retry follows: have the key's rights changed at EvoLink, then clear the task."


class InsufficientCreditsError(EvoLinkApiError, AirflowFailException):
    """402: not enough credits on the account."""

    default_on_retry = "No retry follows: top up the account, then clear the task."


class KeyLimitError(InsufficientCreditsError):
    """402: the API key's own total or daily limit is used up; the account may still have credits."""

    default_on_retry = "No retry follows: raise the key's limit or wait for its reset, then clear the task."


class GenerationNotFoundError(EvoLinkApiError, AirflowFailException):
    """404: EvoLink does not know this generation (other account, mistyped id, or no longer kept)."""

    default_on_retry = (
        "No retry follows: check the id, and that the connection uses the account that made it."
    )


class IdempotencyConflictError(EvoLinkApiError, AirflowFailException):
    """EvoLink already has a generation under this idempotency key, made from another body."""

    default_on_retry = (
        "No retry follows, so that nothing is paid twice. Find the earlier generation in EvoLink's list of tasks "
        "and collect it with EvoImageSaveOperator, or clear the task with on_clear='regenerate' to buy a new one."
    )


class RateLimitError(EvoLinkApiError):
    """429: too many requests; ``retry_after`` holds the seconds to wait, if EvoLink sent them."""

    default_on_retry = "A retry sends the same request with the same idempotency key."


class EvoLinkUnavailableError(EvoLinkApiError):
    """5xx from EvoLink or from a proxy in front of it."""

    default_on_retry = "A retry sends the same request with the same idempotency key."


class EvoLinkUnreachableError(EvoImageError):
    """No answer at all: name not found, connection refused or cut, TLS error, timeout."""

    default_on_retry = "A retry sends the same request with the same idempotency key."


class UnreadableAnswerError(EvoImageError):
    """The answer is not one of EvoLink's API (a proxy's page, a cut body, another shape)."""

    default_on_retry = "A retry sends the same request with the same idempotency key."


#: Transient failures of one exchange with EvoLink: repeating it may succeed.
TRANSIENT_ERRORS = (EvoLinkUnreachableError, EvoLinkUnavailableError, RateLimitError, UnreadableAnswerError)


class OutcomeUnknownError(EvoImageError):
    """The POST may or may not have been accepted; its idempotency key makes it safe to send again."""

    default_on_retry = (
        "A retry submits again under the same idempotency key, which returns the generation if EvoLink "
        "accepted it."
    )


class UnrepeatableSubmissionError(OutcomeUnknownError, AirflowFailException):
    """The outcome of the POST is unknown, and submitting again could pay twice.

    The connection has ``idempotency: ignored``, or EvoLink no longer remembers the key.
    """

    default_on_retry = (
        "No retry follows, so that nothing is paid twice. Look in EvoLink's list of tasks: if the generation is "
        "there, collect it with EvoImageSaveOperator; if it is not, clear the task with on_clear='regenerate'."
    )


class GenerationFailedError(EvoImageError):
    """The generation failed at EvoLink with a transient code: a new request may succeed."""

    # Documented: failed tasks are not charged, and the reservation is released.
    default_billed = False
    default_on_retry = "A retry submits a new generation under a new idempotency key."


class GenerationRefusedError(GenerationFailedError, AirflowFailException):
    """The generation failed with a final code: the same request would fail again."""

    default_on_retry = "No retry follows, it would fail again: change the request."


class ContentPolicyError(GenerationRefusedError):
    """Moderation stopped the generation."""

    default_on_retry = "No retry follows, it would be refused again: change the prompt or the references."


class GenerationCancelledError(EvoImageError, AirflowFailException):
    """The generation was cancelled at EvoLink. Whether a cancelled one is charged is not documented."""

    default_on_retry = "No retry follows: clear the task to submit a new generation."


class GenerationTimeoutError(EvoImageError):
    """The generation was still unfinished at our deadline; it keeps running at EvoLink."""

    default_on_retry = (
        "It may still finish and be billed: a retry goes on waiting for it and submits nothing."
    )


class SensorTimeoutError(GenerationTimeoutError, AirflowSensorTimeout):
    """A sensor timed out. Airflow never retries such a sensor."""

    default_on_retry = (
        "It may still finish and be billed. Airflow does not retry a sensor that timed out: clear it to "
        "wait again, within 24 hours of the submission."
    )


class GenerationLostError(EvoImageError):
    """The wait broke off because EvoLink could not be read; the generation keeps running."""

    default_on_retry = (
        "It may still finish and be billed: a retry goes on waiting for it and submits nothing."
    )


class GenerationUnfinishedError(EvoImageError, AirflowFailException):
    """A finished generation was needed, but it is still running."""

    default_on_retry = "No retry follows: wait for it first with EvoImageGenerationSensor."


class BatchIncompleteError(EvoImageError):
    """Some items of a batch have no images yet."""

    default_on_retry = (
        "Its generations are charged or reserved. A retry resumes what was paid for, and submits again only items "
        "that were refused, failed or left out for a transient reason."
    )


class BatchFailedError(EvoImageError, AirflowFailException):
    """Some items of a batch have no images, for reasons that no retry fixes."""

    default_on_retry = (
        "No retry follows. Correct those items and clear the task: the others are not submitted again."
    )


class SupersededTryError(EvoImageError, AirflowFailException):
    """This process stops: a later try of the same task has taken over, for instance because this one was frozen."""

    default_on_retry = (
        "No retry follows: this process submits and writes nothing more, and the later try delivers."
    )


class ImagesChangedError(EvoImageError, AirflowFailException):
    """The images are not those that a person was asked about, so the answer does not hold for them."""

    default_billed = False
    default_on_retry = (
        "No retry follows: nothing was approved. Start a new DAG run to ask about the images as they are now."
    )


class AnswerUnclearError(EvoImageError):
    """A person's answer contradicts itself, so nothing was approved."""

    default_billed = False
    default_on_retry = "A retry asks again."


class ApprovalTimeoutError(EvoImageError, AirflowFailException):
    """Nobody answered in time, and ``on_timeout="fail"``."""

    default_billed = False
    default_on_retry = "No retry follows: clear the task to ask again."


class NoImagesError(EvoImageError, AirflowFailException):
    """The generation completed and was charged, but has no image."""

    default_billed = True
    default_on_retry = (
        "No retry follows, so that nothing is paid twice: change the prompt, or ask EvoLink's support."
    )


class SaveError(EvoImageError):
    """The images were made, but not all of them are in your storage."""

    default_billed = True
    default_on_retry = "A retry saves the same images and submits nothing; their links live 24 hours."


class DownloadError(SaveError):
    """A result link did not return a complete image."""


class LinkExpiredError(DownloadError, AirflowFailException):
    """The result links are dead: EvoLink keeps them for 24 hours."""

    _ON_RETRY: ClassVar[str] = (
        "No retry follows: {lost} are lost. Set save_to on the operator that generates, so that they are saved "
        "as soon as they exist."
    )
    default_on_retry = _ON_RETRY.format(lost="the images")

    def name_saved(self, paths: Sequence[str], *, of: int) -> None:
        """Say which images of the generation were saved before its links died.

        :param paths: where they are.
        :param of: how many images the generation has.
        """
        self.restate(
            message=f"{self.message} {len(paths)} of {of} images are saved: {', '.join(paths)}.",
            on_retry=self._ON_RETRY.format(lost="the missing images"),
        )


class UnsafeLinkError(DownloadError, AirflowFailException):
    """The link or its redirect leads to an internal or a non-http(s) address; nothing was sent there."""

    default_on_retry = (
        "No retry follows: the link would lead there again. Check it in EvoLink's console, save the right images by "
        "hand within 24 hours, and tell EvoLink's support."
    )


class TooLargeError(DownloadError, AirflowFailException):
    """The result is larger than the connection allows."""

    default_on_retry = (
        "No retry follows, it would be as large again: if that is right, raise max_image_megabytes in the connection "
        "and clear the task within 24 hours, which saves the same images and pays nothing."
    )


class NotAnImageError(DownloadError, AirflowFailException):
    """The link did not return an image of a known type."""

    default_on_retry = (
        "No retry follows: the link would return the same bytes. Keep the id and ask EvoLink's support."
    )


class DestinationError(SaveError):
    """The storage did not take a file."""


class DestinationUnusableError(DestinationError, AirflowFailException):
    """The storage cannot be opened for a reason that stays until somebody changes it; nothing is paid for yet."""

    default_billed = False
    default_on_retry = "Nothing was sent and no retry follows: correct it, then clear the task."


class NameTakenError(DestinationError, AirflowFailException):
    """Another task instance of the same DAG run has saved images under these names; they were left alone."""

    default_on_retry = (
        "No retry follows: put a field that tells the tasks apart, such as {task_id} or {map_suffix}, into "
        "filename_template, and clear this task within 24 hours: it saves the same images and pays nothing."
    )


class FileExistsAtDestinationError(DestinationError, AirflowFailException):
    """A file of that name exists and ``if_exists="error"``; nothing was overwritten."""

    default_on_retry = "No retry follows: choose another name, or if_exists='overwrite' or 'skip'."


def summed_up(failures: Sequence[EvoImageError], introduction: str) -> EvoImageError:
    """Return the error to raise for several failures: the first retryable one, else the first.

    :param introduction: a sentence that counts the failures; empty if only one thing was tried.
    """
    chosen = next((failure for failure in failures if failure.retryable), failures[0])
    if introduction:
        chosen.restate(message=f"{introduction} The first: {chosen.message}")
    return chosen
