"""The gateway form: POST /visualize, GET /visualize/{id}, and the pictures that it answers by URL."""

import asyncio
import random
from typing import Any

import orjson

from .calls import Call
from .delivery import Reply, deliver, html_page
from .exchange import BodyTooLarge, ClientLeft, Exchange
from .facts import IMAGE_TOKENS, tokens_of
from .faults import GATEWAY, REFUSAL, Asked, UnknownFault, job_key, read_directives
from .gateway_jobs import Job, digest_of, usage_of
from .gateway_request import GatewayError, Order, invalid, read_body, understand
from .gemini_answer import encoded, spoiled, spoiled_order
from .gemini_request import seed_of
from .limits import limit_of
from .pictures import PictureOrder, UnreadableInput
from .state import Simulator

_POLL_FAULTS = ("poll-lost", "poll-503", "poll-forever")
_EXTENSIONS = {"image/png": "png", "image/jpeg": "jpg"}


def _limited(message: str, after_ms: int | None) -> GatewayError:
    return GatewayError(429, "rate_limited", message, True, after_ms)


_PLAIN_REFUSALS: dict[str, tuple[int, str, str, bool]] = {
    "400": (400, "invalid_request", "the request is not valid", False),
    "bad-key": (401, "unauthenticated", "the key is not valid", False),
    "402": (402, "insufficient_credit", "no credit is left", False),
    "403": (403, "unauthenticated", "the key may not do this", False),
    "404": (404, "invalid_request", "there is no such model", False),
    "blocked-422": (422, "content_blocked", "the prompt was blocked", False),
    "429": (429, "rate_limited", "too many requests", True),
    "429-perday": (429, "rate_limited", "the daily quota is used up", True),
    "499": (499, "internal", "the request was cancelled", True),
    "500": (500, "internal", "internal error", True),
    "503": (503, "overloaded", "the model is overloaded", True),
    "504": (504, "internal", "the model took too long", True),
}


def refusal(fault: Asked) -> GatewayError:
    """The error answer of a REFUSAL fault."""
    match fault.name:
        case "429-retryinfo":
            return _limited("too many requests", round(fault.number() * 1000))
        case "429-spend":
            return _limited("the spend-based limit is reached", 600_000)
    return GatewayError(*_PLAIN_REFUSALS[fault.name])


async def visualize(sim: Simulator, exchange: Exchange) -> None:
    """`POST /visualize`."""
    call = sim.begin(GATEWAY, exchange)
    try:
        await _answer(sim, exchange, call)
    except GatewayError as error:
        if call.outcome == "answered":
            call.outcome = f"refused:{error.status}"
        await exchange.answer_json(error.status, error.body())
    except BodyTooLarge:
        call.outcome = "refused:413"
        await exchange.answer_json(
            413, invalid("the request body is too large").body(), {"connection": "close"}
        )
    except ClientLeft:
        call.outcome = "client_left"
    finally:
        exchange.close()
        call.finish()


async def _answer(sim: Simulator, exchange: Exchange, call: Call) -> None:
    raw = await exchange.body()
    _check_key(exchange)
    body = read_body(raw)
    call.model = str(body.get("model"))
    sim.remember(exchange, call, body)
    order = understand(body, sim.settings)
    call.model = order.model.id
    key = exchange.headers.get("idempotency-key")
    job = sim.gateway_jobs.replay(key, digest_of(raw))
    if job is not None:
        sim.board.replayed += 1
        call.outcome = "replayed"
        poll = exchange.headers.get("x-sim-gateway") == "poll" or sim.settings.gateway_mode == "poll"
        await _hand_over(exchange, job, poll, None)
        return
    try:
        directives = read_directives(order.prompt, exchange.headers.get("x-sim-fault"))
    except UnknownFault as error:
        raise invalid(str(error)) from None
    _check_limits(sim, call)
    counted_by = job_key(call.job, order.prompt)
    fault = sim.faults.pick(GATEWAY, directives.faults, sim.settings.fault_rates, counted_by)
    if fault is not None:
        call.outcome = f"fault:{fault.name}"
        if fault.fault.stage == REFUSAL:
            await exchange.wait(directives.latency or 0)
            await _refuse(exchange, fault)
            return
    call.bill()
    seconds = sim.seconds(order.model, order.size, directives)
    job = Job(order, fault, seconds, digest_of(raw))
    sim.gateway_jobs.add(job, key)
    sim.limiter.enter(order.model.id, None)
    job.task = asyncio.create_task(_work(sim, job, directives.prompt))
    mode = directives.gateway_mode or exchange.headers.get("x-sim-gateway") or sim.settings.gateway_mode
    await _hand_over(
        exchange, job, mode == "poll" or (fault is not None and fault.name in _POLL_FAULTS), fault
    )


def _check_key(exchange: Exchange) -> None:
    scheme, _, key = exchange.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip() or key.strip().startswith("invalid"):
        raise GatewayError(401, "unauthenticated", "the key is missing or not valid")


def _check_limits(sim: Simulator, call: Call) -> None:
    settings = sim.settings
    delay = sim.limiter.delay(call.model, limit_of(settings.rpm, call.model), settings.rate_window)
    if delay is None and sim.limiter.full(call.model, limit_of(settings.concurrency, call.model)):
        delay = 1.0
    if delay is not None:
        call.outcome = "rate_limited"
        raise _limited("too many requests", round(delay * 1000))


async def _refuse(exchange: Exchange, fault: Asked) -> None:
    if fault.name == "502-html":
        await deliver(exchange, html_page(502, "502 Bad Gateway"), None)
    else:
        raise refusal(fault)


async def _work(sim: Simulator, job: Job, prompt: str) -> None:
    """Wait, paint, and leave the outcome in the job. It goes on when the client leaves, as a real gateway does."""
    name = job.fault.name if job.fault else ""
    try:
        await asyncio.sleep(job.seconds)
        if name == "safety":
            job.status, job.error = "blocked", GatewayError(200, "content_blocked", "the picture was blocked")
        elif name == "no-image":
            job.status, job.error = "failed", GatewayError(200, "internal", "the model made no picture")
        else:
            wanted = spoiled_order(_picture_order(sim, job.order, prompt), name)
            job.pictures = [] if name == "no-candidates" else [spoiled(await sim.paint(wanted), name)]
            job.status = "succeeded"
    except UnreadableInput as error:
        job.status, job.error = "failed", invalid(f"an input image is not readable: {error}")
    except Exception:
        job.status, job.error = "failed", GatewayError(500, "internal", "internal error", True)
        raise
    finally:
        sim.limiter.leave(job.order.model.id)
        sim.gateway_jobs.done(job)


def _picture_order(sim: Simulator, order: Order, prompt: str) -> PictureOrder:
    seed = order.seed if order.seed is not None else sim.rng.getrandbits(31)
    return PictureOrder(
        prompt=prompt,
        seed=random.Random(seed_of(prompt, seed)).getrandbits(31),
        ratio=order.ratio,
        size=order.size,
        media_type=order.media_type,
        label=f"{order.model.id} · {order.ratio or 'auto'} · {order.size} · Plantain simulator",
        inputs=order.inputs,
        light=sim.settings.picture_weight == "light",
    )


async def _hand_over(exchange: Exchange, job: Job, poll: bool, fault: Asked | None) -> None:
    """202 at once, or 200 when the work is done."""
    if poll and (job.task is None or not job.task.done() or job.polls == 0):
        await deliver(exchange, Reply(202, orjson.dumps(_waiting(job))), fault)
        return
    if fault is not None and fault.name == "stall":
        await deliver(exchange, Reply(200, b""), fault)
        return
    if job.task is not None:
        await exchange.wait_for(job.task)
    if job.error is not None and job.error.status >= 400:
        raise job.error
    await deliver(exchange, Reply(200, orjson.dumps(_final(exchange, job))), fault)


def _waiting(job: Job) -> dict[str, Any]:
    status = "queued" if job.polls == 0 else "running"
    return {"id": job.id, "status": status, "poll_after_ms": job.poll_after_ms()}


def _final(exchange: Exchange, job: Job) -> dict[str, Any]:
    name = job.fault.name if job.fault else ""
    order = job.order
    body: dict[str, Any] = {
        "id": job.id,
        "status": job.status,
        "model": job.fault.argument if job.fault and name == "silent-reroute" else order.model.id,
        "images": [_image(exchange, job, number, name) for number in range(len(job.pictures))],
    }
    if job.error is not None:
        body |= job.error.body()
    if name != "no-usage":
        tokens_in = tokens_of(order.prompt) + len(order.inputs) * order.model.input_image_tokens
        body["usage"] = usage_of(job, tokens_in, IMAGE_TOKENS[order.size] * len(job.pictures))
    return body


def _image(exchange: Exchange, job: Job, number: int, fault: str) -> dict[str, Any]:
    picture = job.pictures[number]
    url = None
    if fault == "private-url" and job.fault:
        url = job.fault.argument
    elif job.order.by_url:
        prefix = exchange.path.partition("/visualize")[0]
        host = exchange.headers.get("host", "127.0.0.1")
        url = f"http://{host}{prefix}/visualize-files/{job.id}/{number}.{_EXTENSIONS[picture.media_type]}"
    return {
        "b64": None if url else encoded(picture, fault),
        "url": url,
        "mime_type": picture.media_type,
        "width": picture.width,
        "height": picture.height,
    }


async def poll(sim: Simulator, exchange: Exchange) -> None:
    """`GET /visualize/{id}`: 200 in every state."""
    sim.board.polls += 1
    try:
        _check_key(exchange)
        job = _job(sim, exchange)
        job.polls += 1
        name = job.fault.name if job.fault else ""
        if name == "poll-lost":
            raise invalid("there is no such job", 404)
        if name == "poll-503" and job.polls == 1:
            raise refusal(Asked("503", ""))
    except GatewayError as error:
        await exchange.answer_json(error.status, error.body())
        return
    status = job.progress()
    if name == "poll-forever" or status in ("queued", "running"):
        waiting = {"id": job.id, "status": "running" if name == "poll-forever" else status}
        await exchange.answer_json(200, {**waiting, "poll_after_ms": job.poll_after_ms()})
    else:
        await exchange.answer_json(200, _final(exchange, job))


def _job(sim: Simulator, exchange: Exchange) -> Job:
    try:
        return sim.gateway_jobs[exchange.scope["path_params"]["id"]]
    except KeyError:
        raise invalid("there is no such job", 404) from None


async def file(sim: Simulator, exchange: Exchange) -> None:
    """A picture by its URL, for whoever has it. A key that comes along is counted: it should not."""
    if "authorization" in exchange.headers:
        sim.board.keys_forwarded += 1
    try:
        number = int(exchange.scope["path_params"]["name"].partition(".")[0])
        picture = _job(sim, exchange).pictures[number]
    except (GatewayError, ValueError, IndexError):
        await exchange.answer_json(404, invalid("there is no such picture", 404).body())
        return
    await exchange.answer(200, picture.data, picture.media_type)
