"""What the pages show of a task instance, as plain JSON. Pure.

Every value comes from an XCom, which people can edit, so each is checked for its type here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow_provider_evoimage.evolink.json_values import number
from airflow_provider_evoimage.evolink.prices import CREDITS_PER_USD
from airflow_provider_evoimage.evolink.signed_urls import without_secrets

if TYPE_CHECKING:
    from airflow_provider_evoimage.plugins.records import Task
    from airflow_provider_evoimage.plugins.roots import ImageRoots

SHOWN_IMAGES = 200
_FAILED = frozenset({"failed", "upstream_failed"})
_UNSTARTED = frozenset({None, "none", "scheduled", "queued"})
_TEXT = 20_000

NOT_OURS = "This task is not one of EvoLink's operators, so it has no images."
NOT_STARTED = "Not started yet: nothing was requested from EvoLink."
NOT_ACCEPTED = "The task is running; EvoLink has not accepted a request yet."
NO_REASON = (
    "The task failed before it could say why; its log has the reason. Clearing it resumes what was paid."
)
NOT_LISTED = (
    "Pictures are not shown: their folder is not listed. An administrator can add it to [evoimage] image_roots, "
    'for instance ["{folder}"].'
)


def card(task: Task, roots: ImageRoots, *, now: datetime) -> dict[str, Any]:
    """Describe a task instance for a page."""
    said = task.images
    images = listed_images(said)
    mark_chosen(images, approval_of(said))
    for image in images:
        image["visible"] = roots.shows(image["path"])
    state = state_of(task)
    credits_used = number(said.get("credits"))
    return {
        "dag_id": task.dag_id,
        "run_id": task.run_id,
        "task_id": task.task_id,
        "map_index": task.map_index,
        "label": task.label,
        "state": state,
        "airflow_state": task.state,
        "operator": task.operator,
        "is_ours": task.is_ours,
        "pushed": _iso(task.pushed),
        "started": _iso(task.started),
        "ended": _iso(task.ended),
        "prompt": _text(said.get("prompt")),
        **{name: _text(said.get(name)) for name in ("model", "size", "quality", "expires_at", "manifest")},
        "ids": _ids(said),
        "credits": credits_used,
        "reused": whole(said.get("reused")),
        "usd": usd(credits_used),
        "credits_reserved": number(said.get("credits_reserved")),
        "expected_seconds": number(said.get("expected_seconds")),
        "images": whole(said.get("images")),
        "saved": whole(said.get("saved")),
        "files": images,
        "batch": _batch(said),
        "approval": approval_of(said),
        "error": _error(said.get("error")),
        "note": note(task, state, images, now=now),
    }


def state_of(task: Task) -> str:
    """Return ``made``, ``waiting``, ``failed``, ``retrying``, ``idle`` (nothing yet), ``none`` or ``skipped``."""
    said = str(task.images.get("state"))
    if task.state in _FAILED:
        return "failed"
    if task.state in {"skipped", "removed"}:
        return "skipped"
    if task.state == "up_for_retry":
        return "retrying"
    if task.state == "success":
        return "made" if task.images else "none"
    if said in {"waiting", "made"}:
        return said
    return "failed" if said == "failed" and task.state is None else "idle"


def note(task: Task, state: str, images: Sequence[Mapping[str, Any]], *, now: datetime) -> str:
    """Return the sentence for a task instance that has no picture to show; empty if it has one."""
    if not task.is_ours:
        return NOT_OURS
    if state == "idle":
        return NOT_STARTED if task.state in _UNSTARTED else NOT_ACCEPTED
    if state in {"failed", "retrying"}:
        return _why_failed(task)
    if state == "skipped" and approval_of(task.images):
        return "Nothing was chosen." if not images else ""
    if state == "skipped":
        return "The task was skipped or removed, so nothing was requested."
    if state == "none":
        return "The task ended without images, or was run by a release of this provider before the pages."
    if state == "waiting":
        return ""
    return _why_unseen(task, images, now=now)


def _why_failed(task: Task) -> str:
    if task.state == "upstream_failed":
        return "A task before it failed, so nothing was requested."
    return "" if task.images.get("error") else NO_REASON


def _why_unseen(task: Task, images: Sequence[Mapping[str, Any]], *, now: datetime) -> str:
    if any(image["visible"] for image in images):
        return ""
    if images:
        folder = str(images[0]["path"]).rpartition("/")[0]
        return NOT_LISTED.format(folder=folder)
    expires = _moment(task.images.get("expires_at"))
    if not whole(task.images.get("images")):
        return "The task ended without images."
    if expires is not None and expires <= now:
        return f"The images were not saved, and EvoLink's links died at {expires:%Y-%m-%d %H:%M} UTC."
    until = "" if expires is None else f" until {expires:%Y-%m-%d %H:%M} UTC"
    return (
        f"The images are not saved: only EvoLink's links lead to them{until}. "
        "Set save_to, or save them with EvoImageSaveOperator."
    )


def listed_images(said: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Read the saved images of an ``evoimage_images`` value."""
    found = []
    for index, each in enumerate(_list(said.get("files"))[:SHOWN_IMAGES]):
        if isinstance(each, list) and len(each) == 4 and isinstance(each[0], str):
            path, version, width, height = each
            found.append(
                {
                    "index": index,
                    "path": path,
                    "v": _text(version),
                    "width": whole(width),
                    "height": whole(height),
                }
            )
    return found


def approval_of(said: Mapping[str, Any]) -> dict[str, Any] | None:
    """Read what an ``evoimage_images`` value says of an approval; ``chosen`` is None while nobody has answered."""
    approval = said.get("approval")
    if not isinstance(approval, Mapping):
        return None
    chosen = approval.get("chosen")
    return {
        "of": whole(approval.get("of")),
        "chosen": [each for each in chosen if whole(each)] if isinstance(chosen, list) else None,
        **{name: _text(approval.get(name)) for name in ("by", "at", "comment")},
    }


def mark_chosen(images: Iterable[dict[str, Any]], approval: Mapping[str, Any] | None) -> None:
    """Give images of an approval their numbers, and whether they were chosen; None while nobody has answered."""
    if approval is None:
        return
    for image in images:
        image["number"] = image["index"] + 1
        image["chosen"] = None if approval["chosen"] is None else image["number"] in approval["chosen"]


def manifests_of(value: object) -> list[dict[str, Any]]:
    """Read the manifests of a task's return value; whatever else it holds is dropped."""
    candidates = value if isinstance(value, list) else [value]
    return [
        each
        for each in candidates
        if isinstance(each, dict) and isinstance(each.get("images"), list) and "evolink_task_id" in each
    ]


def images_of(manifests: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return all images of manifests in one list, without EvoLink's links."""
    found: list[dict[str, Any]] = []
    for manifest in manifests:
        for image in _list(manifest.get("images")):
            known = image if isinstance(image, Mapping) else {}
            path = known.get("path")
            found.append(
                {
                    "index": len(found),
                    "path": path if isinstance(path, str) else "",
                    "v": _text(known.get("sha256"))[:12],
                    **{name: whole(known.get(name)) for name in ("width", "height", "bytes")},
                    "content_type": _text(known.get("content_type")),
                    "renditions": _renditions(known.get("renditions")),
                }
            )
    return found


def _renditions(value: object) -> list[dict[str, Any]]:
    listed = [each if isinstance(each, Mapping) else {} for each in _list(value)]
    return [
        {
            "place": place,
            "channel": _text(each.get("channel")),
            "path": _text(each.get("path")),
            "v": _text(each.get("sha256"))[:12],
            **{name: whole(each.get(name)) for name in ("width", "height")},
        }
        for place, each in enumerate(listed)
    ]


def details(manifests: Sequence[Mapping[str, Any]], roots: ImageRoots) -> list[dict[str, Any]]:
    """Describe generations in full: request, references, charge; without links."""
    return [_detail(each, roots) for each in manifests]


def _detail(manifest: Mapping[str, Any], roots: ImageRoots) -> dict[str, Any]:
    request = manifest.get("request")
    request = request if isinstance(request, Mapping) else {}
    usage = manifest.get("usage")
    usage = usage if isinstance(usage, Mapping) else {}
    charged = number(usage.get("charged"))
    return {
        "evolink_task_id": _text(manifest.get("evolink_task_id")),
        "model": _text(manifest.get("model")),
        "created": _text(manifest.get("created")),
        "parameters": {
            str(name): without_secrets(_text(value))
            for name, value in request.items()
            if name not in {"prompt", "image_urls"} and not isinstance(value, (dict, list))
        },
        "prompt": _text(request.get("prompt")),
        "references": [
            {"path": without_secrets(each), "visible": roots.shows(each)} for each in references_of(manifest)
        ],
        "credits": charged,
        "reused_from": _reused_from(manifest.get("reused")),
        "usd": usd(charged),
        "code": snippet(request),
    }


def _reused_from(reused: object) -> str:
    """Say which run made images that a later one reused; empty where it made its own."""
    made_by = reused.get("made_by") if isinstance(reused, Mapping) else None
    if not isinstance(reused, Mapping) or not isinstance(made_by, Mapping):
        return ""
    return f"run {_text(made_by.get('run_id'))}, saved {_text(reused.get('saved_at'))}"


def references_of(manifest: Mapping[str, Any]) -> list[str]:
    """Return the references of a generation's request: the file where one was uploaded, else the URL that was sent."""
    request = manifest.get("request")
    if not isinstance(request, Mapping):
        return []
    files = [each for each in _list(request.get("references")) if isinstance(each, Mapping)]
    sources = {f"sha256:{each.get('sha256')}": _text(each.get("source")) for each in files}
    sent = [each for each in _list(request.get("image_urls")) if isinstance(each, str)]
    return [sources.get(each) or each for each in sent]


def snippet(request: Mapping[str, Any]) -> str:
    """Write the operator that sends the same request."""
    if not request.get("prompt"):
        return ""
    names = ("prompt", "model", "size", "quality", "n")
    lines = [f"    {name}={request[name]!r}," for name in names if request.get(name) is not None]
    references = [without_secrets(each) for each in references_of({"request": request})]
    if references:
        lines.append(f"    image_urls={references!r},")
    return "\n".join(["EvoImageGenerateOperator(", '    task_id="again",', *lines, '    save_to="…",', ")"])


def totals(states: Mapping[str, int], said: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Sum up a DAG run; a generation that several tasks tell of, such as a save after a wait, counts once.

    :param states: how many task instances of ours Airflow has in each state.
    :param said: their ``evoimage_images``.
    """
    values = list(said)
    kinds = Counter(str(each.get("state")) for each in values)
    own = _told_once(values)
    charged = sum(number(each.get("credits")) or 0.0 for each in own)
    return {
        "tasks": sum(states.values()),
        "failed": sum(count for state, count in states.items() if state in _FAILED),
        "waiting": kinds["waiting"],
        "images": sum(whole(each.get("images")) or 0 for each in own),
        "credits": round(charged, 6),
        "usd": usd(charged),
    }


def _told_once(said: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Leave out approvals, and what was saved or cut for a generation of another task: that task tells of it."""
    found: list[Mapping[str, Any]] = []
    known: set[str] = set()
    # What has ended before what waits, a batch before its pictures, one generation before several of them.
    for each in sorted(
        said, key=lambda each: (each.get("state") == "waiting", "items" not in each, len(_ids(each)))
    ):
        ids = _ids(each)
        if "approval" in each or known.intersection(ids):
            continue
        known.update(ids)
        found.append(each)
    return found


def _ids(said: Mapping[str, Any]) -> list[str]:
    return [each for each in _list(said.get("evolink_task_ids")) if isinstance(each, str)]


def usd(credits_used: float | None) -> float | None:
    """Convert credits to USD."""
    return None if credits_used is None else round(credits_used / float(CREDITS_PER_USD), 6)


def _batch(said: Mapping[str, Any]) -> dict[str, Any] | None:
    if whole(said.get("items")) is None:
        return None
    names = (
        "items",
        "items_saved",
        "items_reused",
        "items_failed",
        "items_waiting",
        "items_queued",
        "items_left_out",
    )
    return {name: whole(said.get(name)) for name in names}


def _error(value: object) -> dict[str, Any] | None:
    if not isinstance(value, Mapping):
        return None
    billed = value.get("billed")
    return {
        **{name: _text(value.get(name)) for name in ("kind", "message", "on_retry")},
        "billed": billed if isinstance(billed, bool) else None,
    }


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: object) -> str:
    if isinstance(value, str):
        return value[:_TEXT]
    return "" if value is None or isinstance(value, (dict, list)) else str(value)[:_TEXT]


def whole(value: object) -> int | None:
    """Return a whole number that is not negative; None for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _moment(value: object) -> datetime | None:
    try:
        found = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
