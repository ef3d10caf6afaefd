"""A local EvoLink over real HTTP, for demos, DAG development and tests.

`python -m airflow_provider_evoimage.simulator --help` tells how to start it; `SimulatorServer` runs it inside
a test. It reads the service's documents for itself: nothing here imports Airflow or the rest of the provider.
"""

from airflow_provider_evoimage.simulator.http.server import SimulatorServer

__all__ = ["SimulatorServer"]
