"""The web application behind the pages. Every route asks Airflow whether the user may read the DAG."""

import base64
import binascii
import functools
import importlib.resources
import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, TypeVar

import anyio
import anyio.to_thread
from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import GetUserDep, ReadableXComFilterDep, requires_access_dag
from fastapi import Depends, FastAPI, HTTPException, Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from airflow_provider_evoimage import __version__
from airflow_provider_evoimage.images_xcom import XCOM_APPROVAL, XCOM_IMAGES
from airflow_provider_evoimage.plugins import cards, records
from airflow_provider_evoimage.plugins.ledgers import lines_of
from airflow_provider_evoimage.plugins.pictures import THUMBNAIL_TYPE, OpenPicture, Thumbnails, open_picture
from airflow_provider_evoimage.plugins.roots import ImageRoots, Location, NotShownError
from airflow_provider_evoimage.plugins.signs import sign

PAGE_SIZE = 24
RUN_PAGE_SIZE = 200
BATCH_PAGE_SIZE = 100
#: Thumbnails that may wait for their turn; more are asked to come back.
MAX_WAITING = 200

_PAGE_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
}
_PICTURE_HEADERS = {
    "content-security-policy": "default-src 'none'; sandbox",
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
}
_ASSETS = {
    "page.js": "text/javascript; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
_PAGE = importlib.resources.files("airflow_provider_evoimage.plugins") / "page"

# Of their own, so that pages take no thread from Airflow's routes.
_queries = anyio.CapacityLimiter(4)
_storage = anyio.CapacityLimiter(8)
# Pillow holds a core: two leave Airflow room.
_drawing = anyio.CapacityLimiter(2)
_thumbnails = Thumbnails()

Result = TypeVar("Result")

may_read = [
    Depends(requires_access_dag("GET", DagAccessEntity.XCOM)),
    Depends(requires_access_dag("GET", DagAccessEntity.TASK_INSTANCE)),
]
DagId = Annotated[str, Query(min_length=1, max_length=250)]
RunId = Annotated[str, Query(min_length=1, max_length=250)]
TaskId = Annotated[str, Query(min_length=1, max_length=250)]
MapIndex = Annotated[int, Query(ge=-1)]
Position = Annotated[int, Query(ge=0, le=1_000_000)]


class Json(JSONResponse):
    """JSON in ASCII: a text with half a character, which an XCom in SQLite may hold, has no bytes in UTF-8."""

    def render(self, content: Any) -> bytes:
        """Return the body."""
        return json.dumps(content, separators=(",", ":"), allow_nan=False).encode("ascii")


def build() -> FastAPI:
    """Make the application; without pages of documentation, which anybody could read."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    # Airflow's own filters look for it in the application that they run in.
    app.state.auth_manager = get_auth_manager()
    app.add_exception_handler(NotShownError, _not_shown)
    app.get("/page")(page)
    app.get("/assets/{name}")(asset)
    app.get("/api/list")(newest)
    app.get("/api/run", dependencies=may_read)(run)
    app.get("/api/task", dependencies=may_read)(task)
    app.get("/api/details", dependencies=may_read)(details)
    app.get("/api/batch", dependencies=may_read)(batch)
    app.get("/image", dependencies=may_read)(image)
    return app


async def _not_shown(request: Request, error: Exception) -> Response:
    del request
    status = error.status if isinstance(error, NotShownError) else 500
    return Response(json.dumps({"detail": str(error)}), status_code=status, media_type="application/json")


async def _query(work: Callable[..., Result], *arguments: Any, **named: Any) -> Result:
    return await anyio.to_thread.run_sync(functools.partial(work, *arguments, **named), limiter=_queries)


async def page(user: GetUserDep) -> Response:
    """Return the page; its script asks for the rest."""
    del user
    html = (_PAGE / "page.html").read_text(encoding="utf-8").replace("{version}", __version__)
    return Response(html, media_type="text/html", headers={**_PAGE_HEADERS, "cache-control": "no-store"})


async def asset(name: str, user: GetUserDep) -> Response:
    """Return the page's script, style or icon."""
    del user
    if name not in _ASSETS:
        raise HTTPException(404, "There is no such file.")
    content = (_PAGE / name).read_bytes()
    headers = {**_PAGE_HEADERS, "cache-control": "private, max-age=3600"}
    return Response(content, media_type=_ASSETS[name], headers=headers)


async def newest(  # noqa: PLR0917 (FastAPI names them)
    permitted: ReadableXComFilterDep,
    dag_id: Annotated[str, Query(max_length=250)] = "",
    state: Annotated[str, Query(max_length=20)] = "",
    text: Annotated[str, Query(max_length=200)] = "",
    hours: Annotated[int, Query(ge=0, le=100_000)] = 0,
    before: Annotated[str, Query(max_length=2_000)] = "",
    limit: Annotated[int, Query(ge=1, le=100)] = PAGE_SIZE,
) -> Response:
    """Return the newest tasks with images over the DAGs that the user may read."""
    now = datetime.now(UTC)
    since = now - timedelta(hours=hours) if hours else None
    words = text.casefold().split()

    def matches(found: records.Task) -> bool:
        prompt = str(found.images.get("prompt") or "").casefold()
        return (
            (not state or cards.state_of(found) == state)
            and all(word in prompt for word in words)
            and (since is None or found.pushed is None or found.pushed >= since)
        )

    tasks, place = await _query(
        records.newest, permitted.to_orm, before=_place(before), limit=limit, matches=matches, dag_id=dag_id
    )
    if since is not None and place is not None and datetime.fromisoformat(place[0]) < since:
        place = None
    roots = ImageRoots.configured()
    return Json(
        {
            "cards": [cards.card(each, roots, now=now) for each in tasks],
            "next": None if place is None else _cursor(place),
            "problems": roots.problems,
        }
    )


async def run(
    dag_id: DagId,
    run_id: RunId,
    after: Annotated[str, Query(max_length=2_000)] = "",
    limit: Annotated[int, Query(ge=1, le=RUN_PAGE_SIZE)] = RUN_PAGE_SIZE,
) -> Response:
    """Return our tasks of a DAG run by task and map index; the first page has the totals."""
    place = _decoded(after)
    tasks = await _query(
        records.of_run,
        dag_id,
        run_id,
        after=None if place is None else (str(place[0]), int(place[1])),
        limit=limit,
    )
    sums = None if after else cards.totals(*await _query(records.totals_of_run, dag_id, run_id))
    roots, now = ImageRoots.configured(), datetime.now(UTC)
    return Json(
        {
            "cards": [cards.card(each, roots, now=now) for each in tasks],
            "next": _cursor((tasks[-1].task_id, tasks[-1].map_index)) if len(tasks) == limit else None,
            "totals": sums,
            "problems": roots.problems,
        }
    )


async def task(
    dag_id: DagId, run_id: RunId, task_id: TaskId, map_index: Annotated[int | None, Query(ge=-1)] = None
) -> Response:
    """Return a task instance with all of its images, or all instances of a mapped task."""
    tasks = await _query(records.of_task, dag_id, run_id, task_id, map_index, limit=RUN_PAGE_SIZE)
    roots, now = ImageRoots.configured(), datetime.now(UTC)
    found = [cards.card(each, roots, now=now) for each in tasks]
    if len(tasks) == 1 and _has_more(tasks[0], found[0]):
        # More than the small XCom has room for.
        images = [each for each in await _all_images(tasks[0].key, found[0]) if each["path"]]
        cards.mark_chosen(images, found[0]["approval"])
        found[0]["files"] = [_with_visibility(each, roots) for each in images[: cards.SHOWN_IMAGES]]
    return Json({"cards": found, "next": None, "problems": roots.problems})


def _has_more(known: records.Task, card: dict[str, Any]) -> bool:
    if card["batch"]:
        return False
    may_have_renditions = known.operator == "EvoImageRenditionsOperator" and card["state"] == "made"
    return bool(card["approval"]) or may_have_renditions or (card["images"] or 0) > len(card["files"])


async def _all_images(key: records.TaskKey, card: dict[str, Any]) -> list[dict[str, Any]]:
    if card["approval"]:
        return cards.images_of([await _approval(key)])
    return cards.images_of(cards.manifests_of(await _query(records.value_of, key, records.RETURN_VALUE)))


async def _approval(key: records.TaskKey) -> dict[str, Any]:
    """Return what a person was asked about; the return value has only what was chosen."""
    asked = await _query(records.value_of, key, XCOM_APPROVAL)
    return asked if isinstance(asked, dict) else {}


def _with_visibility(image: dict[str, Any], roots: ImageRoots) -> dict[str, Any]:
    renditions = [{**each, "visible": roots.shows(each["path"])} for each in image["renditions"]]
    return {**image, "visible": roots.shows(image["path"]), "renditions": renditions}


async def details(
    dag_id: DagId, run_id: RunId, task_id: TaskId, map_index: MapIndex = -1, item: Position | None = None
) -> Response:
    """Return what is known of the generations of a task instance, or of one item of a batch."""
    key, roots = (dag_id, run_id, task_id, map_index), ImageRoots.configured()
    manifests = await _manifests(key, item, roots)
    return Json({"generations": cards.details(manifests[:20], roots)})


async def batch(
    dag_id: DagId, run_id: RunId, task_id: TaskId, map_index: MapIndex = -1, offset: Position = 0
) -> Response:
    """Return a page of the items of a batch, as its manifest describes them."""
    key, roots = (dag_id, run_id, task_id, map_index), ImageRoots.configured()
    lines = await _ledger(key, roots)
    shown = lines[offset : offset + BATCH_PAGE_SIZE]
    items = []
    for place, line in enumerate(shown, offset):
        images = [each for each in cards.images_of([line]) if each["path"]]
        items.append(
            {
                "item": place,
                "name": str(line.get("name") or "")[:200],
                "state": str(line.get("state") or "")[:20],
                "prompt": cards.details([line], roots)[0]["prompt"][:300],
                "error": str((line.get("error") or {}).get("message") or "")[:500],
                "files": [{**each, "visible": roots.shows(each["path"])} for each in images],
            }
        )
    return Json(
        {
            "items": items,
            "of": len(lines),
            "next": offset + len(shown) if offset + len(shown) < len(lines) else None,
        }
    )


async def image(  # noqa: PLR0917 (FastAPI names them)
    request: Request,
    dag_id: DagId,
    run_id: RunId,
    task_id: TaskId,
    map_index: MapIndex = -1,
    index: Position = 0,
    item: Position | None = None,
    reference: Position | None = None,
    rendition: Position | None = None,
    say: Annotated[str, Query(pattern="^(why)?$")] = "",
    size: Annotated[str, Query(pattern="^(full|small)$")] = "small",
    v: Annotated[str, Query(max_length=64)] = "",
) -> Response:
    """Return one picture of a task instance: a thumbnail, or the file as it is.

    :param v: the hash of the file as the page knows it: with it a browser keeps the answer for good.
    :param say: ``why``: a small picture that says why there is none, for texts that can show nothing else.
    """
    key, path, roots = (dag_id, run_id, task_id, map_index), "", ImageRoots.configured()
    try:
        path, version = await _path(key, index, item, reference, rendition, roots)
        return await _picture(request, roots.location(path), version, size=size, v=v)
    except NotShownError as error:
        if not say:
            raise
        headers = {**_PICTURE_HEADERS, "cache-control": "no-store"}
        return Response(sign(str(error), path), error.status, media_type="image/svg+xml", headers=headers)


async def _picture(request: Request, location: Location, version: str, *, size: str, v: str) -> Response:
    is_known = bool(version) and v == version
    headers = {**_PICTURE_HEADERS, "cache-control": "private, max-age=60"}
    if is_known:
        headers |= {"cache-control": "private, max-age=31536000, immutable", "etag": f'"{version}-{size}"'}
        if request.headers.get("if-none-match") == headers["etag"]:
            return Response(status_code=304, headers=headers)
    if size == "small":
        if _drawing.statistics().tasks_waiting >= MAX_WAITING:
            raise HTTPException(503, "Busy: too many small pictures at once.", headers={"retry-after": "2"})
        content = await anyio.to_thread.run_sync(_thumbnails.get, location, version, limiter=_drawing)
        return Response(content, media_type=THUMBNAIL_TYPE, headers=headers)
    picture = await anyio.to_thread.run_sync(open_picture, location, limiter=_storage)
    # Airflow before 3.3 would pack it, which takes long and saves nothing.
    headers["content-encoding"] = "identity"
    if picture.size is not None:
        headers["content-length"] = str(picture.size)
    return StreamingResponse(_pieces(picture), media_type=picture.content_type, headers=headers)


async def _pieces(picture: OpenPicture) -> AsyncIterator[bytes]:
    pieces = picture.pieces()
    try:
        while (piece := await anyio.to_thread.run_sync(next, pieces, None, limiter=_storage)) is not None:
            yield piece
    finally:
        picture.file.close()


async def _path(  # noqa: PLR0917 (they are those of the route)
    key: records.TaskKey,
    index: int,
    item: int | None,
    reference: int | None,
    rendition: int | None,
    roots: ImageRoots,
) -> tuple[str, str]:
    """Return the path of a picture, and its version as far as known."""
    if reference is not None:
        manifests = await _manifests(key, item, roots)
        references = [each for manifest in manifests for each in cards.references_of(manifest)]
        if reference < len(references):
            return references[reference], ""
        raise NotShownError("There is no such reference.", status=404)
    images = await _images(key, index, item, roots, is_listed=rendition is None)
    found = next((each for each in images if each["index"] == index), None)
    if found is not None and rendition is not None:
        found = next((each for each in found["renditions"] if each["place"] == rendition), None)
    if found is None or not found["path"]:
        raise NotShownError("This image was not saved.", status=404)
    return found["path"], found["v"]


async def _images(
    key: records.TaskKey, index: int, item: int | None, roots: ImageRoots, *, is_listed: bool
) -> list[dict[str, Any]]:
    """Return images of a task instance, that of an index among them if there is one.

    :param is_listed: whether the small XCom may have it.
    """
    if item is None:
        said = await _query(records.value_of, key, XCOM_IMAGES)
        said = said if isinstance(said, dict) else {}
        if cards.approval_of(said):
            return cards.images_of([await _approval(key)])
        listed = cards.listed_images(said)
        if is_listed and any(each["index"] == index for each in listed):
            return listed
    return cards.images_of(await _manifests(key, item, roots))


async def _manifests(key: records.TaskKey, item: int | None, roots: ImageRoots) -> list[dict[str, Any]]:
    if item is None:
        return cards.manifests_of(await _query(records.value_of, key, records.RETURN_VALUE))
    lines = await _ledger(key, roots)
    if item >= len(lines):
        raise NotShownError("The batch has no such item.", status=404)
    return [lines[item]]


async def _ledger(key: records.TaskKey, roots: ImageRoots) -> list[dict[str, Any]]:
    said = await _query(records.value_of, key, XCOM_IMAGES)
    if not isinstance(said, dict) or not said.get("manifest"):
        raise NotShownError("This task is no batch, or has not begun.", status=404)
    return await anyio.to_thread.run_sync(
        lines_of, said["manifest"], roots, str(said.get("at")), limiter=_storage
    )


def _cursor(place: tuple[Any, ...]) -> str:
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode()


def _decoded(cursor: str) -> list[Any] | None:
    if not cursor:
        return None
    try:
        place = json.loads(base64.urlsafe_b64decode(cursor.encode()))
    except (ValueError, binascii.Error):
        place = None
    if not isinstance(place, list) or len(place) not in {2, 4}:
        raise HTTPException(400, "The place to go on from is not one of this page.")
    return place


def _place(cursor: str) -> records.Place | None:
    place = _decoded(cursor)
    if place is None:
        return None
    try:
        moment, number, task_id, map_index = place
        datetime.fromisoformat(moment)
        return str(moment), int(number), str(task_id), int(map_index)
    except (TypeError, ValueError):
        raise HTTPException(400, "The place to go on from is not one of this page.") from None
