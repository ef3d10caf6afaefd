"""Each example DAG says in the Airflow UI what it is for."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from airflow.sdk.definitions._internal.contextmanager import DagContext

from airflow_provider_evoimage.triggers.finished import IS_SUPPORTED

EXAMPLES = sorted((Path(__file__).parents[2] / "example_dags").glob("*.py"))


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_example_has_description_docs_and_tags(file: Path):
    DagContext.autoregistered_dags.clear()
    DagContext.current_autoregister_module_name = __name__
    try:
        runpy.run_path(str(file), run_name="example")
        found = [dag for dag, _ in DagContext.autoregistered_dags]
    finally:
        DagContext.current_autoregister_module_name = None
        DagContext.autoregistered_dags.clear()
    # Two examples need Airflow 3.3.
    assert found or (file.stem in {"each_product", "on_finished_generations"} and not IS_SUPPORTED)
    for dag in found:
        assert {"evoimage", "example"} <= set(dag.tags)
        assert 20 <= len(dag.description or "") <= 80
        assert dag.doc_md
        assert dag.doc_md.strip().endswith(".")
        # The wheel brings them along: with [core] load_examples none may start by itself and spend credits.
        assert dag.is_paused_upon_creation or not dag.schedule
