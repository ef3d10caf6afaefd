"""The shapes of what tasks take and return, so that a type checker finds a misspelt key. Imports nothing heavy.

Annotate the functions of your DAG with them::

    from airflow_provider_evoimage.shapes import SavedManifest

    @task
    def paths(manifest: SavedManifest) -> list[str]:
        return [image["path"] for image in manifest["images"]]

At run time each is a plain dict; ``docs/manifest.md`` and ``docs/batch.md`` describe the fields. As the *return*
annotation of a ``@task`` such a type does what ``-> dict`` does: Airflow pushes each key as an XCom of its own, unless
the task has ``multiple_outputs=False``.
"""

# No `from __future__ import annotations`: it would hide NotRequired from __required_keys__.
from collections.abc import Iterable
from typing import Any, Literal, NotRequired, Required, TypedDict

from airflow_provider_evoimage.defaults import Model, Quality, Size

ContentType = Literal[
    "image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp", "image/tiff", "image/avif"
]


class MadeBy(TypedDict):
    """The Airflow task that made something; ``map_index`` is -1 for tasks that are not mapped."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int


class ImageProvenance(TypedDict):
    """What a saved file says of its origin."""

    content_credentials: bool | None
    digital_source_type: str | None
    written_by: str | None
    kept_because: str | None
    source_sha256: str | None


class Rendition(TypedDict):
    """A file that was cut from an image for a channel; ``cropped`` is the share that was cut off, 0 to 1."""

    channel: str
    path: str
    sha256: str
    width: int
    height: int
    bytes: int
    content_type: str
    quality: int | None
    cropped: float
    scaled: float
    content_credentials: NotRequired[bool]


class ContactSheet(TypedDict):
    """An overview picture of renditions."""

    path: str
    sha256: str
    width: int
    height: int
    bytes: int
    content_type: str


class _AnyImage(TypedDict):
    index: int
    url: NotRequired[str]
    provenance: NotRequired[ImageProvenance]
    renditions: NotRequired[list[Rendition]]


class ManifestImage(_AnyImage):
    """An image of a generation; the fields from ``path`` on are there once it is saved."""

    path: NotRequired[str]
    sha256: NotRequired[str]
    bytes: NotRequired[int]
    content_type: NotRequired[ContentType]
    width: NotRequired[int]
    height: NotRequired[int]


class SavedImage(_AnyImage):
    """An image that is saved: ``path`` is its URL, ``width`` and ``height`` are pixels."""

    path: str
    sha256: str
    bytes: int
    content_type: ContentType
    width: int
    height: int


class Estimate(TypedDict):
    """The estimated cost of a request before it was sent, in credits and USD."""

    credits_low: float
    credits_high: float
    usd_low: float
    usd_high: float
    rule: str
    source: str
    as_of: str


class Usage(TypedDict):
    """What a generation cost, in credits; ``tokens`` are counts by EvoLink's names."""

    estimate: Estimate | None
    reserved: float | None
    charged: float | None
    tokens: dict[str, float]


class Approver(TypedDict):
    """A person in Airflow."""

    id: str
    name: str


class Approval(TypedDict):
    """What a person decided; ``chosen`` are numbers on the page, from 1."""

    by: Approver | None
    at: str
    chosen: list[int]
    comment: str | None
    sha256: list[str]


class FellBack(TypedDict):
    """A model that was asked before the one that made the images."""

    model: str
    why: str
    billed: Literal[False]


class ReusableFor(TypedDict):
    """Which later requests the images do for."""

    fingerprint: str
    occurrence: int
    provenance: NotRequired[Literal["mark", "keep"]]
    alt_text_sha256: NotRequired[str | None]


class Reused(TypedDict):
    """Where reused images come from."""

    evolink_task_id: str
    made_by: MadeBy
    saved_at: str


class _AnyManifest(TypedDict):
    v: Literal[1]
    provider: str
    evolink_task_id: str
    status: str
    model: str | None
    created: str | None
    completed: str | None
    expires_at: str | None
    asked: int | None
    made: int
    request: dict[str, Any] | None
    usage: Usage
    made_by: MadeBy
    approval: NotRequired[Approval]
    name: NotRequired[str]
    labels: NotRequired[dict[str, str]]
    fell_back: NotRequired[list[FellBack]]
    reusable_for: NotRequired[ReusableFor]
    reused: NotRequired[Reused]
    contact_sheets: NotRequired[list[ContactSheet]]


class Manifest(_AnyManifest):
    """What generate, ``@task.evoimage``, save, renditions, approval and the generation sensor return."""

    images: list[ManifestImage]


class SavedManifest(_AnyManifest):
    """The manifest of a task that saved its images, as every task with ``save_to`` does that waits for them."""

    images: list[SavedImage]


class BatchCredits(TypedDict):
    """Credits of a batch: the upper end of its estimates, and what is known to be charged."""

    estimate: float
    charged: float


class BatchFailure(TypedDict):
    """An item of a batch without images; ``code`` and ``message`` are None while it is still running."""

    item: int
    position: int
    name: str
    evolink_task_id: str | None
    code: str | None
    message: str | None


class BatchSummary(TypedDict):
    """What EvoImageBatchOperator returns; ``manifest`` is the URL of the batch manifest, the numbers are counts."""

    v: Literal[2]
    manifest: str
    items: int
    saved: int
    drawn: int
    reused: int
    failed: int
    left_out: int
    images: int
    credits: BatchCredits
    failures: list[BatchFailure]
    made_by: MadeBy
    warning: NotRequired[str]


class IngestFailure(TypedDict):
    """A generation that an ingest could not save; ``kind`` is the name of the error."""

    evolink_task_id: str
    kind: str
    message: str


class IngestSummary(TypedDict):
    """What EvoImageIngestOperator returns; lists name the first 200, ``failures`` and ``expiring`` the first 20."""

    v: Literal[1]
    found: int
    saved: int
    known: int
    own: int
    young: int
    without_images: int
    failed: int
    failures: list[IngestFailure]
    images: int
    bytes: int
    credits: float | None
    evolink_task_ids: list[str]
    paths: list[str]
    expiring: list[str]
    made_by: MadeBy


class CreditsSensorResult(TypedDict):
    """What EvoImageCreditsSensor returns: credits, by account and key, and the days that they last."""

    credits: float | None
    account: float | None
    key: float | None
    credits_per_day: float | None
    days: float | None


class CostSum(TypedDict):
    """What ``credits_of`` returns; ``unknown`` counts generations whose charge is not known."""

    generations: int
    images: int
    unknown: int
    credits: float
    usd: float


class _RequestFields(TypedDict, total=False):
    model: Model | str | None
    size: Size | str | None
    quality: Quality | str | None
    n: int | str | None
    image_urls: Any
    callback_url: str | None
    extra_body: dict[str, Any] | None
    variant: str | int | None
    name: str | None
    labels: dict[str, str] | None


class RequestArguments(TypedDict, total=False):
    """The arguments of ``ImageRequest.build``; a blank text counts as not given."""

    model: Required[Model | str]
    prompt: Required[str]
    size: Size | str | None
    quality: Quality | str | None
    n: int | str | None
    image_urls: Iterable[str] | str | None
    callback_url: str | None
    extra_body: dict[str, Any] | str | None


class BatchRequest(_RequestFields, total=False):
    """An item of EvoImageBatchOperator's ``requests``; the operator's arguments stand for what it lacks."""

    prompt: str
    alt_text: str | None


class ImageRequestFields(_RequestFields, total=False):
    """What a function under ``@task.evoimage`` may return in place of a prompt."""

    prompt: Required[str]
    max_credits: float | None
    save_to: str | None
