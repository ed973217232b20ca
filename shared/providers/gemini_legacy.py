"""Gemini's text models through Google's old SDK, google-generativeai: GEMINI_SDK=google-generativeai.

Google ended its support on 2025-11-30; it stays for installations that cannot change yet, as an extra:
``pip install -r requirements/legacy-gemini.txt``. What it cannot do, against :mod:`shared.providers.gemini`:

- ``UNSUPPORTED`` names the parameters that it does not know; a request with one fails as invalid_request.
- It does not stream: a job with ``stream`` gets its text in one piece, at the end.
- It is synchronous, so each call holds a thread. The deadline is total all the same, but a call that
  passed it, or was cancelled, goes on in its thread until the provider answers or falls silent: nothing
  aborts it upstream.
- Its configuration is global: one such driver a process.

It is held to the same rules as the others: its retries (it repeats a 503 for ten minutes by default) are off, and
answers are read from the raw body, taken from the requests session beneath it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from shared.providers import wire
from shared.providers.base import (
    Call,
    Generation,
    PermanentError,
    ProviderError,
    RetryableError,
    TextRequest,
    UnknownOutcomeError,
)
from shared.providers.endpoints import Endpoint, UnconfiguredError
from shared.providers.transport import CONNECT_TIMEOUT, SIMULATED_HEADER, Exchange, guarded, offload

#: Parameters of a TextRequest that this SDK cannot express.
UNSUPPORTED = ("seed", "thinking_level", "response_schema")
_LOG = logging.getLogger(__name__)


class GeminiLegacyDriver:
    """Text generation over the old SDK's REST transport.

    Args:
        threads: how many calls can be under way at once.

    Raises:
        UnconfiguredError: the package is not installed.
    """

    streams = False

    def __init__(self, endpoint: Endpoint, *, threads: int) -> None:
        self._endpoint = endpoint
        self.provider = endpoint.provider("google")
        self._sdk = _load(endpoint)
        from google.generativeai.client import get_default_generative_client

        self._client = get_default_generative_client()
        self._notes = threading.local()
        self._session = self._client.transport._session  # noqa: SLF001 - the package is final and offers no other way
        for scheme in ("https://", "http://"):
            self._session.mount(scheme, _adapter(self._notes, threads))
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="gemini-legacy")
        _LOG.warning(
            "GEMINI_SDK=google-generativeai: Google ended support for this package on 2025-11-30; "
            "GEMINI_SDK=google-genai is its successor"
        )

    async def generate(self, request: Any, call: Call) -> Generation:
        if not isinstance(request, TextRequest):
            raise PermanentError(f"{call.model.alias} makes text, not pictures", reason="invalid_request")
        for name in UNSUPPORTED:
            if getattr(request, name) is not None:
                raise PermanentError(f"{name} needs GEMINI_SDK=google-genai", reason="invalid_request")
        async with guarded(self._endpoint.key) as exchange:
            async with asyncio.timeout(call.timeout):
                body = await asyncio.get_running_loop().run_in_executor(
                    self._threads, self._ask, request, call, exchange
                )
            generation = await offload(len(body), wire.read_text, body)
            return replace(generation, simulated=exchange.simulated)

    async def aclose(self) -> None:
        self._session.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _ask(self, request: TextRequest, call: Call, exchange: Exchange) -> bytes:
        """Makes the call in a thread and gives the raw body of a 200; what the SDK makes of it is ignored."""
        from requests import RequestException

        model = self._sdk.GenerativeModel(call.model.upstream, system_instruction=request.system)
        model._client = self._client  # noqa: SLF001 - the package is final and offers no other way
        self._notes.exchange, self._notes.answer = exchange, None
        try:
            model.generate_content(
                [{"role": message.role, "parts": [message.text]} for message in request.messages],
                generation_config=_config(request, call),
                request_options={
                    "retry": None,
                    "timeout": call.timeout,
                    "metadata": [("x-request-id", call.request_id)],
                },
            )
        except RequestException as error:
            raise _lost(error) from None
        except Exception:
            if self._notes.answer is None:
                raise
        answer = self._notes.answer
        if answer.status_code != 200:
            raise wire.error_from(answer.status_code, answer.content, answer.headers)
        body: bytes = answer.content
        return body


def _config(request: TextRequest, call: Call) -> dict[str, Any]:
    ignored = call.model.text.ignored if call.model.text else []
    wanted = {
        "max_output_tokens": request.max_output_tokens,
        "stop_sequences": list(request.stop) or None,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": request.top_k,
    }
    return {name: value for name, value in wanted.items() if value is not None and name not in ignored}


def _lost(error: Exception) -> ProviderError:
    """Nothing was sent where no connection was made; else nobody knows what became of the request."""
    from requests import ConnectionError as NoConnection
    from requests import ConnectTimeout, ReadTimeout
    from urllib3.exceptions import NewConnectionError

    reason = getattr(error.args[0], "reason", None) if error.args else None
    if isinstance(error, ConnectTimeout) or (
        isinstance(error, NoConnection) and isinstance(reason, NewConnectionError)
    ):
        return RetryableError(f"The provider could not be reached: {type(reason or error).__name__}")
    if isinstance(error, ReadTimeout):
        return UnknownOutcomeError("The provider's answer did not arrive in time", code="timeout")
    return UnknownOutcomeError(f"The connection was lost before the answer: {error}")


def _load(endpoint: Endpoint) -> Any:
    """The SDK, configured for REST at the endpoint."""
    try:
        with warnings.catch_warnings():
            # It says at every import what is logged once below.
            warnings.simplefilter("ignore")
            import google.generativeai as sdk
    except ImportError:
        raise UnconfiguredError(
            "GEMINI_SDK=google-generativeai needs a package that is not installed: "
            "pip install -r requirements/legacy-gemini.txt"
        ) from None
    sdk.configure(api_key=endpoint.key, transport="rest", client_options={"api_endpoint": endpoint.base_url})
    return sdk


def _adapter(notes: threading.local, threads: int) -> Any:
    """A requests adapter that notes, for its thread, that a request went out and what came back."""
    from requests.adapters import HTTPAdapter

    class Noting(HTTPAdapter):
        def send(self, *args: Any, **rest: Any) -> Any:
            notes.exchange.sent = True
            answer = super().send(*args, **{**rest, "timeout": (CONNECT_TIMEOUT, rest.get("timeout"))})
            notes.exchange.status = answer.status_code
            notes.exchange.simulated = SIMULATED_HEADER in answer.headers
            notes.answer = answer
            return answer

    return Noting(pool_connections=1, pool_maxsize=threads, max_retries=0)
