"""The control endpoint: what EvoLink does not have, and a test needs."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from airflow_provider_evoimage.simulator.service.accounts import DEFAULT_ACCOUNT, Caller, key_hash
from airflow_provider_evoimage.simulator.service.errors import Refusal
from airflow_provider_evoimage.simulator.service.faults import read_fault, read_script
from airflow_provider_evoimage.simulator.service.generations import Generation
from airflow_provider_evoimage.simulator.service.orders import read_order
from airflow_provider_evoimage.simulator.service.settings import number
from airflow_provider_evoimage.simulator.service.state import SimulatorState

CONTROL_PATH = "/_simulator"

Endpoint = Callable[[Request], Awaitable[Response]]


def control_routes(state: SimulatorState) -> list[Route]:
    """Return the routes below `/_simulator`."""
    control = Control(state)
    return [
        Route(f"{CONTROL_PATH}/callbacks", control.callbacks, methods=["GET"]),
        Route(f"{CONTROL_PATH}/counters", control.counters, methods=["GET"]),
        Route(f"{CONTROL_PATH}/faults", control.clear_faults, methods=["DELETE"]),
        Route(f"{CONTROL_PATH}/faults", _plain_errors(control.post_fault), methods=["POST"]),
        Route(f"{CONTROL_PATH}/generations", control.generations, methods=["GET"]),
        Route(f"{CONTROL_PATH}/generations", _plain_errors(control.make_elsewhere), methods=["POST"]),
        Route(
            f"{CONTROL_PATH}/generations/{{task_id}}",
            _plain_errors(control.change_generation),
            methods=["POST"],
        ),
        Route(f"{CONTROL_PATH}/reset", control.reset, methods=["POST"]),
        Route(f"{CONTROL_PATH}/settings", control.settings, methods=["GET"]),
        Route(f"{CONTROL_PATH}/settings", _plain_errors(control.configure), methods=["POST"]),
    ]


def _plain_errors(endpoint: Endpoint) -> Endpoint:
    """Answer a ValueError with status 400 and its text."""

    async def answered(request: Request) -> Response:
        try:
            return await endpoint(request)
        except ValueError as error:
            return JSONResponse({"error": str(error)}, 400)

    return answered


async def _object(request: Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.body() or b"{}")
    except RecursionError:
        raise ValueError("the body is nested too deeply") from None
    if isinstance(body, dict):
        return body
    raise ValueError("the body must be a JSON object")


class Control:
    """The control endpoints over one state."""

    def __init__(self, state: SimulatorState) -> None:
        self.state = state

    async def callbacks(self, request: Request) -> Response:
        """`GET /_simulator/callbacks`."""
        del request
        self.state.settle()
        return JSONResponse({"data": [each.as_json() for each in self.state.callbacks.deliveries]})

    async def counters(self, request: Request) -> Response:
        """`GET /_simulator/counters`."""
        del request
        self.state.settle()
        return JSONResponse(self.state.counters.as_json())

    async def post_fault(self, request: Request) -> Response:
        """`POST /_simulator/faults`."""
        route, fault = read_fault(await _object(request))
        self.state.faults.post(route, fault)
        return JSONResponse({"route": route} | asdict(fault))

    async def clear_faults(self, request: Request) -> Response:
        """`DELETE /_simulator/faults`."""
        del request
        self.state.faults.clear()
        return JSONResponse({})

    async def generations(self, request: Request) -> Response:
        """`GET /_simulator/generations`."""
        del request
        self.state.settle()
        return JSONResponse({"data": [self._summary(each) for each in self.state.generations.values()]})

    async def make_elsewhere(self, request: Request) -> Response:
        """`POST /_simulator/generations`: the body of a submission, as made on the website some time ago.

        Besides the fields of a submission: `age`, seconds since it was accepted (0), and `account`.
        """
        body = {"model": "gpt-image-1.5", "quality": "low"} | await _object(request)
        age, account = number(body.pop("age", 0)), body.pop("account", DEFAULT_ACCOUNT)
        if not isinstance(account, str) or not account:
            raise ValueError("account must be a text")
        try:
            order = read_order(body)
            caller = Caller(account, key_hash(f"the website for {account}"))
            generation = self.state.accept(caller, order, read_script(order.prompt), None, age=age)
        except Refusal as refusal:
            raise ValueError(refusal.message or refusal.code) from None
        return JSONResponse(self._summary(generation))

    async def change_generation(self, request: Request) -> Response:
        """`POST /_simulator/generations/{task_id}`: end it, or set its duration."""
        body = await _object(request)
        task_id = request.path_params["task_id"]
        if "duration" in body:
            generation = self.state.set_duration(task_id, number(body["duration"]))
        else:
            generation = self.state.end(task_id, str(body.get("end")), body.get("code"))
        return JSONResponse(self._summary(generation))

    async def reset(self, request: Request) -> Response:
        """`POST /_simulator/reset`."""
        del request
        self.state.reset()
        return JSONResponse({})

    async def settings(self, request: Request) -> Response:
        """`GET /_simulator/settings`."""
        del request
        clock = {"now": self.state.clock.now(), "frozen": self.state.clock.frozen}
        return JSONResponse(asdict(self.state.settings) | {"clock": clock})

    async def configure(self, request: Request) -> Response:
        """`POST /_simulator/settings`."""
        self.state.configure(await _object(request))
        return await self.settings(request)

    def _summary(self, generation: Generation) -> dict[str, Any]:
        order = generation.order
        now = self.state.clock.now()
        return {
            "id": generation.id,
            "account": generation.caller.account,
            "key": generation.caller.key,
            "idempotency_key": generation.idempotency_key,
            "replays": generation.replays,
            "status": generation.status(now),
            "progress": generation.progress(now),
            "model": order.model,
            "prompt": order.prompt,
            "size": order.size,
            "quality": order.quality,
            "n": order.images,
            "references": order.references,
            "callback_url": order.callback_url,
            "created": generation.accepted_at,
            "ends_at": None if generation.ends_as is None else generation.accepted_at + generation.duration,
            "credits_reserved": float(generation.reserved),
            "credits_charged": float(generation.charge.credits),
            "links": self.state.links(generation),
        }
