"""What renditions cost beside the loop that a user would write: time and memory, both in one run.

    python -P -m benchmarks.renditions [--images 200] [--distinct 20] [--rounds 1] [--parallel 2]

Originals are PNG files of 1024×1536 that look like photographs to a compressor. Each is cut for three channels, first
without a limit of bytes that matters, then with at most 300 kB each. The loop opens each image once with Pillow, cuts
with ``ImageOps.fit`` and saves with the same quality and, for the limit, with the halving search that most people
write. It keeps no mark, checks nothing, and a kill leaves half a file. Each measurement is a fresh process, which makes
one image first, so that importing is not measured. The processor's time says more while the machine does other work.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import io
import json
import logging
import os
import platform
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

SIZE = (1024, 1536)
CUTS = {"story": (1080, 1920), "square": (1080, 1080), "portrait": (960, 1200)}
LIMIT_KB = 300
BEST, LEAST = 92, 40


def make_originals(folder: Path, images: int, distinct: int) -> None:
    """Write the originals; those beyond the distinct ones are links to them."""
    from PIL import Image

    for number in range(images):
        path = folder / f"{number:04}.png"
        if number >= distinct:
            path.hardlink_to(folder / f"{number % distinct:04}.png")
            continue
        coarse = Image.frombytes("RGB", (64, 96), random.Random(number).randbytes(64 * 96 * 3))
        grain = Image.effect_noise(SIZE, 14)
        smooth = coarse.resize(SIZE, Image.Resampling.BICUBIC)
        Image.blend(smooth, Image.merge("RGB", [grain] * 3), 0.15).save(path)


# What is measured, each in a fresh process


def loop(paths: Sequence[Path], folder: Path, *, is_limited: bool, parallel: int) -> None:
    """Do what a user would write."""
    del parallel
    from PIL import Image, ImageOps

    folder.mkdir(parents=True, exist_ok=True)
    for path in paths:
        with Image.open(path) as image:
            for name, size in CUTS.items():
                cut = ImageOps.fit(image, size, Image.Resampling.LANCZOS)
                target = folder / f"{path.stem}-{name}.jpg"
                if not is_limited:
                    cut.save(target, quality=BEST, subsampling=0)
                    continue
                target.write_bytes(_small_enough(cut))


def _small_enough(image: Any) -> bytes:
    low, high, found = LEAST, BEST, b""
    while low <= high:
        middle = (low + high) // 2
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=middle, subsampling=0)
        if buffer.tell() <= LIMIT_KB * 1000:
            found, low = buffer.getvalue(), middle + 1
        else:
            high = middle - 1
    if not found:
        raise ValueError("no quality is small enough")
    return found


def provider(paths: Sequence[Path], folder: Path, *, is_limited: bool, parallel: int) -> None:
    """Do it by what the operator runs: complete files, marks, hashes, records and sidecars."""
    from airflow_provider_evoimage.images.channels import Rendition
    from airflow_provider_evoimage.renditions.run import RenditionsRun
    from airflow_provider_evoimage.storage.destination import Destination
    from airflow_provider_evoimage.storage.file_names import FileNames

    logging.getLogger("benchmark").setLevel(logging.WARNING)
    RenditionsRun(
        destination=Destination(f"file://{folder}"),
        names=FileNames("{item}-{index}.{ext}"),
        channels=[
            Rendition(name, width=size[0], height=size[1], max_kb=LIMIT_KB if is_limited else None)
            for name, size in CUTS.items()
        ],
        fit="cover",
        focus="center",
        upscale="allow",
        background=None,
        made_by={"dag_id": "benchmark", "run_id": "run", "task_id": "cut", "map_index": -1},
        log=logging.getLogger("benchmark"),  # type: ignore[arg-type]
        parallel=parallel,
        may_follow_a_kill=False,
    ).render([_manifest(path) for path in paths])


@functools.cache
def _manifest(path: Path) -> dict[str, Any]:
    return {
        "evolink_task_id": f"task-{path.stem}",
        "model": "gpt-image-1.5",
        "images": [
            {
                "index": 0,
                "path": f"file://{path}",
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                "width": SIZE[0],
                "height": SIZE[1],
            }
        ],
    }


WAYS: dict[str, Callable[..., None]] = {"loop": loop, "provider": provider}


def measure(arguments: argparse.Namespace) -> None:
    """Make one image, then all; print time, processor time and the memory that making all has added."""
    paths = sorted(Path(arguments.originals).glob("*.png"))
    way, named = (
        WAYS[arguments.way],
        {"is_limited": arguments.limited, "parallel": arguments.parallel},
    )
    with tempfile.TemporaryDirectory(prefix="evoimage-benchmark-", dir=arguments.originals) as path:
        folder = Path(path)
        way(paths[:1], folder / "first", **named)
        # What earlier tasks hand over is there already.
        for each in paths:
            _manifest(each)
        began, busy = time.perf_counter(), time.process_time()
        way(paths, folder / "all", **named)
        found = {
            "seconds": time.perf_counter() - began,
            "processor": time.process_time() - busy,
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "files": len(list((folder / "all").rglob("*.jpg"))),
        }
    if found["files"] != len(paths) * len(CUTS):
        raise RuntimeError(f"{arguments.way} made {found['files']} files")
    print(json.dumps(found), flush=True)


# The run


def main() -> None:
    """Measure each way, several times in turn, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--distinct", type=int, default=20, help="the others are links to these")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--parallel", type=int, default=2)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--limited", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--originals", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        measure(arguments)
        return
    results: dict[tuple[str, bool], list[dict[str, float]]] = {}
    folder = Path(tempfile.mkdtemp(prefix="evoimage-benchmark-"))
    try:
        make_originals(folder, arguments.images, arguments.distinct)
        for _ in range(arguments.rounds):
            for is_limited in (False, True):
                for way in WAYS:
                    result = _in_own_process(way, is_limited, folder, arguments.parallel)
                    results.setdefault((way, is_limited), []).append(result)
    finally:
        shutil.rmtree(folder)
    _print(results, arguments)


def _in_own_process(way: str, is_limited: bool, folder: Path, parallel: int) -> dict[str, float]:
    command = [sys.executable, "-P", "-m", "benchmarks.renditions", "--way", way]
    command += [
        "--originals",
        str(folder),
        "--parallel",
        str(parallel),
        *(["--limited"] if is_limited else []),
    ]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(f"{way}{', limited' if is_limited else ''}: {found}", file=sys.stderr, flush=True)
    return found


def _print(results: dict[tuple[str, bool], list[dict[str, float]]], arguments: argparse.Namespace) -> None:
    print(
        f"\n{arguments.images} images of {SIZE[0]}×{SIZE[1]} × {len(CUTS)} renditions, "
        f"{arguments.rounds} round(s), parallel={arguments.parallel}; {os.cpu_count()} processors, "
        f"load {os.getloadavg()[0]:.0f} at the end, Python {platform.python_version()}, Pillow {version('pillow')}\n"
    )
    print("| what | limit | seconds | seconds of the processor | peak memory, MB |")
    print("|---|---|---|---|---|")
    for (way, is_limited), rounds in results.items():
        median = {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}
        print(
            f"| {way} | {f'{LIMIT_KB} kB' if is_limited else 'none'} | {median['seconds']:.1f} | "
            f"{median['processor']:.1f} | {median['peak_mb']:.0f} |"
        )


if __name__ == "__main__":
    main()
