"""A real Airflow on this machine, for the demo, `make ui` and the system tests."""
