"""The control endpoints under /sim: counters, configuration, the last request, health."""

import orjson

from .exchange import BodyTooLarge, ClientLeft, Exchange
from .settings import BadSetting
from .state import Simulator


async def health(_: Simulator, exchange: Exchange) -> None:
    """`GET /sim/health`."""
    await exchange.answer_json(200, {"status": "ok", "simulated": True})


async def calls(sim: Simulator, exchange: Exchange) -> None:
    """`GET` and `DELETE /sim/calls`; `?job=` lists one job only, `?by_job=0` leaves the jobs out."""
    if exchange.method == "DELETE":
        sim.reset()
        await exchange.answer_json(200, {"reset": True})
        return
    query = exchange.query
    snapshot = sim.board.snapshot(query.get("job"), with_jobs=query.get("by_job") != "0")
    await exchange.answer_json(200, snapshot)


async def config(sim: Simulator, exchange: Exchange) -> None:
    """`GET` and `PUT /sim/config`: a PUT names only what it changes."""
    if exchange.method == "PUT":
        try:
            sim.settings.update(orjson.loads(await exchange.body() or b"null"))
        except ClientLeft:
            return
        except (BadSetting, BodyTooLarge, orjson.JSONDecodeError) as error:
            await exchange.answer_json(400, {"error": str(error) or "the body is too large"})
            return
    await exchange.answer_json(200, sim.settings.as_json())


async def last_request(sim: Simulator, exchange: Exchange) -> None:
    """`GET /sim/last-request?job=`: the job's latest request, without `job` the latest of all."""
    found = sim.last_requests.get(exchange.query.get("job", "*"))
    if found is None:
        await exchange.answer_json(404, {"error": "no such request is remembered"})
    else:
        await exchange.answer_json(200, found)
