"""Nano Banana in Google's form: the REST method ``:generateContent``, asked for text and pictures."""

from __future__ import annotations

import asyncio
import math
from base64 import b64encode
from dataclasses import replace
from typing import Any

import orjson

from shared.providers import wire
from shared.providers.base import Call, Generation, ImageRequest, PermanentError
from shared.providers.endpoints import Endpoint
from shared.providers.origin import Origin
from shared.providers.transport import guarded, offload


class NanoBananaGoogleDriver:
    """Image generation and editing; drafts that the model made while thinking are left out."""

    streams = False

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self.provider = endpoint.provider("google")
        self._origin = Origin(endpoint.base_url, wire.error_from)

    async def generate(self, request: Any, call: Call) -> Generation:
        if not isinstance(request, ImageRequest):
            raise PermanentError(f"{call.model.alias} makes pictures only", reason="invalid_request")
        async with guarded(self._endpoint.key) as exchange:
            async with asyncio.timeout(call.timeout):
                body = await offload(_input_size(request), _encode, request)
                answer = await self._origin.request(
                    "POST",
                    f"/v1beta/models/{call.model.upstream}:generateContent",
                    content=body,
                    headers={
                        "content-type": "application/json",
                        "x-goog-api-key": self._endpoint.key,
                        "x-request-id": call.request_id,
                        # As Google's SDK does: better a 504 from there than an answer lost here.
                        "x-server-timeout": str(math.ceil(call.timeout)),
                    },
                )
            generation = await offload(len(answer.content), wire.read_images, answer.content)
            return replace(generation, simulated=exchange.simulated)

    async def aclose(self) -> None:
        await self._origin.aclose()


def _input_size(request: ImageRequest) -> int:
    return sum(len(image.data) for image in request.input_images)


def _encode(request: ImageRequest) -> bytes:
    """The body: the prompt, then the pictures to work from."""
    parts: list[dict[str, Any]] = [{"text": request.prompt}]
    parts += [
        {"inlineData": {"mimeType": image.media_type, "data": b64encode(image.data).decode("ascii")}}
        for image in request.input_images
    ]
    config: dict[str, Any] = {
        "responseModalities": ["TEXT", "IMAGE"],
        "imageConfig": {"aspectRatio": request.aspect_ratio, "imageSize": request.size},
    }
    if request.seed is not None:
        config["seed"] = request.seed
    return orjson.dumps({"contents": [{"role": "user", "parts": parts}], "generationConfig": config})
