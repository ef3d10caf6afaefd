"""Many kills at random moments, by a seed: twenty mapped items, and nobody knows who is hit next."""

from __future__ import annotations

import contextlib
import random
import time
from collections import Counter
from collections.abc import Sequence

from tests.faults.fault_bench import Bench, Json, Row, Run
from tools.local_airflow.processes import LocalAirflowError, ManagedProcess

ITEMS = 20
IMAGES = 2
#: Where a worker can be hit. The fifth phase, waiting, is the triggerer's.
WORKER_PHASES = ("POST in flight", "recorded, not deferred", "resuming", "saving")
WAITING = "waiting"
FEWEST_A_PHASE = 5
LONGEST_SECONDS = 900.0


class SeededKills:
    """Kills until every phase has its share.

    :param kills: in all; a twelfth of them, at least five, hit the triggerer.
    """

    def __init__(self, bench: Bench, *, kills: int, seed: int) -> None:
        self.bench = bench
        self.chance = random.Random(seed)
        self.seed = seed
        triggerer = max(FEWEST_A_PHASE, kills // 12)
        share, more = divmod(max(kills - triggerer, 0), len(WORKER_PHASES))
        self.left = Counter({phase: share + (at < more) for at, phase in enumerate(WORKER_PHASES)})
        self.left[WAITING] = triggerer
        self.share = dict(self.left)
        self.hit: Counter[str] = Counter()
        self.lines: list[str] = []
        self._started = time.monotonic()
        self._coming_up: ManagedProcess | None = None

    def row(self) -> Row:
        bench = self.bench
        # Each phase is long enough to be hit.
        bench.fault("submit", "delay", seconds=1.5, after=True, probability=0.5)
        bench.fault("submit", "delay", seconds=1.5)
        bench.fault("task", "delay", seconds=1)
        bench.fault("download", "slow", seconds=2)
        bench.configure(duration=15)
        runs = 0
        while self._is_unfinished and time.monotonic() < self._started + LONGEST_SECONDS:
            prompts = [f"Poster {runs}/{item}" for item in range(ITEMS)]
            run = bench.start("fault_seeded", prompts, n=IMAGES, hold="1.5")
            runs += 1
            self._torment(run)
            bench.check(run.end(600) == "success", f"run {runs} failed")
        self._bring_triggerer_back()
        for phase in (*WORKER_PHASES, WAITING):
            fewest = min(FEWEST_A_PHASE, self.share[phase])
            bench.check(self.hit[phase] >= fewest, f"{phase} was hit only {self.hit[phase]} times")
        print("\n".join(self.lines))
        return bench.row(
            f"{sum(self.hit.values())} seeded kills (seed {self.seed})",
            paid=runs * ITEMS,
            files=runs * ITEMS * IMAGES,
            phase=", ".join(f"{phase} {self.hit[phase]}" for phase in (*WORKER_PHASES, WAITING)),
            remark=f"{ITEMS} mapped items × {IMAGES} images a run",
        )

    @property
    def _is_unfinished(self) -> bool:
        return any(count > 0 for count in self.left.values())

    def _torment(self, run: Run) -> None:
        deadline = self._started + LONGEST_SECONDS
        while self._is_unfinished and time.monotonic() < deadline:
            draws = run.draws()
            if draws and all(each["state"] == "success" for each in draws):
                return
            if self.bench.airflow.run_state(run.dag_id, run.run_id) in {"success", "failed"}:
                return
            self._kill_triggerer(draws)
            self._kill_worker(run, draws)
            time.sleep(self.chance.uniform(0.1, 0.6))  # The random moment.

    def _kill_worker(self, run: Run, draws: Sequence[Json]) -> None:
        running = [each for each in draws if each["state"] == "running"]
        phases = [(each, run.phase(each)) for each in running]
        wanted = [(each, phase) for each, phase in phases if self.left[phase] > 0]
        if not wanted:
            return
        most = max(self.left[phase] for _, phase in wanted)
        instance, phase = self.chance.choice([pair for pair in wanted if self.left[pair[1]] == most])
        only_runner = self.chance.random() < 0.7
        if run.phase(instance) != phase or not self.bench.kill(instance, only_runner=only_runner):
            return
        # What it said last, now that it cannot say more.
        self._note(
            run.phase(instance), f"{'runner' if only_runner else 'worker'} of item {instance['map_index']}"
        )

    def _kill_triggerer(self, draws: Sequence[Json]) -> None:
        waiting = [each["map_index"] for each in draws if each["state"] == "deferred"]
        if self._coming_up is not None:
            self._bring_triggerer_back(wait=False)
        elif self.left[WAITING] > 0 and len(waiting) >= 2 and self.chance.random() < 0.5:
            airflow = self.bench.airflow
            airflow.kill_component("triggerer")
            airflow.start_component("triggerer", wait=False)
            self._coming_up = airflow.components["triggerer"]
            self._note(WAITING, f"triggerer, with {len(waiting)} items waiting")

    def _bring_triggerer_back(self, *, wait: bool = True) -> None:
        """Forget the new triggerer once its first heartbeat is there: then it can be hit in its turn."""
        if self._coming_up is None:
            return
        if wait:
            self.bench.airflow.wait_until_healthy()
            self._coming_up = None
            return
        with contextlib.suppress(LocalAirflowError):
            if self.bench.airflow._is_healthy():
                self._coming_up = None

    def _note(self, phase: str, who: str) -> None:
        self.hit[phase] += 1
        self.left[phase] -= 1
        self.lines.append(f"{time.monotonic() - self._started:6.1f} s  {phase:24} {who}")
