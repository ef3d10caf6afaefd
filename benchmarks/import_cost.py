"""What importing a provider's operators costs a DAG file, over `import airflow.sdk`, in fresh processes.

    python benchmarks/import_cost.py [ROUNDS]

Prints the modules that ours add (and that none of the heavy ones is among them) and the milliseconds, median of
rounds; `make bench` measures the peers likewise.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from dataclasses import dataclass

# What a DAG file must not load: image reading, servers, the plugin, the simulator.
HEAVY = (
    "PIL",
    "starlette",
    "uvicorn",
    "fastapi",
    "airflow_provider_evoimage.simulator",
    "airflow_provider_evoimage.plugins",
)

# What a DAG file imports to wait for a job, by provider.
IMPORTS = {
    "evoimage": """
from airflow_provider_evoimage.operators.approval import EvoImageApprovalOperator
from airflow_provider_evoimage.operators.batch import EvoImageBatchOperator
from airflow_provider_evoimage.operators.generate import EvoImageGenerateOperator
from airflow_provider_evoimage.operators.renditions import EvoImageRenditionsOperator
from airflow_provider_evoimage.operators.save import EvoImageSaveOperator
from airflow_provider_evoimage.sensors.generation import EvoImageGenerationSensor
""",
    "evoimage, no approval and no renditions": """
from airflow_provider_evoimage.operators.batch import EvoImageBatchOperator
from airflow_provider_evoimage.operators.generate import EvoImageGenerateOperator
from airflow_provider_evoimage.operators.save import EvoImageSaveOperator
from airflow_provider_evoimage.sensors.generation import EvoImageGenerationSensor
""",
    "Airflow's HITLOperator": "from airflow.providers.standard.operators.hitl import HITLOperator",
    "http": """
from airflow.providers.http.operators.http import HttpOperator
from airflow.providers.http.sensors.http import HttpSensor
""",
    "dbt-cloud": """
from airflow.providers.dbt.cloud.operators.dbt import DbtCloudRunJobOperator
from airflow.providers.dbt.cloud.sensors.dbt import DbtCloudJobRunSensor
""",
    "common-ai": "from airflow.providers.common.ai.operators.llm_batch import LLMBatchOperator",
    "openai": "from airflow.providers.openai.operators.openai import OpenAITriggerBatchOperator",
    "airbyte": """
from airflow.providers.airbyte.operators.airbyte import AirbyteTriggerSyncOperator
from airflow.providers.airbyte.sensors.airbyte import AirbyteJobSensor
""",
}

_IN_A_FRESH_PROCESS = """
import gc, json, sys, time
import airflow.sdk
# Airflow's names are lazy; every DAG file uses these.
from airflow.sdk import DAG, BaseOperator, BaseSensorOperator, BaseHook, ObjectStoragePath, task
before = set(sys.modules)
# Else the time is mostly that of collecting Airflow's own objects, whenever a collection happens to fall due.
gc.collect()
gc.freeze()
started = time.perf_counter()
{imports}
milliseconds = (time.perf_counter() - started) * 1000
print(json.dumps([milliseconds, sorted(set(sys.modules) - before)]))
"""


@dataclass(frozen=True)
class ImportCost:
    """One measurement: milliseconds, and the modules that were not there before."""

    milliseconds: float
    added: tuple[str, ...]

    @property
    def heavy(self) -> list[str]:
        """Modules among the added ones that a DAG file must not load."""
        return [
            name for name in self.added if any(name == top or name.startswith(f"{top}.") for top in HEAVY)
        ]


def measure(provider: str = "evoimage") -> ImportCost:
    """Import in a fresh process."""
    program = _IN_A_FRESH_PROCESS.replace("{imports}", IMPORTS[provider].strip())
    finished = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    milliseconds, added = json.loads(finished.stdout.splitlines()[-1])
    return ImportCost(milliseconds, tuple(added))


def main() -> None:
    """Measure, and print the table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    costs = [measure() for _ in range(rounds)]
    added = costs[0].added
    own = [name for name in added if name.startswith("airflow_provider_evoimage")]
    others = sorted({name.partition(".")[0] for name in added} - {"airflow_provider_evoimage"})
    times = [cost.milliseconds for cost in costs]
    print(
        f"modules added    {len(added)}, {len(own)} of them of this provider; others of: {', '.join(others)}"
    )
    print(f"heavy among them {', '.join(costs[0].heavy) or 'none'}")
    print(
        f"milliseconds     {statistics.median(times):.1f} (median of {rounds}: {min(times):.1f} to {max(times):.1f})"
    )


if __name__ == "__main__":
    main()
