"""A DAG that listens to an asset, and not to its partitions; example_dags/each_product.py sends its events."""

from __future__ import annotations

from airflow.sdk import DAG, Asset, task

with DAG(dag_id="on_any_product", schedule=[Asset("evoimage_product_images")]):

    @task
    def never_runs() -> None:
        raise AssertionError("events with partitions must not start this DAG")

    never_runs()
