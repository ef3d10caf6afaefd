"""What a DAG file loads by importing our operators and sensor."""

from __future__ import annotations

import runpy
from pathlib import Path

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "import_cost.py"


def test_dag_file_loads_nothing_heavy():
    cost = runpy.run_path(str(BENCHMARK))["measure"]()

    print(f"\n{len(cost.added)} modules added over airflow.sdk, {cost.milliseconds:.0f} ms")
    assert cost.heavy == []
    assert {name.partition(".")[0] for name in cost.added} <= {
        "airflow_provider_evoimage",
        "airflow",
        # Of the standard provider's operator that asks people, which approvals extend.
        "asgiref",
        "pydantic",
    }
    # Everything else is imported where a task runs.
    own = [name for name in cost.added if name.startswith("airflow_provider_evoimage.")]
    assert not [
        name for name in own if name.split(".")[1] in {"client", "evolink", "hooks", "triggers", "waiting"}
    ]
