"""Many requests in one Airflow task: reads, submits and records each of them."""
