"""One simulator over real HTTP for all of these tests, with its clock stopped, and a customer who uses it."""

import io
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from PIL import Image

from airflow_provider_evoimage.simulator import SimulatorServer
from airflow_provider_evoimage.simulator.service.state import SimulatorState

API_KEY = "sk-evo-test-key"
LONG_ENOUGH = 3600.0


class Customer:
    """Talks to a simulator as a program would, and moves its clock."""

    def __init__(self, server: SimulatorServer) -> None:
        self.url = server.url
        self.state: SimulatorState = server.state
        self.http = httpx.Client(
            base_url=server.url,
            headers={"authorization": f"Bearer {API_KEY}"},
            timeout=10,
            trust_env=False,
        )
        self.files = httpx.Client(headers={"user-agent": "evoimage-tests/1"}, timeout=10, trust_env=False)

    def submit(
        self, prompt: str = "a red fox", *, key: str | None = None, timeout: float = 10, **fields: Any
    ) -> httpx.Response:
        body = {"model": "gpt-image-1.5", "quality": "low", "prompt": prompt} | fields
        headers = {} if key is None else {"idempotency-key": key}
        return self.http.post("/v1/images/generations", json=body, headers=headers, timeout=timeout)

    def task(self, task_id: str) -> dict[str, Any]:
        answer = self.http.get(f"/v1/tasks/{task_id}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def finished(self, prompt: str = "a red fox", **fields: Any) -> dict[str, Any]:
        """Submit, let enough time pass, and read the task."""
        answer = self.submit(prompt, **fields)
        assert answer.status_code == 200, answer.text
        self.pass_time()
        return self.task(answer.json()["id"])

    def pass_time(self, seconds: float = LONG_ENOUGH) -> None:
        self.state.clock.advance(seconds)

    def image(self, link: str) -> Image.Image:
        answer = self.files.get(link)
        assert answer.status_code == 200, answer.text
        return Image.open(io.BytesIO(answer.content))

    def control(self, method: str, path: str, **body: Any) -> Any:
        """Use the control endpoint as another process would."""
        answer = self.http.request(method, f"/_simulator/{path}", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    @property
    def counters(self) -> dict[str, Any]:
        return self.control("GET", "counters")

    def credits(self) -> dict[str, Any]:
        return self.http.get("/v1/credits").json()["data"]


@pytest.fixture(scope="session")
def server() -> Iterator[SimulatorServer]:
    with SimulatorServer() as server:
        yield server


@pytest.fixture(scope="session")
def _customer(server: SimulatorServer) -> Iterator[Customer]:
    customer = Customer(server)
    yield customer
    customer.http.close()
    customer.files.close()


@pytest.fixture
def customer(_customer: Customer, server: SimulatorServer) -> Customer:
    server.reset()
    _customer.state.clock.freeze()
    return _customer
