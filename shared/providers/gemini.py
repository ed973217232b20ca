"""Gemini's text models through Google's current SDK, google-genai.

The SDK says what a request looks like: path, headers, body. Asking it costs 0.6 ms of CPU, nearly all of it for what is
the same in most requests, so its word is kept for each combination of options, and only the texts are filled in anew
(``_Form``; a contract test holds each against what the SDK itself would send). The request then goes out over our own
client: left to itself the SDK would take aiohttp where that is importable, and then repeats some failed requests unasked,
which can bill twice. Its retries, function calling and continuation are off: one call is one upstream request.
Answers are read from the raw body by :mod:`shared.providers.wire`, because the SDK's classes lose fields
(``finishMessage``) and break on values that they do not know.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Any

import httpx
import orjson
from google import genai
from google.genai import types

from shared.providers import wire
from shared.providers.base import (
    Call,
    Generation,
    Message,
    OnText,
    PermanentError,
    TextRequest,
    UnknownOutcomeError,
)
from shared.providers.endpoints import Endpoint
from shared.providers.origin import Answer, OnBody, Origin
from shared.providers.transport import guarded, offload
from shared.providers.wire_stream import StreamReader

#: Combinations of options whose form is kept; each is a few hundred bytes, and one more costs 0.6 ms to learn.
_MAX_FORMS = 500
#: Headers of the SDK's request that belong to its connection.
_OF_THE_CONNECTION = frozenset({"host", "accept-encoding", "connection", "content-length", "accept"})
_PLACEHOLDER = "-"


@dataclass(frozen=True, slots=True)
class _Form:
    """A request as the SDK makes it, with a placeholder for each text."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    def filled_in(self, request: TextRequest) -> bytes:
        contents = [{"parts": [{"text": turn.text}], "role": turn.role} for turn in request.messages]
        body = {**self.body, "contents": contents}
        if request.system is not None:
            system = self.body["systemInstruction"]
            body["systemInstruction"] = {**system, "parts": [{"text": request.system}]}
        return orjson.dumps(body)


class GeminiDriver:
    """Text generation; the deadline is ours and total.

    Args:
        stream_idle: seconds for which a stream that has begun may be silent.
    """

    streams = True

    def __init__(self, endpoint: Endpoint, *, stream_idle: float) -> None:
        self._endpoint = endpoint
        self._stream_idle = stream_idle
        self.provider = endpoint.provider("google")
        self._origin = Origin(endpoint.base_url, wire.error_from)
        self._sdk = _Sdk(endpoint)
        self._forms: OrderedDict[Hashable, _Form] = OrderedDict()

    async def generate(self, request: Any, call: Call) -> Generation:
        if not isinstance(request, TextRequest):
            raise PermanentError(f"{call.model.alias} makes text, not pictures", reason="invalid_request")
        async with guarded(self._endpoint.key) as exchange:
            async with asyncio.timeout(call.timeout):
                form = await self._form(request, call)
                if call.on_text is not None:
                    generation = await self._streamed(form, request, call, call.on_text)
                    return replace(generation, simulated=exchange.simulated)
                answer = await self._ask(form, request, call)
            generation = await offload(len(answer.content), wire.read_text, answer.content)
            return replace(generation, simulated=exchange.simulated)

    async def aclose(self) -> None:
        await self._origin.aclose()
        await self._sdk.aclose()

    async def _ask(
        self, form: _Form, request: TextRequest, call: Call, on_body: OnBody | None = None
    ) -> Answer:
        return await self._origin.request(
            "POST",
            form.path,
            headers={**form.headers, "x-request-id": call.request_id},
            content=form.filled_in(request),
            on_body=on_body,
        )

    async def _streamed(self, form: _Form, request: TextRequest, call: Call, on_text: OnText) -> Generation:
        """Reads the answer as it is made. Before its first part a model may think for as long as the deadline lets it."""
        reader, clock = StreamReader(on_text), asyncio.get_running_loop().time
        try:
            async with asyncio.timeout(None) as idle:

                def hear(data: bytes) -> None:
                    idle.reschedule(clock() + self._stream_idle)
                    reader.feed(data)

                await self._ask(form, request, call, hear)
        except TimeoutError:
            if not idle.expired():
                raise
            raise UnknownOutcomeError(
                f"The provider's stream fell silent for {self._stream_idle:g} s", code="timeout"
            ) from None
        return reader.finish()

    async def _form(self, request: TextRequest, call: Call) -> _Form:
        """The form of a request with these options: known, or learned now."""
        options = (
            call.model.upstream,
            call.on_text is not None,
            call.timeout,
            request.system is None,
            None if request.response_schema is None else orjson.dumps(request.response_schema),
            request.max_output_tokens,
            request.temperature,
            request.top_p,
            request.top_k,
            request.seed,
            tuple(request.stop),
            request.thinking_level,
        )
        form = self._forms.get(options)
        if form is None:
            form = self._forms[options] = await self._sdk.form(request, call)
            if len(self._forms) > _MAX_FORMS:
                self._forms.popitem(last=False)
        else:
            self._forms.move_to_end(options)
        return form


class _Sdk:
    """google-genai, asked what it would send and never let near a network."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._catch = _Catch()
        self._http = httpx.AsyncClient(transport=self._catch, trust_env=False)
        # Never used; given so that the SDK makes no client of its own.
        self._unused = httpx.Client(transport=_Unused(), trust_env=False)
        self._prefix = httpx.URL(endpoint.base_url).raw_path.decode("ascii").rstrip("/")
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
        self._turn = asyncio.Lock()

    async def form(self, request: TextRequest, call: Call) -> _Form:
        system = None if request.system is None else _PLACEHOLDER
        plain = replace(request, messages=[Message("user", _PLACEHOLDER)], system=system)
        sent = await self.request(plain, call)
        headers = {name: value for name, value in sent.headers.items() if name not in _OF_THE_CONNECTION}
        path = sent.url.raw_path.decode("ascii").removeprefix(self._prefix)
        return _Form(path, headers, orjson.loads(sent.content))

    async def request(self, request: TextRequest, call: Call) -> httpx.Request:
        """The HTTP request that the SDK would send."""
        models, contents, config = self._client.aio.models, _contents(request), _config(request, call)
        async with self._turn:
            if call.on_text is None:
                await models.generate_content(model=call.model.upstream, contents=contents, config=config)
            else:
                parts = await models.generate_content_stream(
                    model=call.model.upstream, contents=contents, config=config
                )
                async for _ in parts:  # what is not read is not closed
                    pass
            return self._catch.request

    async def aclose(self) -> None:
        await self._http.aclose()
        self._unused.close()


class _Catch(httpx.AsyncBaseTransport):
    """Keeps the request and answers what the SDK is content with."""

    request: httpx.Request

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        self.request = request
        answer = {
            "candidates": [{"content": {"role": "model", "parts": [{"text": "-"}]}, "finishReason": "STOP"}]
        }
        return httpx.Response(200, json=answer)


class _Unused(httpx.BaseTransport):
    pass


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
        http_options=types.HttpOptions(timeout=max(round(call.timeout * 1000), 1)),
    )


def _thinking(level: str | None) -> types.ThinkingConfig | None:
    return types.ThinkingConfig(thinking_level=types.ThinkingLevel(level.upper())) if level else None
