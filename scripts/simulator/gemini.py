"""The Gemini REST form: generateContent, streamGenerateContent, and the list of models."""

from typing import Any

import orjson

from . import errors
from .calls import Call
from .delivery import Reply, deliver, deliver_stream, html_page
from .errors import GoogleError, invalid_argument
from .exchange import JSON, BodyTooLarge, ClientLeft, Exchange
from .facts import REROUTED, Model
from .faults import GEMINI, GEMINI_STREAM, REFUSAL, Asked, UnknownFault, job_key, read_directives
from .gemini_answer import build, chunks
from .gemini_request import Order, understand
from .limits import limit_of
from .pictures import UnreadableInput
from .state import Simulator
from .wire import parse_request

#: The share of the latency that passes before a stream's first part.
_FIRST_PART = 0.4

_PLAIN_REFUSALS: dict[str, tuple[int, str, str]] = {
    "400": (400, "INVALID_ARGUMENT", "Request contains an invalid argument."),
    "402": (402, "FAILED_PRECONDITION", "Your prepayment credits are depleted. Please top up to continue."),
    "403": (403, "PERMISSION_DENIED", "The caller does not have permission"),
    "429": (429, "RESOURCE_EXHAUSTED", "Resource has been exhausted (e.g. check quota)."),
    "499": (499, "CANCELLED", "The operation was cancelled."),
    "500": (500, "INTERNAL", "An internal error has occurred. Please retry."),
    "503": (503, "UNAVAILABLE", "The model is overloaded. Please try again later."),
    "504": (504, "DEADLINE_EXCEEDED", "Deadline expired before operation could complete."),
}
_PER_MINUTE = "GenerateRequestsPerMinutePerProjectPerModel"
_PER_DAY = "GenerateRequestsPerDayPerProjectPerModel"
_CONCURRENT = "GenerateConcurrentRequestsPerProjectPerModel"


def refusal(model: str, fault: Asked) -> GoogleError:
    """The error answer of a REFUSAL fault."""
    match fault.name:
        case "429-retryinfo":
            return errors.rate_limited(model, fault.number(), _PER_MINUTE, "20")
        case "429-perday":
            return errors.rate_limited(model, None, _PER_DAY, "250")
        case "429-spend":
            return errors.spend_limited()
        case "bad-key":
            return errors.bad_key()
        case "404":
            return errors.model_not_found(model, "v1beta")
    return GoogleError(*_PLAIN_REFUSALS[fault.name])


async def generate(sim: Simulator, exchange: Exchange, version: str, model_id: str, stream: bool) -> None:
    """Answer a generateContent or streamGenerateContent call, whatever is in it."""
    call = sim.begin(GEMINI, exchange)
    call.model = model_id
    try:
        await _answer(sim, exchange, call, version, stream)
    except GoogleError as error:
        if call.outcome == "answered":
            call.outcome = f"refused:{error.code}"
        await exchange.answer_json(error.code, error.body())
    except BodyTooLarge:
        call.outcome = "refused:413"
        too_large = GoogleError(413, "INVALID_ARGUMENT", "Request body is too large.")
        await exchange.answer_json(413, too_large.body(), {"connection": "close"})
    except ClientLeft:
        call.outcome = "client_left"
    finally:
        exchange.close()
        call.finish()


async def _answer(sim: Simulator, exchange: Exchange, call: Call, version: str, stream: bool) -> None:
    raw = await exchange.body()
    check_key(exchange)
    model = served_model(sim, call.model, version)
    call.model = model.id
    body = _json(raw)
    sim.remember(exchange, call, body)
    order = understand(parse_request(body), model, len(raw))
    try:
        directives = read_directives(order.prompt, exchange.headers.get("x-sim-fault"))
    except UnknownFault as error:
        raise invalid_argument(str(error)) from None
    _check_rate(sim, call)
    limits = sim.settings.concurrency
    if not sim.limiter.enter(model.id, limit_of(limits, model.id)):
        call.outcome = "rate_limited"
        raise errors.rate_limited(model.id, 1.0, _CONCURRENT, str(limit_of(limits, model.id)))
    try:
        key = job_key(call.job, order.prompt)
        form = GEMINI_STREAM if stream else GEMINI
        fault = sim.faults.pick(form, directives.faults, sim.settings.fault_rates, key)
        if fault is not None:
            call.outcome = f"fault:{fault.name}"
        if fault is not None and fault.fault.stage == REFUSAL:
            await exchange.wait(directives.latency or 0)
            await _refuse(exchange, model.id, fault)
            return
        call.bill()
        seconds = sim.seconds(model, order.latency_size, directives)
        await _work(sim, exchange, order, directives.prompt, fault, seconds, stream)
    finally:
        sim.limiter.leave(model.id)


async def _work(
    sim: Simulator,
    exchange: Exchange,
    order: Order,
    prompt: str,
    fault: Asked | None,
    seconds: float,
    stream: bool,
) -> None:
    if fault is not None and fault.name == "stall":
        await deliver(exchange, Reply(200, b""), fault)
        return
    await exchange.wait(seconds * _FIRST_PART if stream else seconds)
    try:
        response = await build(sim, order, prompt, fault)
    except UnreadableInput:
        raise invalid_argument(
            "Unable to process input image. Please retry or report in the forum."
        ) from None
    exchange.check()  # the client may have gone while the picture was painted
    if not stream:
        await deliver(exchange, Reply(200, orjson.dumps(response)), fault)
        return
    messages = _spoiled(chunks(response), order.model.id, fault)
    sse = exchange.query.get("alt") == "sse"
    pause = seconds * (1 - _FIRST_PART) / len(messages)
    media_type = "text/event-stream" if sse else JSON
    await deliver_stream(exchange, _sse(messages) if sse else _array(messages), media_type, pause, fault)


def _spoiled(messages: list[dict[str, Any]], model: str, fault: Asked | None) -> list[dict[str, Any]]:
    """What a stream's own faults leave of its parts."""
    if fault is None or fault.name not in ("stream-error", "stream-unfinished"):
        return messages
    half = messages[: len(messages) // 2]
    if fault.name == "stream-unfinished":
        return half
    if fault.argument not in _PLAIN_REFUSALS:
        known = ", ".join(_PLAIN_REFUSALS)
        raise invalid_argument(f"simulator: stream-error takes one of {known}, not {fault.argument!r}")
    return [*half, refusal(model, Asked(fault.argument, "")).body()]


async def _refuse(exchange: Exchange, model: str, fault: Asked) -> None:
    if fault.name == "502-html":
        await deliver(exchange, html_page(502, "502 Bad Gateway"), None)
    else:
        error = refusal(model, fault)
        await exchange.answer_json(error.code, error.body())


def _check_rate(sim: Simulator, call: Call) -> None:
    limit = limit_of(sim.settings.rpm, call.model)
    delay = sim.limiter.delay(call.model, limit, sim.settings.rate_window)
    if limit is not None and delay is not None:
        call.outcome = "rate_limited"
        # A window shortened for a test still names its limit by the minute, as the quota's name says.
        per_minute = round(limit * 60 / sim.settings.rate_window)
        raise errors.rate_limited(call.model, delay, _PER_MINUTE, str(per_minute))


def check_key(exchange: Exchange) -> None:
    """Any key will do, but none and those beginning with "invalid". Raises GoogleError."""
    key = exchange.headers.get("x-goog-api-key") or exchange.query.get("key")
    if not key:
        raise errors.no_key()
    if key.startswith("invalid"):
        raise errors.bad_key()


def served_model(sim: Simulator, model_id: str, version: str) -> Model:
    """The model that answers for this id. Raises GoogleError (404)."""
    model = sim.settings.model(REROUTED.get(model_id, model_id))
    if model is None:
        raise errors.model_not_found(model_id, version)
    return model


def _json(raw: bytes) -> Any:
    try:
        return orjson.loads(raw) if raw else {}
    except orjson.JSONDecodeError as error:
        raise invalid_argument(f"Invalid JSON payload received. {error}") from None


def _sse(messages: list[dict[str, Any]]) -> list[bytes]:
    return [b"data: " + orjson.dumps(message) + b"\r\n\r\n" for message in messages]


def _array(messages: list[dict[str, Any]]) -> list[bytes]:
    parts = [(b",\r\n" if at else b"[") + orjson.dumps(message) for at, message in enumerate(messages)]
    return [*parts, b"]"]


# ---- models


async def list_models(sim: Simulator, exchange: Exchange) -> None:
    """`GET models`, in pages."""
    try:
        check_key(exchange)
        size = _page_number(exchange, "pageSize", 50)
        start = _page_number(exchange, "pageToken", 0)
    except GoogleError as error:
        await exchange.answer_json(error.code, error.body())
        return
    models = sim.settings.models()
    answer: dict[str, Any] = {"models": [describe(model) for model in models[start : start + size]]}
    if start + size < len(models):
        answer["nextPageToken"] = str(start + size)
    await exchange.answer_json(200, answer)


async def get_model(sim: Simulator, exchange: Exchange, version: str, model_id: str) -> None:
    """`GET models/{id}`."""
    try:
        check_key(exchange)
        model = served_model(sim, model_id, version)
    except GoogleError as error:
        await exchange.answer_json(error.code, error.body())
        return
    await exchange.answer_json(200, {**describe(model), "name": f"models/{model_id}"})


def describe(model: Model) -> dict[str, Any]:
    """A model resource."""
    return {
        "name": f"models/{model.id}",
        "version": model.id.rsplit("-", 1)[-1],
        "displayName": model.title,
        "description": f"{model.title}, as the simulator imitates it",
        "inputTokenLimit": model.input_token_limit,
        "outputTokenLimit": model.output_token_limit,
        "supportedGenerationMethods": ["generateContent"],
        "temperature": 1,
        "topP": 0.95,
        "topK": 64,
        "maxTemperature": 2,
        "thinking": model.thinks,
    }


def _page_number(exchange: Exchange, name: str, default: int) -> int:
    given = exchange.query.get(name) or exchange.query.get(
        "page_size" if name == "pageSize" else "page_token"
    )
    if not given:
        return default
    if not given.isdigit():
        raise invalid_argument(f"Invalid value at '{name}': {given}")
    return int(given) or default
