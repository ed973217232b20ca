"""The running simulator: settings, counters, limits, the last requests, and the threads that paint."""

import asyncio
import hashlib
import random
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from . import latency
from .calls import Call, CallBoard
from .exchange import Exchange
from .facts import Model
from .faults import Directives, FaultPicker
from .gateway_jobs import Jobs
from .limits import Limiter
from .pictures import Picture, PictureOrder, paint
from .settings import Settings

MAX_LAST_REQUESTS = 500
MAX_SHOWN_TEXT = 20_000
_SECRET_HEADERS = ("x-goog-api-key", "authorization", "cookie", "proxy-authorization")


class Simulator:
    """Everything that outlives one request."""

    def __init__(self, settings: Settings, seed: int | None = None, painters: int = 2) -> None:
        self.settings = settings
        self.rng = random.Random(seed)
        self.board = CallBoard()
        self.limiter = Limiter()
        self.faults = FaultPicker(self.rng)
        self.gateway_jobs = Jobs()
        self.last_requests: OrderedDict[str, dict[str, Any]] = OrderedDict()
        # Pillow and zlib let the interpreter go while they work, so threads are enough.
        self._painters = ThreadPoolExecutor(painters, thread_name_prefix="painter")

    def begin(self, form: str, exchange: Exchange) -> Call:
        """Count a call by the id that the request carries."""
        headers = exchange.headers
        return self.board.begin(form, headers.get("x-request-id") or headers.get("idempotency-key"))

    def seconds(self, model: Model, size: str, directives: Directives) -> float:
        """How long this call takes: exactly what the prompt asks for, else drawn and scaled."""
        if directives.latency is not None:
            return directives.latency
        scale = self.settings.latency_scale
        return latency.draw(model.latency_of(size), self.rng) * scale if scale else 0.0

    async def paint(self, order: PictureOrder) -> Picture:
        """Paint off the event loop. Raises UnreadableInput."""
        return await asyncio.get_running_loop().run_in_executor(self._painters, paint, order)

    def remember(self, exchange: Exchange, call: Call, body: Any) -> None:
        """Keep what came over the wire, without keys and without image data."""
        key = call.job or ""
        self.last_requests.pop(key, None)
        self.last_requests[key] = self.last_requests["*"] = {
            "method": exchange.method,
            "path": exchange.path,
            "query": {name: _shown_query(name, value) for name, value in exchange.query.items()},
            "headers": {name: shown_header(name, value) for name, value in exchange.headers.items()},
            "body": without_data(body),
        }
        if len(self.last_requests) > MAX_LAST_REQUESTS:
            oldest = next(name for name in self.last_requests if name != "*")
            del self.last_requests[oldest]

    def reset(self) -> None:
        """Forget what was counted and kept of past calls. Settings stay, and so does the gateway's finished work."""
        self.board.reset()
        self.faults.reset()
        self.limiter.reset()
        self.last_requests.clear()

    def close(self) -> None:
        """Let the painting threads go."""
        self._painters.shutdown(wait=False, cancel_futures=True)


def fingerprint(secret: str) -> str:
    """A key as twelve hexadecimal digits that say nothing but "the same" or "another"."""
    return "sha256:" + hashlib.sha256(secret.encode()).hexdigest()[:12]


def shown_header(name: str, value: str) -> str:
    """A header's value, a secret one as its fingerprint."""
    if name not in _SECRET_HEADERS:
        return value
    scheme, _, token = value.rpartition(" ")
    return f"{scheme} {fingerprint(token)}".strip()


def _shown_query(name: str, value: str) -> str:
    return fingerprint(value) if name in ("key", "access_token") else value


def without_data(value: Any) -> Any:
    """JSON with every base64 `data` replaced by its length, and very long texts cut."""
    if isinstance(value, dict):
        return {
            name: f"<{len(member)} characters of base64>"
            if name == "data" and isinstance(member, str)
            else without_data(member)
            for name, member in value.items()
        }
    if isinstance(value, list):
        return [without_data(member) for member in value]
    if isinstance(value, str) and len(value) > MAX_SHOWN_TEXT:
        return value[:MAX_SHOWN_TEXT] + " …"
    return value
