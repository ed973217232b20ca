"""Gemini's text models through Google's current SDK, google-genai.

The SDK builds the request and sends it over our own transport, which it is given as an httpx client: left
to itself it would take aiohttp where that is importable, and then repeats some failed requests unasked, which
can bill twice. Its retries, function calling and continuation are off: one call is one upstream request.
Answers are read from the raw body by :mod:`shared.providers.wire`, because the SDK's classes lose fields
(``finishMessage``) and break on values that they do not know; errors never reach it (``open_client``).
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import httpx
from google import genai
from google.genai import types

from shared.providers import wire
from shared.providers.base import Call, Generation, PermanentError, TextRequest
from shared.providers.endpoints import Endpoint
from shared.providers.transport import guarded, offload, open_client, ssl_context


class GeminiDriver:
    """Text generation; the deadline is ours and total, the SDK's own timeouts only back it up."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self.provider = endpoint.provider("google")
        self._http = open_client(endpoint.base_url, wire.error_from)
        # Never used; given so that the SDK makes no client of its own.
        self._unused = httpx.Client(verify=ssl_context())
        self._client = genai.Client(
            api_key=endpoint.key,
            vertexai=False,
            http_options=types.HttpOptions(
                base_url=endpoint.base_url,
                api_version="v1beta",
                httpx_async_client=self._http,
                httpx_client=self._unused,
            ),
        )

    async def generate(self, request: Any, call: Call) -> Generation:
        if not isinstance(request, TextRequest):
            raise PermanentError(f"{call.model.alias} makes text, not pictures", reason="invalid_request")
        async with guarded(self._endpoint.key) as exchange:
            async with asyncio.timeout(call.timeout):
                answer = await self._client.aio.models.generate_content(
                    model=call.model.upstream, contents=_contents(request), config=_config(request, call)
                )
            body = (answer.sdk_http_response and answer.sdk_http_response.body) or ""
            generation = await offload(len(body), wire.read_text, body)
            return replace(generation, simulated=exchange.simulated)

    async def aclose(self) -> None:
        await self._http.aclose()
        self._unused.close()


def _contents(request: TextRequest) -> list[types.ContentUnion]:
    return [
        types.Content(role=message.role, parts=[types.Part(text=message.text)])
        for message in request.messages
    ]


def _config(request: TextRequest, call: Call) -> types.GenerateContentConfig:
    """The request in the SDK's words; what the catalogue says the model ignores is left out."""
    ignored = call.model.text.ignored if call.model.text else []

    def unless_ignored(name: str, value: float | None) -> float | None:
        return None if name in ignored else value

    return types.GenerateContentConfig(
        system_instruction=request.system,
        temperature=unless_ignored("temperature", request.temperature),
        top_p=unless_ignored("top_p", request.top_p),
        top_k=unless_ignored("top_k", request.top_k),
        max_output_tokens=request.max_output_tokens,
        stop_sequences=list(request.stop) or None,
        seed=request.seed,
        response_mime_type="application/json" if request.response_schema is not None else None,
        response_json_schema=request.response_schema,
        thinking_config=_thinking(request.thinking_level),
        automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
        automatic_continuation=False,
        should_return_http_response=True,
        http_options=types.HttpOptions(
            timeout=max(round(call.timeout * 1000), 1), headers={"x-request-id": call.request_id}
        ),
    )


def _thinking(level: str | None) -> types.ThinkingConfig | None:
    return types.ThinkingConfig(thinking_level=types.ThinkingLevel(level.upper())) if level else None
