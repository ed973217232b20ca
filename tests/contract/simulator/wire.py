"""Raw requests of both forms."""

import base64
import io
from typing import Any

import httpx
from PIL import Image

TEXT_MODEL = "gemini-3.8-flash"
IMAGE_MODEL = "gemini-nano-banana-2.1"
PRO_MODEL = "gemini-3-pro-image"
KEY = {"x-goog-api-key": "test-key"}
BEARER = {"authorization": "Bearer test-key"}
JOB = "0199a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b"


def body(prompt: str = "What is a plantain?", *parts: dict[str, Any], **config: Any) -> dict[str, Any]:
    """A generateContent body."""
    value: dict[str, Any] = {"contents": [{"role": "user", "parts": [{"text": prompt}, *parts]}]}
    return {**value, "generationConfig": config} if config else value


async def generate(
    http: httpx.AsyncClient,
    value: Any = None,
    model: str = TEXT_MODEL,
    headers: dict[str, str] | None = None,
    path: str = "/v1beta/models/{model}:generateContent",
) -> httpx.Response:
    """POST a generateContent body."""
    content = body() if value is None else value
    return await http.post(path.format(model=model), json=content, headers={**KEY, **(headers or {})})


async def visualize(
    http: httpx.AsyncClient, headers: dict[str, str] | None = None, **fields: Any
) -> httpx.Response:
    """POST a /visualize body."""
    value = {"model": "nano-banana", "prompt": "A plantain", **fields}
    return await http.post("/visualize", json=value, headers={**BEARER, **(headers or {})})


def inline(answer: httpx.Response) -> list[dict[str, Any]]:
    """The inlineData objects of an answer's first candidate, drafts left out."""
    parts = answer.json()["candidates"][0]["content"].get("parts", [])
    return [part["inlineData"] for part in parts if "inlineData" in part and not part.get("thought")]


def text_of(answer: httpx.Response) -> str:
    """The text of an answer's first candidate."""
    parts = answer.json()["candidates"][0]["content"].get("parts", [])
    return "".join(part.get("text", "") for part in parts if not part.get("thought"))


def decode(data: str) -> tuple[bytes, Image.Image]:
    """Base64 as bytes and as a picture whose pixels were all read."""
    raw = base64.b64decode(data, validate=True)
    image = Image.open(io.BytesIO(raw))
    image.load()
    return raw, image


def picture(width: int = 320, height: int = 180, colour: str = "magenta", kind: str = "PNG") -> bytes:
    """An input image."""
    out = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(out, kind)
    return out.getvalue()


def inline_part(data: bytes, media_type: str = "image/png") -> dict[str, Any]:
    """An input image as a part."""
    return {"inlineData": {"mimeType": media_type, "data": base64.b64encode(data).decode()}}
