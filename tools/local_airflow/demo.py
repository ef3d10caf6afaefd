"""The quick start without an account: a real Airflow, a simulated EvoLink, real files.

`python -m tools.local_airflow.demo` runs the example DAG `evoimage_quick_start`, shows what
happens, and ends with a table of the images that were saved and what they would have cost.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
from PIL import Image, UnidentifiedImageError
from rich.console import Console
from rich.table import Table

from tools.local_airflow.airflow import LocalAirflow
from tools.local_airflow.client import Json
from tools.local_airflow.evolink import running_simulator, simulator_connection
from tools.local_airflow.processes import LocalAirflowError, Terminated

DAG_ID, DAG_FILE = "evoimage_quick_start", "quick_start.py"
LEAST_IMAGES = 4
RUN_SECONDS = 300
# EvoLink's price list: 1 USD buys 68 credits.
CREDITS_PER_USD = 68
LOG_LINES = 25

SHOWN_STATES = {
    "queued": "queued",
    "running": "running",
    "deferred": "deferred: EvoLink is working, no worker held",
    "success": "[green]success[/]",
    "failed": "[red]failed[/]",
    "up_for_retry": "[yellow]waits for its next try[/]",
    "upstream_failed": "[red]not run: a task before it failed[/]",
    "skipped": "skipped",
}


@dataclass(frozen=True)
class SavedImage:
    """One file the run has saved, as its manifest says and as the file is.

    :param path: where it is.
    :param requested: the `size` of the request: `1024x1024`, `16:9`, `auto`, or empty if unknown.
    :param real: width and height read from the file; None if it is missing or no image.
    :param size: bytes of the file.
    """

    path: Path
    requested: str
    real: tuple[int, int] | None
    size: int

    @property
    def is_as_asked(self) -> bool:
        """Whether the file is an image of the asked size; a size left to the model is always right."""
        if self.real is None:
            return False
        numbers = re.fullmatch(r"(\d+)([x:])(\d+)", self.requested)
        if numbers is None:
            return True
        width, height = int(numbers[1]), int(numbers[3])
        if numbers[2] == "x":
            return self.real == (width, height)
        # Models round a ratio to a multiple of 16 pixels.
        return abs(self.real[0] / self.real[1] - width / height) < 0.02 * width / height


class Demo:
    """One demonstration: starts what is needed, runs the DAG, shows what came of it.

    :param dags: the folder with the example DAGs.
    :param out: images go below this folder.
    :param speed: how many times faster than EvoLink the simulator works.
    """

    def __init__(self, *, dags: Path, out: Path, speed: float, home: Path, console: Console) -> None:
        self.dags = dags.resolve()
        self.out = out.resolve()
        self.speed = speed
        self.home = home
        self.console = console
        self.start = time.monotonic()

    def run(self) -> bool:
        """Return whether the run succeeded and its images match the request."""
        self.out.mkdir(parents=True, exist_ok=True)
        with running_simulator(self.home, "--speed", str(self.speed)) as url:
            self.say(f"A simulated EvoLink answers on {url}; nothing here costs anything.")
            self.say("Airflow starts, which takes about 20 s …")
            # The other examples would be read first, and make the start longer.
            dags = self.home / "dags"
            dags.mkdir()
            shutil.copy(self.dags / DAG_FILE, dags)
            with LocalAirflow(self.home, dags=dags, connections=simulator_connection(url)) as airflow:
                self.say(f"Airflow is up on {airflow.url} (no log-in).")
                return self._run_dag(airflow)

    def say(self, text: str) -> None:
        """Print a line with the seconds since the start."""
        self.console.print(f"[dim]{time.monotonic() - self.start:6.1f} s[/]  {text}")

    def _run_dag(self, airflow: LocalAirflow) -> bool:
        run_id = airflow.run(DAG_ID, {"save_to": f"file://{self.out}"})
        self.say(f"The DAG {DAG_ID} runs.")
        try:
            state = airflow.wait_for_run(DAG_ID, run_id, deadline=RUN_SECONDS, on_change=self._show_change)
        except TimeoutError as late:
            state = str(late)
        if state != "success":
            self._show_failures(airflow, run_id, state)
            return False
        manifests = read_manifests(airflow, DAG_ID, run_id)
        images = [image for manifest in manifests for image in saved_images(manifest)]
        self._show_images(images)
        self._show_cost(credits_charged(manifests))
        return self._judge(images)

    def _show_change(self, task_instance: Json) -> None:
        state = SHOWN_STATES.get(task_instance["state"] or "")
        if state:
            self.say(f"{_label(task_instance):<24} {state}")

    def _show_failures(self, airflow: LocalAirflow, run_id: str, state: str) -> None:
        self.say(f"[red]The run did not succeed: {state}[/]")
        for each in airflow.task_instances(DAG_ID, run_id):
            if each["state"] in {None, "success", "upstream_failed", "skipped"}:
                continue
            self.console.print(f"\n[bold]{_label(each)}[/] ({each['state']}), the last lines of its log:")
            lines = airflow.task_log(
                DAG_ID,
                run_id,
                each["task_id"],
                try_number=each["try_number"],
                map_index=each["map_index"],
            )
            told = [line for line in lines if not line.startswith("::")]
            self.console.print("\n".join(told[-LOG_LINES:]), markup=False, highlight=False)

    def _show_images(self, images: Sequence[SavedImage]) -> None:
        folder = Path(os.path.commonpath([image.path.parent for image in images])) if images else Path()
        table = Table()
        table.add_column("File", overflow="fold")
        for name in ("Asked", "Pixels", "Bytes"):
            table.add_column(name, justify="right", no_wrap=True)
        for image in images:
            pixels = f"{image.real[0]}x{image.real[1]}" if image.real else "no image"
            colour = "green" if image.is_as_asked else "red"
            table.add_row(
                str(image.path.relative_to(folder)),
                image.requested,
                f"[{colour}]{pixels}[/]",
                f"{image.size:,}",
            )
        self.console.print(f"\nSaved in {_short(folder)}", soft_wrap=True)
        self.console.print(table)

    def _show_cost(self, credits_used: float) -> None:
        self.console.print(
            f"With a real account this would have cost {credits_used:.2f} credits, "
            f"that is {credits_used / CREDITS_PER_USD:.3f} USD ({CREDITS_PER_USD} credits = 1 USD)."
        )

    def _judge(self, images: Sequence[SavedImage]) -> bool:
        good = sum(image.is_as_asked for image in images)
        if good == len(images) and good >= LEAST_IMAGES:
            return True
        self.console.print(
            f"[red]{good} of {len(images)} saved files are images of the asked size; "
            f"at least {LEAST_IMAGES} were expected, and all of them right.[/]"
        )
        return False


def read_manifests(airflow: LocalAirflow, dag_id: str, run_id: str) -> list[Json]:
    """Return the manifests that the run's successful tasks have pushed as their XCom, in task order."""
    found: list[Json] = []
    for each in airflow.task_instances(dag_id, run_id):
        if each["state"] != "success":
            continue
        # A task may return nothing; then there is no XCom.
        with contextlib.suppress(LocalAirflowError):
            value = airflow.xcom(dag_id, run_id, each["task_id"], map_index=each["map_index"])
            values = value if isinstance(value, list) else [value]
            found += [one for one in values if isinstance(one, dict) and "images" in one]
    return found


def saved_images(manifest: Json) -> list[SavedImage]:
    """Return the images of a manifest that were saved; one that only has links gives none."""
    requested = str((manifest.get("request") or {}).get("size") or "")
    paths = [Path(image["path"].removeprefix("file://")) for image in manifest["images"] if image.get("path")]
    return [
        SavedImage(path=path, requested=requested, real=real_size(path), size=_bytes(path))
        for path in sorted(paths)
    ]


def credits_charged(manifests: Sequence[Json]) -> float:
    """Return the credits of all generations; one that several tasks hand on counts once."""
    by_generation = {
        manifest.get("evolink_task_id"): float((manifest.get("usage") or {}).get("charged") or 0)
        for manifest in manifests
    }
    return sum(by_generation.values())


def real_size(path: Path) -> tuple[int, int] | None:
    """Return width and height of an image file whose every pixel can be read, else None."""
    try:
        with Image.open(path) as image:
            image.load()
            return image.size
    except (OSError, UnidentifiedImageError):
        return None


def _bytes(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _label(task_instance: Json) -> str:
    suffix = f" #{task_instance['map_index']}" if task_instance["map_index"] >= 0 else ""
    return f"{task_instance['task_id']}{suffix}"


def _short(path: Path) -> str:
    with contextlib.suppress(ValueError):
        return str(path.relative_to(Path.cwd()))
    return str(path)


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.local_airflow.demo", description=__doc__)
    parser.add_argument("--dags", type=Path, default=Path("example_dags"), help="folder of the example DAGs")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder the images are saved in")
    parser.add_argument("--keep", action="store_true", help="keep Airflow's folder with all its logs")
    parser.add_argument("--speed", type=float, default=20, help="times faster than EvoLink (default 20)")
    chosen = parser.parse_args(arguments)
    if not (chosen.dags / DAG_FILE).is_file():
        parser.error(f"there is no {chosen.dags / DAG_FILE}; start in the project's folder, or give --dags")
    return chosen


def _attempt(run: Callable[[], bool], console: Console) -> int:
    try:
        return 0 if run() else 1
    except (LocalAirflowError, TimeoutError, httpx.HTTPError) as error:
        console.print(f"[red]{type(error).__name__}[/]")
        console.print(str(error), markup=False, highlight=False)
        return 1
    except Terminated as stopped:
        return 128 + stopped.number
    except KeyboardInterrupt:
        console.print("Stopped; no process is left.")
        return 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demonstration; returns the exit code."""
    chosen = _arguments(arguments)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    home = Path(tempfile.mkdtemp(prefix="evoimage-demo-"))
    demo = Demo(dags=chosen.dags, out=chosen.out, speed=chosen.speed, home=home, console=console)
    exit_code = _attempt(demo.run, console)
    if chosen.keep or exit_code == 1:
        console.print(f"Airflow's folder with all logs: {home}")
    else:
        shutil.rmtree(home, ignore_errors=True)
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
