"""The page of an approval in Airflow's Required Actions: its options, and its text in Markdown. Pure.

Airflow keeps the first text and options of a task instance for good, also after a clear. So options are plain
numbers, the pictures come from a route that looks them up when the page is opened, and the text names the fingerprint
of what it asks about.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote, urlencode

from airflow_provider_evoimage.links import TASK_ROUTE

if TYPE_CHECKING:
    from airflow_provider_evoimage.approval.shown import ShownFile, ShownImage

Choose = Literal["one", "many", "all"]
CHOOSE: tuple[Choose, ...] = ("one", "many", "all")
APPROVE, REJECT, ALL, NONE = "Approve", "Reject", "All", "None"

MOST_PICTURES = 24
# Three pictures of 300 pixels are cut off on a screen of 1280.
_COLUMNS = 2
_FINGERPRINT_DIGITS = 16
_FINGERPRINT = re.compile(r"Asked about: `([0-9a-f]{16})`")
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()<>#+!|~-])")

SUBJECTS: Mapping[str, str] = {
    "one": "Choose the image to go on with",
    "many": "Choose the images to go on with",
    "all": "Approve the images",
}


def options_of(choose: Choose, images: int, *, hides_four: bool) -> list[str]:
    """Return the options of the page.

    :param hides_four: whether Airflow's page shows nothing where a single choice has exactly four options.
    """
    if choose == "all":
        return [APPROVE, REJECT]
    numbers = [str(number) for number in range(1, images + 1)]
    if choose == "many":
        return [*numbers, ALL, NONE]
    options = [*numbers, NONE]
    # Both say the same, and a fifth option makes the page show them.
    return [*options, REJECT] if hides_four and len(options) == 4 else options


def body_of(
    images: Sequence[ShownImage],
    *,
    choose: Choose,
    fingerprint: str,
    made_by: Mapping[str, Any],
    introduction: str | None,
) -> str:
    """Write the text of the page.

    :param made_by: the Airflow task that asks.
    :param introduction: Markdown of the DAG author.
    """
    cells = list(_cells(images, made_by))
    parts = [introduction.strip()] if introduction else []
    parts.append(_ASK[choose])
    parts += list(_tables(cells[:MOST_PICTURES]))
    if len(cells) > MOST_PICTURES:
        parts.append(
            f"{MOST_PICTURES} of {len(cells)} pictures are shown here. "
            f"[See all of them with their numbers]({gallery_url(made_by)})."
        )
    else:
        parts.append(f"[See them in the tab Images]({gallery_url(made_by)}).")
    parts.append(f"Asked about: `{fingerprint[:_FINGERPRINT_DIGITS]}`")
    return "\n\n".join(parts)


_ASK: Mapping[str, str] = {
    "one": f"Choose one number, or **{NONE}**. A click on a picture opens it whole.",
    "many": f"Choose any numbers, or **{ALL}**, or **{NONE}**. A click on a picture opens it whole.",
    "all": f"**{APPROVE}** or **{REJECT}** all of them. A click on a picture opens it whole.",
}


def asks_about(body: object, fingerprint: str) -> bool:
    """Tell whether a page's text asks about exactly what has this fingerprint."""
    found = _FINGERPRINT.findall(body) if isinstance(body, str) else []
    return found[-1:] == [fingerprint[:_FINGERPRINT_DIGITS]]


def _cells(images: Sequence[ShownImage], made_by: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield head and picture: first all images, so that each is seen, then their renditions."""
    if sum(len(image.files) for image in images) <= MOST_PICTURES:
        for image in images:
            yield _cell(image, image.file, None, made_by)
            for place, file in enumerate(image.renditions):
                yield _cell(image, file, place, made_by)
        return
    for image in images:
        yield _cell(image, image.file, None, made_by)
    for image in images:
        for place, file in enumerate(image.renditions):
            yield _cell(image, file, place, made_by)


def _cell(
    image: ShownImage, file: ShownFile, rendition: int | None, made_by: Mapping[str, Any]
) -> tuple[str, str]:
    channel = "" if file.channel is None else f" · {escaped(file.channel)}"
    alt = f"Picture {image.number}{channel}"
    small, full = (
        _picture_url(image.number, rendition, file, made_by, size=size) for size in ("small", "full")
    )
    return f"{image.number}{channel} · {file.width}×{file.height}", f"[![{alt}]({small})]({full})"


def _tables(cells: Sequence[tuple[str, str]]) -> Iterator[str]:
    for start in range(0, len(cells), _COLUMNS):
        row = list(cells[start : start + _COLUMNS])
        if start:  # The columns stand below each other.
            row += [("", "")] * (_COLUMNS - len(row))
        yield "\n".join(
            [
                f"| {' | '.join(head for head, _ in row)} |",
                f"|{'---|' * len(row)}",
                f"| {' | '.join(picture for _, picture in row)} |",
            ]
        )


def _picture_url(
    number: int, rendition: int | None, file: ShownFile, made_by: Mapping[str, Any], *, size: str
) -> str:
    fields = {
        **made_by,
        "index": number - 1,
        **({} if rendition is None else {"rendition": rendition}),
        "size": size,
        "v": file.sha256[:12],
        # A picture with the reason, where the file may not be shown: nothing else of an answer is seen in a text.
        "say": "why",
    }
    # Without a leading slash, so that it survives a URL prefix.
    return f"evoimage/image?{urlencode(fields, quote_via=quote, safe='')}"


def gallery_url(made_by: Mapping[str, Any]) -> str:
    """Return the address of the tab Images of a task instance, relative to Airflow's own."""
    dag_id, run_id, task_id = (quote(str(made_by[name]), safe="") for name in ("dag_id", "run_id", "task_id"))
    mapped = f"/mapped/{made_by['map_index']}" if made_by["map_index"] >= 0 else ""
    return f"dags/{dag_id}/runs/{run_id}/tasks/{task_id}{mapped}/plugin/{TASK_ROUTE}"


def escaped(text: str) -> str:
    """Write a text so that Markdown shows it as it is."""
    return _MARKDOWN.sub(r"\\\1", " ".join(text.split()))
