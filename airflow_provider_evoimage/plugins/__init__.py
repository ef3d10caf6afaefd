"""Pages in the Airflow UI: the images of a task, of a DAG run, and of all DAGs."""
