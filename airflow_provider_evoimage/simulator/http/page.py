"""The page for people: what was made lately, with pictures, what it cost, and how to make it go wrong."""

import io
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from typing import Self

import anyio
import anyio.to_thread
from PIL import Image
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from airflow_provider_evoimage.simulator.drawing.images import MEDIA_TYPES, draw
from airflow_provider_evoimage.simulator.http.control import CONTROL_PATH
from airflow_provider_evoimage.simulator.http.page_style import STYLE
from airflow_provider_evoimage.simulator.manual import PROMPT_WORDS
from airflow_provider_evoimage.simulator.service.generations import Generation
from airflow_provider_evoimage.simulator.service.state import SimulatorState

PICTURES_PATH = f"{CONTROL_PATH}/pictures"
SHOWN_GENERATIONS = 24
SHOWN_PICTURES = 4
SHOWN_PROMPT = 400
REFRESH_SECONDS = 5
PICTURE_EDGE = 640
# What a generation has made does not change.
KEPT = {"cache-control": "max-age=86400"}
HEADERS = {
    "content-security-policy": "default-src 'none'; img-src 'self'; style-src 'unsafe-inline'; form-action 'self'",
    "cache-control": "no-store",
}

STATUSES = ("pending", "processing", "completed", "failed", "cancelled")
NONE_FOUND = '<p class="empty">No generation is like that.</p>'
ASK_FOR_FILTER = '<p class="filter"><a href="/?text=">Find generations</a></p>'
EMPTY = """<p class="empty">Nothing was generated yet. Point a client at this address: any API key will do,
unless the simulator was started with one.</p>"""


def page_routes(state: SimulatorState, working: anyio.CapacityLimiter) -> list[Route]:
    """Return the route of the page, and that of its pictures.

    :param working: how many threads may draw pictures.
    """
    page = Page(state, working)
    return [
        Route("/", page.show, methods=["GET"]),
        Route(f"{PICTURES_PATH}/{{task_id}}/{{index:int}}", page.picture, methods=["GET"]),
        Route(f"{PICTURES_PATH}/{{task_id}}/{{index:int}}/full", page.full_picture, methods=["GET"]),
    ]


@dataclass(frozen=True)
class Filter:
    """Which generations to show; what is empty does not count.

    :param text: words of the prompt, or the id.
    """

    text: str = ""
    status: str = ""
    model: str = ""

    @classmethod
    def of(cls, request: Request) -> Self:
        """Read it from the query."""
        return cls(
            **{name: request.query_params.get(name, "").strip() for name in ("text", "status", "model")}
        )

    def takes(self, generation: Generation, now: float) -> bool:
        """Tell whether a generation is one of these."""
        order = generation.order
        return (
            (self.text.casefold() in order.prompt.casefold() or self.text == generation.id)
            and self.status in {"", generation.status(now)}
            and self.model in {"", order.model}
        )


class Page:
    """The page over one state; looking at it changes no counter."""

    def __init__(self, state: SimulatorState, working: anyio.CapacityLimiter) -> None:
        self.state = state
        self._working = working

    async def show(self, request: Request) -> Response:
        """`GET /`, with the query `text`, `status` and `model`."""
        self.state.settle()
        # A page that is being filtered does not reload: that would take away what is being typed.
        page = self._html(Filter.of(request), is_live=not request.query_params)
        # A prompt in JSON may hold half a character, which no page can.
        return HTMLResponse(page.encode("utf-8", "replace"), headers=HEADERS)

    async def picture(self, request: Request) -> Response:
        """`GET /_simulator/pictures/{task_id}/{index}`: a result, small."""
        generation, index = self._asked(request)
        content = await anyio.to_thread.run_sync(_small, generation, index, limiter=self._working)
        return Response(content, media_type="image/jpeg", headers=KEPT)

    async def full_picture(self, request: Request) -> Response:
        """`GET /_simulator/pictures/{task_id}/{index}/full`: a result as it was made, whatever its link says."""
        generation, index = self._asked(request)
        picture = generation.picture(index)
        content = await anyio.to_thread.run_sync(draw, picture, limiter=self._working)
        return Response(content, media_type=MEDIA_TYPES[picture.file_format], headers=KEPT)

    def _asked(self, request: Request) -> tuple[Generation, int]:
        generation = self.state.generations.get(request.path_params["task_id"])
        index = request.path_params["index"]
        if generation is None or index >= len(generation.file_paths):
            raise HTTPException(404)
        return generation, index

    def _html(self, chosen: Filter, *, is_live: bool) -> str:
        now = self.state.clock.now()
        everything = list(self.state.generations.values())
        generations = [each for each in everything if chosen.takes(each, now)]
        recent = generations[: -SHOWN_GENERATIONS - 1 : -1]
        cards = "\n".join(_card(each, now, expired=self.state.is_expired(each)) for each in recent)
        older = len(generations) - len(recent)
        more = f'<p class="more">and {older} earlier</p>' if older else ""
        refresh = f'\n<meta http-equiv="refresh" content="{REFRESH_SECONDS}">' if is_live else ""
        models = sorted({each.order.model for each in everything})
        return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">{refresh}
<title>EvoLink simulator</title>
<style>{STYLE}</style>
</head>
<body>
<header>
<h1>EvoLink simulator</h1>
<p>{escape(self.state.base_url)} · pictures are drawn, not generated · nothing is charged</p>
</header>
{self._numbers()}
{ASK_FOR_FILTER if is_live else _form(chosen, models)}
<main>
{cards or (NONE_FOUND if everything else EMPTY)}
</main>
{more}
<details>
<summary>Words in a prompt that make it go wrong</summary>
<pre>{escape(PROMPT_WORDS)}</pre>
</details>
</body>
</html>
"""

    def _numbers(self) -> str:
        counters = self.state.counters
        running = sum(each.ended_at is None for each in self.state.generations.values())
        purses = [account.purse for account in self.state.bank.accounts.values()]
        balance = sum((purse.remaining or 0 for purse in purses), start=0 * self.state.bank.start_credits)
        if not purses:
            balance = self.state.bank.start_credits
        numbers = [
            ("balance, credits", f"{balance:,.2f}"),
            ("charged, credits", f"{counters.credits_charged:,.4f}"),
            ("submissions", f"{counters.submissions:,}"),
            ("accepted", f"{counters.paid:,}"),
            ("replayed", f"{counters.replays:,}"),
            ("running", f"{running:,}"),
            ("uploads", f"{counters.uploads:,}"),
            ("downloads", f"{counters.downloads_served:,}"),
        ]
        items = "".join(f"<div><dt>{name}</dt><dd>{number}</dd></div>" for name, number in numbers)
        return f"<dl>{items}</dl>"


def _form(chosen: Filter, models: Iterable[str]) -> str:
    return f"""<form class="filter" action="/" method="get">
<input type="search" name="text" value="{escape(chosen.text)}" placeholder="words of the prompt, or the id"
  aria-label="words of the prompt, or the id">
<select name="status" aria-label="status">{_options("any status", STATUSES, chosen.status)}</select>
<select name="model" aria-label="model">{_options("any model", models, chosen.model)}</select>
<button>Find</button> <a href="/">All, live</a>
</form>"""


def _options(any_of_them: str, values: Iterable[str], chosen: str) -> str:
    options = "".join(
        f"<option{' selected' if value == chosen else ''}>{escape(value)}</option>" for value in values
    )
    return f'<option value="">{any_of_them}</option>{options}'


def _card(generation: Generation, now: float, *, expired: bool) -> str:
    order = generation.order
    status = generation.status(now)
    shown = status if generation.ended_at is not None else f"{status} {generation.progress(now)} %"
    created = datetime.fromtimestamp(generation.accepted_at, UTC)
    prompt = order.prompt if len(order.prompt) <= SHOWN_PROMPT else f"{order.prompt[:SHOWN_PROMPT]}…"
    facts = [
        order.model,
        order.size,
        order.quality,
        f"{len(generation.file_paths)} of {order.images} images"
        if status == "completed"
        else f"n {order.images}",
        f"{order.references} references" if order.references else "",
        _cost(generation),
        f"{generation.replays} replays" if generation.replays else "",
        "links expired" if generation.file_paths and expired else "",
    ]
    return f"""<article class="{status}">
{_pictures(generation, status)}
<p class="status"><b>{shown}</b><time>{created:%H:%M:%S} UTC</time></p>
<p class="prompt" dir="auto">{escape(prompt)}</p>
{_failure(generation)}<p class="facts">{escape(_joined(facts))}</p>
<p class="id">{escape(generation.id)}</p>
</article>"""


def _pictures(generation: Generation, status: str) -> str:
    count = min(len(generation.file_paths), SHOWN_PICTURES)
    if not count:
        return f'<div class="pictures none"><span>{status}</span></div>'
    images = "".join(
        f'<a href="{path}/full"><img src="{path}" alt="image {index + 1}" loading="lazy"></a>'
        for index in range(count)
        for path in [f"{PICTURES_PATH}/{escape(generation.id)}/{index}"]
    )
    return f'<div class="pictures n{count}">{images}</div>'


def _failure(generation: Generation) -> str:
    if generation.ended_at is None or generation.failure is None:
        return ""
    return f'<p class="failure">{escape(generation.failure)}</p>\n'


def _cost(generation: Generation) -> str:
    if generation.ended_at is None:
        return f"{generation.reserved.normalize():f} credits reserved"
    return f"{generation.charge.credits.normalize():f} credits"


def _joined(facts: Iterable[str]) -> str:
    return " · ".join(fact for fact in facts if fact)


def _small(generation: Generation, index: int) -> bytes:
    with Image.open(io.BytesIO(draw(generation.picture(index)))) as image:
        image.thumbnail((PICTURE_EDGE, PICTURE_EDGE))
        small = Image.new("RGB", image.size, "white")
        small.paste(image, mask=image.getchannel("A") if image.mode == "RGBA" else None)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=85)
    return file.getvalue()
