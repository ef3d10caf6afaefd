"""One generation of one Airflow task, from its request to its manifest."""
