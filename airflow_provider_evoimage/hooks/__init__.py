"""Hooks: an Airflow connection turned into EvoLink clients."""
