"""``evoimage generate``: submits one request, to try a key or a prompt. The same command never pays twice."""

from __future__ import annotations

import uuid
from decimal import Decimal

from airflow_provider_evoimage.command.account import CommandHook
from airflow_provider_evoimage.evolink.answers import Generation
from airflow_provider_evoimage.evolink.pricing import CostEstimate
from airflow_provider_evoimage.evolink.request import ImageRequest
from airflow_provider_evoimage.submission.budget import require_within
from airflow_provider_evoimage.submission.identity import RequestIdentity, fingerprint


def requested(
    conn_id: str | None,
    *,
    prompt: str,
    model: str | None,
    size: str | None,
    quality: str | None,
    n: int,
    max_credits: Decimal | None,
) -> tuple[ImageRequest, CostEstimate | None]:
    """Check a request; return it with its estimated price, None if that is unknown. Nothing is sent.

    :raises InvalidRequestError: when EvoLink would certainly refuse it.
    :raises BudgetExceededError: when it may cost more than ``max_credits``.
    """
    request = ImageRequest.build(
        model=model or CommandHook(conn_id).settings.default_model,
        prompt=prompt,
        size=size,
        quality=quality,
        n=n,
    )
    return request, require_within(request, max_credits)


def submitted(conn_id: str | None, request: ImageRequest, *, destination: str, again: bool) -> Generation:
    """Submit a request. This costs money.

    The idempotency key comes from the request and the folder, so a command that was cut off can be run again: EvoLink
    answers with the same generation for about 24 hours.

    :param again: submit a new request even if the same one was submitted before.
    """
    hook = CommandHook(conn_id)
    identity = RequestIdentity(
        namespace=hook.settings.idempotency_namespace,
        dag_id="evoimage",
        run_id=uuid.uuid4().hex if again else "command",
        task_id=destination,
        epoch=0,
        fingerprint=fingerprint(request),
    )
    try:
        return hook.submit(request, identity.idempotency_key).generation
    finally:
        hook.close()
