"""What the system tests' client of Airflow does with errors of the server."""

from collections.abc import Iterator

import httpx
import pytest

from tools.local_airflow.client import AirflowClient
from tools.local_airflow.processes import LocalAirflowError


def client_of(answers: Iterator[httpx.Response]) -> AirflowClient:
    client = AirflowClient("http://127.0.0.1:1")
    transport = httpx.MockTransport(lambda request: next(answers))
    client._http = httpx.Client(base_url=client.url, transport=transport)
    return client


def test_events_are_waited_for_while_a_run_that_they_started_is_queued(mocker):
    mocker.patch("time.sleep")
    queued = httpx.Response(500, text="Internal Server Error")
    listed = httpx.Response(200, json={"asset_events": [{"id": 1}]})

    assert client_of(iter([queued, queued, queued, listed])).asset_events(asset_id=2) == [{"id": 1}]
    with pytest.raises(LocalAirflowError, match="500 to GET /assets/events: Internal"):
        client_of(iter([queued])).asset_events(seconds=0)


def test_what_must_not_be_sent_twice_is_sent_once(mocker):
    mocker.patch("time.sleep")
    busy = httpx.Response(503, text="busy")
    with pytest.raises(LocalAirflowError, match="503 to POST /connections"):
        client_of(iter([busy])).request("POST", "/connections")
    # The first one had worked, although its answer was lost.
    assert client_of(iter([busy, httpx.Response(409)])).request("POST", "/dags", repeatable=True)
    with pytest.raises(LocalAirflowError, match="409"):
        client_of(iter([httpx.Response(409)])).request("POST", "/dags", repeatable=True)
