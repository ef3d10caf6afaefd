"""Many requests in one Airflow task: reading them, submitting them, and the record of how far each has come."""
