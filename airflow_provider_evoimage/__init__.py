"""Apache Airflow provider for EvoLink's image API."""

__version__ = "0.1.0"
