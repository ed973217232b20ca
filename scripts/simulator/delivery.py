"""Sending an answer, and all the ways in which an answer fails to arrive."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from .exchange import JSON, Exchange
from .faults import BODY, DELIVERY, Asked

_HTML = "text/html; charset=utf-8"
_HTML_PAGE = b"<!DOCTYPE html><html><head><title>%s</title></head><body><h1>%s</h1></body></html>\n"
_PIECE_SECONDS = 0.05
#: Long enough for what was written to leave before a reset throws the rest away.
_FLUSH_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer."""

    status: int
    body: bytes
    media_type: str = JSON
    headers: dict[str, str] = field(default_factory=dict)


def html_page(status: int, title: str) -> Reply:
    """A proxy's error page."""
    return Reply(status, _HTML_PAGE % (title.encode(), title.encode()), _HTML)


def body_fault(name: str, body: bytes) -> Reply:
    """The answer of a BODY fault in place of the right body."""
    match name:
        case "empty-200":
            return Reply(200, b"")
        case "empty-object":
            return Reply(200, b"{}")
        case "malformed-json":
            return Reply(200, body[: max(1, min(len(body) // 2, 4096))])
        case "html-200":
            return html_page(200, "Welcome to the hotel network")
    raise ValueError(name)


async def deliver(exchange: Exchange, reply: Reply, fault: Asked | None) -> None:
    """Send a whole answer, as far as the fault lets it. Raises ClientLeft."""
    if fault is not None and fault.fault.stage == BODY:
        reply, fault = body_fault(fault.name, reply.body), None
    if fault is None or fault.fault.stage != DELIVERY:
        await exchange.answer(reply.status, reply.body, reply.media_type, reply.headers)
        return
    half = len(reply.body) // 2
    match fault.name:
        case "drip":
            parts = _dripping(exchange, reply.body, fault.number())
            await exchange.answer_parts(reply.status, parts, reply.media_type, len(reply.body))
            return
        case "reset-midbody" | "close-midbody" | "stall-midbody":
            await exchange.start(reply.status, reply.media_type, len(reply.body))
            await exchange.write(reply.body[:half])
    await break_off(exchange, fault)


async def deliver_stream(
    exchange: Exchange, parts: list[bytes], media_type: str, pause: float, fault: Asked | None
) -> None:
    """Send a stream of parts with a pause in seconds between them. Raises ClientLeft."""
    if fault is not None and fault.fault.stage == BODY:
        reply = body_fault(fault.name, parts[0])
        await exchange.answer(reply.status, reply.body, reply.media_type)
        return
    broken = fault is not None and fault.fault.stage == DELIVERY and fault.name != "drip"
    if fault is not None and fault.name == "drip":
        pause = fault.number() / len(parts)
    if broken and fault is not None:
        if fault.name in ("reset-midbody", "close-midbody", "stall-midbody"):
            await exchange.start(200, media_type, None)
            for part in _first_half(parts):
                await exchange.write(part)
        await break_off(exchange, fault)
        return
    await exchange.answer_parts(200, _paused(exchange, parts, pause), media_type)


def _first_half(parts: list[bytes]) -> list[bytes]:
    """Half of the parts, or half of a lone one."""
    return parts[: len(parts) // 2] or [parts[0][: len(parts[0]) // 2]]


async def break_off(exchange: Exchange, fault: Asked) -> None:
    """End the connection as the fault says. Raises ClientLeft when the client is quicker."""
    if fault.name.startswith("stall"):
        await exchange.wait(fault.number())
    elif exchange.started:
        await exchange.wait(_FLUSH_SECONDS)
    exchange.drop(reset=fault.name != "close-midbody")


async def _dripping(exchange: Exchange, body: bytes, seconds: float) -> AsyncIterator[bytes]:
    pieces = max(2, min(len(body), int(seconds / _PIECE_SECONDS), 400))
    step = -(-len(body) // pieces)
    for at in range(0, len(body), step):
        await exchange.wait(seconds / pieces)
        yield body[at : at + step]


async def _paused(exchange: Exchange, parts: list[bytes], pause: float) -> AsyncIterator[bytes]:
    for number, part in enumerate(parts):
        if number:
            await exchange.wait(pause)
        yield part
