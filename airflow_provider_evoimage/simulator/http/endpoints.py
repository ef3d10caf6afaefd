"""The API's endpoints: reads requests, asks the state, and lets go wrong what shall."""

import hashlib
import json
from typing import Any

import anyio
import anyio.to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from airflow_provider_evoimage.simulator.documents.catalog import MODELS, catalog_entry, rules_for
from airflow_provider_evoimage.simulator.http.answers import CutConnection
from airflow_provider_evoimage.simulator.http.bodies import read_json
from airflow_provider_evoimage.simulator.http.misbehaviour import CREDITS_PATH, Misbehaviour, refuses
from airflow_provider_evoimage.simulator.service.accounts import Caller
from airflow_provider_evoimage.simulator.service.errors import Refusal
from airflow_provider_evoimage.simulator.service.faults import Fault, read_script
from airflow_provider_evoimage.simulator.service.generations import Generation
from airflow_provider_evoimage.simulator.service.hosting import own_content
from airflow_provider_evoimage.simulator.service.listing import read_filter
from airflow_provider_evoimage.simulator.service.orders import Order, read_order
from airflow_provider_evoimage.simulator.service.references import Inspected, inspect
from airflow_provider_evoimage.simulator.service.state import MAX_BATCH, SimulatorState


class Endpoints:
    """The endpoints below `/v1` over one state.

    :param working: how many threads may read and draw pictures.
    """

    def __init__(
        self, state: SimulatorState, misbehaviour: Misbehaviour, working: anyio.CapacityLimiter
    ) -> None:
        self.state = state
        self.misbehaviour = misbehaviour
        self._working = working

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("/v1/images/generations", self.submit, methods=["POST"]),
            Route("/v1/tasks", self.tasks, methods=["GET"]),
            Route("/v1/tasks/batch", self.batch, methods=["POST"]),
            Route("/v1/tasks/{task_id}", self.task, methods=["GET"]),
            Route(CREDITS_PATH, self.credits, methods=["GET"]),
            Route("/v1/models", self.models, methods=["GET"]),
            Route("/v1/catalog/models", self.catalog, methods=["GET"]),
            Route("/v1/catalog/health", self.health, methods=["GET"]),
        ]

    # Submissions

    async def submit(self, request: Request) -> Response:
        """`POST /v1/images/generations`."""
        state = self.state
        state.counters.submissions += 1
        fault = state.faults.draw("submit")
        if fault is not None and refuses(fault):
            return await self.misbehaviour.happen(fault, request) or CutConnection()
        caller = self._caller(request)
        state.counters.per_key[caller.key]["submissions"] += 1
        body = await read_json(request)
        order = read_order(body, loopback_callbacks=state.settings.loopback_callbacks)
        script = read_script(order.prompt)
        fault = fault or state.next_submit_fault(order, script)
        if fault is not None and refuses(fault):
            return await self.misbehaviour.happen(fault, request) or CutConnection()
        key = state.idempotency_key(request.headers.get("idempotency-key"))
        digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        earlier = state.recall(caller, key, digest)
        if earlier is not None:
            return await self._submitted(earlier, fault, request, {"idempotency-replayed": "true"})
        with state.undecided(caller, key, digest) as remembered:
            held = fault is None or fault.after or await self.misbehaviour.hold(fault.seconds)
            if not held:
                return CutConnection()
            inspected = await self._inspected(order)
            remembered.generation = state.accept(caller, order, script, key, inspected=inspected)
        return await self._submitted(remembered.generation, fault, request, {})

    async def _inspected(self, order: Order) -> Inspected:
        if not order.image_urls:
            return Inspected()
        rules = rules_for(order.model).references
        return await anyio.to_thread.run_sync(
            lambda: inspect(
                order.image_urls, order.mask_url, lambda url: own_content(self.state, url), rules
            ),
            limiter=self._working,
        )

    async def _submitted(
        self, generation: Generation, fault: Fault | None, request: Request, headers: dict[str, str]
    ) -> Response:
        if fault is not None and fault.after:
            answer = await self.misbehaviour.happen(fault, request)
            if answer is not None:
                return answer
        return JSONResponse(self.state.describe(generation, submitted=True), headers=headers)

    # Reads

    async def task(self, request: Request) -> Response:
        """`GET /v1/tasks/{task_id}`."""
        answer = await self._fault_on("task", request)
        if answer is not None:
            return answer
        caller = self._caller(request)
        self.state.counters.read("task", caller.key, ids=1)
        return JSONResponse(self.state.task(caller, request.path_params["task_id"]))

    async def tasks(self, request: Request) -> Response:
        """`GET /v1/tasks`."""
        answer = await self._fault_on("list", request)
        if answer is not None:
            return answer
        caller = self._caller(request)
        self.state.counters.read("list", caller.key)
        wanted = read_filter(request.query_params)
        return JSONResponse(wanted.page_of(self.state.of(caller), self.state.clock.now()))

    async def batch(self, request: Request) -> Response:
        """`POST /v1/tasks/batch`."""
        answer = await self._fault_on("batch", request)
        if answer is not None:
            return answer
        if not self.state.settings.batch:
            raise Refusal(404)
        caller = self._caller(request)
        task_ids = _task_ids(await read_json(request))
        self.state.counters.read("batch", caller.key, ids=len(task_ids))
        return JSONResponse({"data": self.state.batch(caller, task_ids)})

    async def credits(self, request: Request) -> Response:
        """`GET /v1/credits`."""
        answer = await self._fault_on("credits", request)
        if answer is not None:
            return answer
        caller = self._caller(request)
        self.state.counters.read("credits", caller.key)
        return JSONResponse(self.state.credits(caller))

    async def models(self, request: Request) -> Response:
        """`GET /v1/models`."""
        answer = await self._fault_on("models", request)
        if answer is not None:
            return answer
        caller = self._caller(request)
        self.state.counters.read("models", caller.key)
        listed = [{"id": model, "object": "model", "owned_by": "evolink"} for model in MODELS]
        return JSONResponse({"object": "list", "data": listed})

    async def catalog(self, request: Request) -> Response:
        """`GET /v1/catalog/models`: public."""
        answer = await self._fault_on("catalog", request)
        if answer is not None:
            return answer
        return JSONResponse({"models": [catalog_entry(model) for model in MODELS]})

    async def health(self, request: Request) -> Response:
        """`GET /v1/catalog/health`: public."""
        answer = await self._fault_on("catalog", request)
        if answer is not None:
            return answer
        unavailable = self.state.settings.unavailable_models
        statuses = [
            {"model_id": model, "status": "unavailable" if model in unavailable else "available"}
            for model in MODELS
        ]
        return JSONResponse({"models": statuses})

    async def _fault_on(self, route: str, request: Request) -> Response | None:
        self.state.counters.reads[route] += 1
        return await self.misbehaviour.on(route, request)

    def _caller(self, request: Request) -> Caller:
        caller = self.state.keys.caller(request.headers.get("authorization"))
        self.state.check_rate(caller)
        return caller


def _task_ids(body: Any) -> list[str]:
    task_ids = body.get("task_ids") if isinstance(body, dict) else None
    if not isinstance(task_ids, list) or not all(isinstance(task_id, str) for task_id in task_ids):
        raise Refusal(400, "task_ids must be an array of strings.", param="task_ids")
    if not 1 <= len(task_ids) <= MAX_BATCH:
        message = f"task_ids must hold 1 to {MAX_BATCH} ids."
        raise Refusal(400, message, code="invalid_parameters", param="task_ids")
    return task_ids
