"""The command line of ``evoimage``: its commands and options."""

from __future__ import annotations

import json
import os
import sys
import time
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType

from airflow_provider_evoimage import __version__
from airflow_provider_evoimage.arguments import alt_text_of
from airflow_provider_evoimage.command import tables
from airflow_provider_evoimage.command.account import CommandHook
from airflow_provider_evoimage.command.estimates import EstimatedRequest, priced, sized
from airflow_provider_evoimage.command.generating import requested, submitted
from airflow_provider_evoimage.command.listing import recent
from airflow_provider_evoimage.command.provenance import statements, statements_json, statements_lines
from airflow_provider_evoimage.command.reindex import reindex
from airflow_provider_evoimage.command.saving import DEFAULT_NAMES, finished, save
from airflow_provider_evoimage.defaults import DEFAULT_MODEL
from airflow_provider_evoimage.evolink.prices import MULTIPLIERS, PUBLISHED
from airflow_provider_evoimage.exceptions import InvalidRequestError
from airflow_provider_evoimage.images.channels import CHANNELS, channel_named

# Width if the output is not a terminal, so that a file or a pipe gets each row on one line.
_PIPED_WIDTH = 200

app = typer.Typer(
    name="evoimage",
    help="Show what EvoLink's images cost, the credits left, and the generations of the account; try a key.",
    epilog="The account: --conn-id, else EVOLINK_API_KEY (EVOLINK_BASE_URL), else the Airflow connection "
    "evoimage_default. Exit codes: 0 done, 1 EvoLink or a storage refused, 2 wrong use, 3 not finished yet.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ConnId = Annotated[
    str | None,
    typer.Option(
        "--conn-id", envvar="EVOIMAGE_CONN_ID", help="Airflow connection to use.", show_default=False
    ),
]
TaskId = Annotated[str, typer.Argument(metavar="ID", help="EvoLink task id.", show_default=False)]


Destination_ = Annotated[
    str, typer.Argument(metavar="DEST", help="Folder: a path, or a URL such as s3://conn@bucket/images.")
]


class ListedStatus(StrEnum):
    """States that EvoLink's list of generations can be narrowed to."""

    processing = "processing"
    completed = "completed"
    failed = "failed"
    cancelled = "cancelled"


class MarkOrKeep(StrEnum):
    """Whether to mark images as made by AI."""

    mark = "mark"
    keep = "keep"


class IfFileExists(StrEnum):
    """What to do if a file exists."""

    overwrite = "overwrite"
    skip = "skip"
    error = "error"


def _print(table: RenderableType | None, *lines: str, as_json: bool, data: Any) -> None:
    """Print a table and lines that must not wrap, or JSON."""
    if as_json:
        typer.echo(json.dumps(data, indent=2, ensure_ascii=False))
        return
    if table is not None:
        console = Console(highlight=False)
        if not console.is_terminal and "COLUMNS" not in os.environ:
            console.width = _PIPED_WIDTH
        console.print(table)
    for line in lines:
        typer.echo(line)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"evoimage {__version__}")
        raise typer.Exit


@app.callback()
def evoimage(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Show what EvoLink's images cost, the credits left, and the generations of the account; try a key."""
    del version


@app.command()
def estimate(
    *,
    model: Annotated[str, typer.Option("--model", "-m", help="Model id.")] = DEFAULT_MODEL,
    n: Annotated[int, typer.Option("--n", "-n", min=1, help="Images of one request.")] = 1,
    references: Annotated[int, typer.Option("--references", "-r", min=0, help="Reference images.")] = 0,
    size: Annotated[str | None, typer.Option(help="Only this size.", show_default=False)] = None,
    quality: Annotated[str | None, typer.Option(help="Only this quality.", show_default=False)] = None,
    resolution: Annotated[
        str | None, typer.Option(help="Only this tier: 1K, 2K, 4K.", show_default=False)
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="Add the price of this prompt.", show_default=False)
    ] = None,
    times: Annotated[int, typer.Option("--times", "-x", min=1, help="Price this many such requests.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Show what a request will cost, by quality and size. Needs no account."""
    wanted = EstimatedRequest(
        model=model.strip(),
        n=n,
        references=references,
        size=size,
        quality=quality,
        resolution=resolution,
        prompt=prompt,
        times=times,
    )
    cells = priced(wanted)
    data = {
        "model": wanted.model,
        "n": n,
        "references": references,
        "times": times,
        "estimates": [cell.to_json() for cell in cells],
    }
    _print(tables.estimates_table(wanted, cells), as_json=as_json, data=data)


@app.command()
def sizes(
    *,
    model: Annotated[str, typer.Option("--model", "-m", help="Model id.")] = DEFAULT_MODEL,
    channels: Annotated[
        str | None, typer.Option("--for", help="Channels, with commas between.", show_default="all")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the size to request for each channel, what is lost, and the credits. Needs no account."""
    names = list(CHANNELS) if channels is None else channels.split(",")
    found = [sized(model.strip(), channel_named(name)) for name in names]
    data = [each.to_json() for each in found]
    _print(tables.sizes_table(model.strip(), found), as_json=as_json, data=data)


@app.command()
def prices(
    *,
    historical: Annotated[
        bool, typer.Option("--historical", help="The older list, before EvoLink charged by tokens.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List the prices behind the estimates, and their sources. Needs no account."""
    chosen = MULTIPLIERS if historical else PUBLISHED
    _print(tables.prices_table(chosen), as_json=as_json, data=tables.prices_json(chosen))


@app.command(name="credits")
def credits_(*, conn_id: ConnId = None, as_json: AsJson = False) -> None:
    """Show how many credits the account and the API key have left. Costs nothing."""
    hook = CommandHook(conn_id)
    try:
        balance = hook.get_credits()
    finally:
        hook.close()
    _print(tables.credits_table(balance), as_json=as_json, data=tables.credits_json(balance))


@app.command(name="list")
def list_(
    *,
    hours: Annotated[float, typer.Option(min=0.01, help="How far back.")] = 24.0,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many at most.")] = 200,
    status: Annotated[ListedStatus | None, typer.Option(help="Only these.", show_default=False)] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Only this model.", show_default=False)
    ] = None,
    conn_id: ConnId = None,
    as_json: AsJson = False,
) -> None:
    """List the account's generations and what they were charged, newest first. Costs nothing."""
    found = recent(
        conn_id, hours=hours, limit=limit, status=None if status is None else status.value, model=model
    )
    _print(
        tables.generations_table(found),
        as_json=as_json,
        data=[tables.generation_json(generation) for generation in found],
    )


@app.command()
def generate(
    *,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What to draw.", show_default=False)],
    destination: Destination_,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Model id.", show_default="of the connection"),
    ] = None,
    size: Annotated[str | None, typer.Option(help="Size of the image.", show_default=False)] = None,
    quality: Annotated[str | None, typer.Option(help="Quality of the image.", show_default=False)] = None,
    n: Annotated[int, typer.Option("--n", "-n", min=1, help="How many images.")] = 1,
    max_credits: Annotated[
        float | None, typer.Option(min=0, help="Refuse a request that may cost more.", show_default=False)
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Pay for new images of the same request.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before paying.")] = False,
    timeout: Annotated[float, typer.Option(min=1, help="Longest wait, in seconds.")] = 1800.0,
    conn_id: ConnId = None,
    as_json: AsJson = False,
) -> None:
    """Generate one image and save it: to try a key or a prompt. This costs credits.

    The same command run again within about 24 hours pays nothing: it saves the same image. --again pays for another.
    """
    folder = _folder(destination)
    limit = None if max_credits is None else Decimal(str(max_credits))
    request, price = requested(
        conn_id, prompt=prompt, model=model, size=size, quality=quality, n=n, max_credits=limit
    )
    console = Console(stderr=True, highlight=False)
    for warning in request.warnings:
        console.print(warning, style="yellow", markup=False)
    if not yes:
        _ask_before_paying(str(price or "no price is known for this model"))
    generation = submitted(conn_id, request, destination=folder, again=again)
    task = generation.evolink_task_id
    # At once, so that it is known whatever happens from here on.
    typer.echo(f"EvoLink task {task} is {generation.status}.", err=True)
    generation = finished(conn_id, task, timeout=timeout, console=console)
    manifest = save(
        conn_id,
        generation,
        destination=folder,
        names=DEFAULT_NAMES,
        if_exists=IfFileExists.overwrite.value,
        provenance=MarkOrKeep.mark.value,
        alt_text=None,
        console=console,
    )
    _print(None, *tables.saved_lines(manifest["images"]), as_json=as_json, data=manifest)


def _ask_before_paying(price: str) -> None:
    if not sys.stdin.isatty():
        raise InvalidRequestError(f"This costs credits (estimated: {price}): confirm it with --yes.")
    typer.confirm(f"Estimated cost: {price}. Submit it?", abort=True, err=True)


def _folder(destination: str) -> str:
    if not destination.strip():
        raise InvalidRequestError("DEST is blank: name a folder, '.' for the current one.")
    return destination if "://" in destination else str(Path(destination).expanduser().absolute())


@app.command()
def show(*, evolink_task_id: TaskId, conn_id: ConnId = None, as_json: AsJson = False) -> None:
    """Show one generation: status, images, charge, error."""
    hook = CommandHook(conn_id)
    try:
        generation = hook.get_generation(evolink_task_id.strip())
    finally:
        hook.close()
    _print(
        tables.generation_table(generation, now=time.time()),
        *generation.image_urls,
        as_json=as_json,
        data=tables.generation_json(generation),
    )


@app.command(name="save")
def save_(
    *,
    evolink_task_id: TaskId,
    destination: Destination_,
    names: Annotated[
        str, typer.Option("--names", help="Template of the names below DEST.", show_default="by id and index")
    ] = DEFAULT_NAMES,
    if_exists: Annotated[
        IfFileExists, typer.Option(help="What to do if a file exists.")
    ] = IfFileExists.error,
    provenance_: Annotated[
        MarkOrKeep, typer.Option("--provenance", help="Mark the files as made by AI, or keep their bytes.")
    ] = MarkOrKeep.mark,
    alt_text: Annotated[
        str | None, typer.Option(help="The image in words, for the mark.", show_default=False)
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it is finished.")] = False,
    timeout: Annotated[float, typer.Option(min=1, help="Longest wait, in seconds.")] = 1800.0,
    conn_id: ConnId = None,
    as_json: AsJson = False,
) -> None:
    """Save the images of a generation, with its manifest beside them. Costs nothing."""
    folder = _folder(destination)
    task, console = evolink_task_id.strip(), Console(stderr=True, highlight=False)
    generation = finished(conn_id, task, timeout=timeout if wait else None, console=console)
    manifest = save(
        conn_id,
        generation,
        destination=folder,
        names=names,
        if_exists=if_exists.value,
        provenance=provenance_.value,
        alt_text=alt_text_of(alt_text),
        console=console,
    )
    _print(None, *tables.saved_lines(manifest["images"]), as_json=as_json, data=manifest)


@app.command(name="reindex")
def reindex_(
    *,
    destination: Annotated[
        str, typer.Argument(metavar="DEST", help="Folder: a path, or a URL such as s3://conn@bucket/images.")
    ],
    as_json: AsJson = False,
) -> None:
    """Write the index of a folder's images again, from their manifests, so that `reuse` finds them."""
    found = reindex(_folder(destination))
    _print(None, *found.lines, as_json=as_json, data=found.to_json())


@app.command()
def provenance(
    *,
    paths: Annotated[
        list[str],
        typer.Argument(metavar="PATH…", help="Image files: paths, or URLs such as s3://conn@bucket/mug.png."),
    ],
    as_json: AsJson = False,
) -> None:
    """Show what image files say of their origin. Exit code 1 if any of them says nothing."""
    found = statements(paths)
    _print(None, *statements_lines(found), as_json=as_json, data=statements_json(found))
    if not all(statement.says_anything for _, statement in found):
        raise typer.Exit(1)
