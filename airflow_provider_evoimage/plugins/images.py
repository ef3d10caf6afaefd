"""The plugin that Airflow loads in every process; the web application behind it is imported at the first request."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from airflow.plugins_manager import AirflowPlugin

if TYPE_CHECKING:
    from fastapi import FastAPI

PREFIX = "/evoimage"
_loading = threading.Lock()
_loaded: list[FastAPI] = []


def application() -> FastAPI:
    """Return the web application of this process."""
    with _loading:
        if not _loaded:
            from airflow_provider_evoimage.plugins.web import build

            _loaded.append(build())
    return _loaded[0]


async def serve(
    scope: MutableMapping[str, Any],
    receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
    send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
) -> None:
    """Answer one request (ASGI)."""
    if scope["type"] == "http":
        app = _loaded[0] if _loaded else await asyncio.to_thread(application)
        await app(scope, receive, send)


def _view(destination: str, route: str, query: str) -> dict[str, str]:
    # Without a leading slash, so that it survives a URL prefix.
    return {
        "name": "Images",
        "destination": destination,
        "url_route": f"evoimage-{route}",
        "href": f"{PREFIX.lstrip('/')}/page?{query}",
    }


class EvoImagePlugin(AirflowPlugin):
    """Images of EvoLink's operators: a tab on task instances and DAG runs, and a gallery in the menu Browse."""

    name = "evoimage"
    # The base class declares them as instance variables.
    fastapi_apps = [{"name": "EvoLink Images", "app": serve, "url_prefix": PREFIX}]  # noqa: RUF012
    external_views = [  # noqa: RUF012
        {**_view("nav", "images", "view=list"), "category": "browse"},
        _view("dag_run", "run", "view=run&dag_id={DAG_ID}&run_id={RUN_ID}"),
        _view(
            "task_instance",
            "task",
            "view=task&dag_id={DAG_ID}&run_id={RUN_ID}&task_id={TASK_ID}&map_index={MAP_INDEX}",
        ),
    ]
