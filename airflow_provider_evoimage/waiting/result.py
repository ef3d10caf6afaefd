"""The result of a wait: the finished generation, or an error that names it and says whether it was billed."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from airflow_provider_evoimage.evolink.answers import Generation
from airflow_provider_evoimage.evolink.errors import generation_failure
from airflow_provider_evoimage.exceptions import (
    GenerationLostError,
    GenerationNotFoundError,
    GenerationTimeoutError,
    NoImagesError,
)
from airflow_provider_evoimage.hooks.evoimage import EvoImageHook
from airflow_provider_evoimage.waiting.polling import Ending

_REASONS = {
    "not found": "EvoLink does not know it (another account's, or no longer kept)",
    "unauthorized": "EvoLink refused the connection's API key",
    "refused": "EvoLink refused to tell its state",
    "unreadable": "EvoLink could not be read for ten minutes",
}


def read_ended(
    hook: EvoImageHook,
    evolink_task_id: str,
    ending: Ending,
    reason: str = "",
    *,
    was_accepted: bool = False,
) -> Generation:
    """Read a generation after the wait for it: events carry no links, and time has passed since.

    :param was_accepted: whether EvoLink gave the id to a task of ours; then a 404 is never final.
    :raises GenerationTimeoutError: when it is still running.
    :raises GenerationLostError: when it is still running and the wait broke off, or when EvoLink reported it
        earlier but now returns 404.
    :raises GenerationNotFoundError: when EvoLink has returned 404 for a while, for an id from elsewhere.
    :raises EvoImageError: when it cannot be read.
    """
    try:
        generation = hook.get_generation(evolink_task_id)
    except GenerationNotFoundError as error:
        if ending == "lost" and not was_accepted:
            raise
        raise GenerationLostError(
            f"EvoLink reported task {evolink_task_id} earlier but now returns 404.",
            evolink_task_id=evolink_task_id,
            request_id=error.request_id,
            on_retry="It is paid for or reserved, and may be readable again later: a retry, or clearing the task, "
            "waits for it and submits nothing. For a new request clear the task with on_clear='regenerate'."
            if was_accepted
            else None,
        ) from error
    if generation.is_terminal:
        return generation
    raise unfinished_error(evolink_task_id, generation, ending, reason)


def unfinished_error(
    evolink_task_id: str, generation: Generation | None, ending: Ending, reason: str = ""
) -> GenerationTimeoutError | GenerationLostError:
    """Return the error of a generation whose wait is over and which has not ended.

    :param generation: as EvoLink describes it now; None where EvoLink does not know it.
    :param reason: why the wait broke off: a word of ours, or a sentence.
    """
    status = "unknown to EvoLink" if generation is None else generation.status
    if ending != "timeout":
        why = _REASONS.get(reason, reason or "no reason given")
        return GenerationLostError(
            f"The wait for EvoLink task {evolink_task_id} broke off: {why}. It is {status}.",
            evolink_task_id=evolink_task_id,
        )
    age = "the whole wait" if generation is None else age_in_words(generation)
    return GenerationTimeoutError(
        f"EvoLink task {evolink_task_id} was still {status} after {age}.", evolink_task_id=evolink_task_id
    )


def require_images(generation: Generation, *, may_ask_again: bool = True) -> None:
    """Check that a generation that has ended has images.

    :raises EvoImageError: when it failed, was cancelled, or completed without an image.
    """
    if generation.status != "completed":
        raise generation_failure(generation, may_ask_again=may_ask_again)
    if not generation.image_urls:
        raise NoImagesError(
            f"EvoLink task {generation.evolink_task_id} completed without a single image.",
            evolink_task_id=generation.evolink_task_id,
        )


def outcome_in_words(generation: Generation, requested: int | None) -> str:
    """Say in one line how many images a finished generation made and what it cost."""
    made = len(generation.image_urls)
    images = f"{made} of {requested} images" if requested else f"{made} image{'' if made == 1 else 's'}"
    charged = generation.usage.credits_used
    credits_ = "charge unknown" if charged is None else f"{charged:,.4f} credits charged"
    took = "" if generation.duration is None else f" after {duration_in_words(generation.duration)}"
    return f"EvoLink task {generation.evolink_task_id} completed{took}: {images}, {credits_}"


def age_in_words(generation: Generation) -> str:
    """Tell how long ago a generation was accepted."""
    if generation.created is None:
        return "the whole wait"
    now = datetime.fromtimestamp(time.time(), UTC)
    return duration_in_words(max(0.0, (now - generation.created).total_seconds()))


def duration_in_words(seconds: float) -> str:
    """Tell a time span as people do: 42 s, 3 min 5 s, 2 h 10 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"
