"""Renditions of saved images for channels, in one Airflow task."""
