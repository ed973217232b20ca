"""The answer to an order, in the Gemini REST form: candidates, usage, and what the content faults do to them."""

import base64
import random
import secrets
from dataclasses import dataclass, replace
from typing import Any

import orjson

from . import schema
from .facts import DIMENSIONS_1K, IMAGE_TOKENS, tokens_of
from .faults import Asked
from .gemini_request import ENUM_TYPE, JSON_TYPE, Order, seed_of
from .pictures import Picture, PictureOrder
from .state import Simulator
from .text import cut, pieces, prose

Message = dict[str, Any]

#: Content faults that leave a candidate without a picture, and the finish reason that it then has.
_NO_PICTURE = {"text-only": "STOP", "no-image": "NO_IMAGE", "max-tokens": "MAX_TOKENS"}
#: Content faults that leave a candidate without any content.
_NO_CONTENT = {"safety", "finish", "finish-message"}
_STREAM_PIECES = 6


@dataclass
class _Candidate:
    parts: list[Message]
    finish_reason: Any = "STOP"
    finish_message: str | None = None

    def message(self, index: int) -> Message:
        content: Message = {"role": "model"}
        if self.parts:
            content["parts"] = self.parts
        value: Message = {"content": content, "finishReason": self.finish_reason, "index": index}
        if self.finish_message:
            value["finishMessage"] = self.finish_message
        return value


async def build(sim: Simulator, order: Order, prompt: str, fault: Asked | None) -> Message:
    """The whole GenerateContentResponse. Raises UnreadableInput for an input that is no picture."""
    rng = random.Random(seed_of(prompt, order.digest(sim.rng.getrandbits(31))))
    name = fault.name if fault else ""
    response: Message = {"candidates": []}
    candidates: list[_Candidate] = []
    if name == "block-reason" and fault:
        response = {"promptFeedback": {"blockReason": fault.argument, "safetyRatings": []}}
    elif name != "no-candidates":
        candidates = [await _candidate(sim, order, prompt, fault, rng) for _ in range(order.candidate_count)]
        response["candidates"] = [one.message(index) for index, one in enumerate(candidates)]
    if name != "no-usage":
        response["usageMetadata"] = _usage(order, candidates, rng)
    response["modelVersion"] = fault.argument if fault and name == "silent-reroute" else order.model.id
    response["responseId"] = secrets.token_urlsafe(16)
    return response


async def _candidate(
    sim: Simulator, order: Order, prompt: str, fault: Asked | None, rng: random.Random
) -> _Candidate:
    name = fault.name if fault else ""
    if fault and name in _NO_CONTENT:
        reason = {"safety": "SAFETY", "finish": fault.argument, "finish-message": "OTHER"}[name]
        note = "The simulator was asked for this." if name == "finish-message" else None
        return _Candidate([], reason, note)
    thoughts = _thoughts(prompt) if order.thinks and order.include_thoughts else []
    if not order.wants_image:
        candidate = _text_candidate(order, prompt, name, rng)
    elif order.max_tokens is not None and order.max_tokens < IMAGE_TOKENS[order.size]:
        candidate = _Candidate([], "MAX_TOKENS")  # a picture does not fit
    elif name in _NO_PICTURE:
        text = [] if name == "no-image" else [{"text": "No picture this time, only words (simulated)."}]
        candidate = _Candidate(text, _NO_PICTURE[name])
    else:
        candidate = await _picture_candidate(sim, order, prompt, name, rng)
    candidate.parts = thoughts + candidate.parts
    if name == "unknown-enum":
        candidate.finish_reason = "SIMULATED_UNSEEN_REASON"
    elif name == "int-enum":
        candidate.finish_reason = 1
    return candidate


def _thoughts(prompt: str) -> list[Message]:
    return [{"text": f"**Simulated thoughts**\n\nWhat is asked: {prompt[:80]}", "thought": True}]


# ---- text


def _text_candidate(order: Order, prompt: str, fault: str, rng: random.Random) -> _Candidate:
    text = "This is not JSON {" if fault == "bad-json" else _text(order, prompt, rng)
    text, reason = cut(text, order.stop_sequences, order.max_tokens)
    if fault == "max-tokens":
        text, reason = text[: len(text) // 2], "MAX_TOKENS"
    return _Candidate([{"text": text}] if text else [], reason)


def _text(order: Order, prompt: str, rng: random.Random) -> str:
    if order.response_type == JSON_TYPE:
        wanted = order.json_schema or {"type": "object", "properties": {"simulated": {}, "answer": {}}}
        return orjson.dumps(schema.sample(wanted, rng)).decode()
    if order.response_type == ENUM_TYPE and order.json_schema:
        return str(schema.sample(order.json_schema, rng))
    return prose(prompt, order.model.id, rng)


# ---- pictures


async def _picture_candidate(
    sim: Simulator, order: Order, prompt: str, fault: str, rng: random.Random
) -> _Candidate:
    wanted = picture_order(sim, order, prompt, rng.getrandbits(31))
    parts: list[Message] = []
    if fault == "draft-thoughts":
        for number in range(2):
            draft = await sim.paint(replace(wanted, draft=True, size="1K", seed=wanted.seed + 1 + number))
            parts.append({**_inline(draft, fault), "thought": True})
    if order.wants_text:
        parts.append({"text": "Here is the picture you asked for (simulated)."})
    picture = await sim.paint(spoiled_order(wanted, fault))
    parts.append({**_inline(spoiled(picture, fault), fault), "thoughtSignature": _signature(rng)})
    return _Candidate(parts)


def picture_order(sim: Simulator, order: Order, prompt: str, seed: int) -> PictureOrder:
    """What the painters need to know."""
    return PictureOrder(
        prompt=prompt,
        seed=seed,
        ratio=order.ratio,
        size=order.size,
        media_type=order.media_type,
        label=f"{order.model.id} · {order.ratio or 'auto'} · {order.size} · Plantain simulator",
        inputs=order.images,
        light=sim.settings.picture_weight == "light",
    )


def spoiled_order(wanted: PictureOrder, fault: str) -> PictureOrder:
    """The faults that change what is painted."""
    if fault == "jpeg-as-png":
        return replace(wanted, media_type="image/jpeg")
    if fault == "wrong-size":
        return replace(
            wanted, ratio=next(ratio for ratio in DIMENSIONS_1K if ratio != (wanted.ratio or "1:1"))
        )
    return wanted


def spoiled(picture: Picture, fault: str) -> Picture:
    """The faults that change the painted bytes or their label."""
    if fault == "jpeg-as-png":
        return replace(picture, media_type="image/png")
    if fault == "truncated-picture":
        return replace(picture, data=picture.data[: len(picture.data) // 2])
    if fault == "not-a-picture":
        return replace(picture, data=b"The simulator was asked for bytes that are not a picture.")
    return picture


def encoded(picture: Picture, fault: str) -> str:
    """Base64, cut in a way that cannot be decoded when the fault says so."""
    text = base64.b64encode(picture.data).decode()
    return text[: len(text) // 8 * 4 + 1] if fault == "truncated-base64" else text


def _inline(picture: Picture, fault: str) -> Message:
    return {"inlineData": {"mimeType": picture.media_type, "data": encoded(picture, fault)}}


def _signature(rng: random.Random) -> str:
    return base64.b64encode(rng.randbytes(96)).decode()


# ---- usage


def _usage(order: Order, candidates: list[_Candidate], rng: random.Random) -> Message:
    input_images = len(order.images) * order.model.input_image_tokens
    spoken = [part for one in candidates for part in one.parts if not part.get("thought")]
    pictures = sum(IMAGE_TOKENS[order.size] for part in spoken if "inlineData" in part)
    words = sum(tokens_of(part["text"]) for part in spoken if "text" in part)
    thoughts = rng.randint(80, 160) if order.thinks else 0
    prompt = order.prompt_text_tokens + input_images
    usage: Message = {
        "promptTokenCount": prompt,
        "totalTokenCount": prompt + pictures + words + thoughts,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": order.prompt_text_tokens}],
    }
    if input_images:
        usage["promptTokensDetails"].append({"modality": "IMAGE", "tokenCount": input_images})
    if pictures or words:
        usage["candidatesTokenCount"] = pictures + words
    if pictures:
        usage["candidatesTokensDetails"] = [{"modality": "IMAGE", "tokenCount": pictures}]
    if thoughts:
        usage["thoughtsTokenCount"] = thoughts
    return usage


# ---- streaming


def chunks(response: Message) -> list[Message]:
    """The response as the parts of a stream: finishReason and the whole usage come with the last one."""
    candidates = response.get("candidates") or []
    if len(candidates) != 1:
        return [response]
    parts = [piece for part in candidates[0]["content"].get("parts", []) for piece in _split(part)]
    if len(parts) < 2:
        return [response]
    head = {name: response[name] for name in ("modelVersion", "responseId")}
    usage = response.get("usageMetadata")
    if usage:
        early = {name: usage[name] for name in ("promptTokenCount", "promptTokensDetails")}
        head["usageMetadata"] = {**early, "totalTokenCount": usage["promptTokenCount"]}
    stream = [
        {"candidates": [{"content": {"role": "model", "parts": [part]}, "index": 0}], **head}
        for part in parts[:-1]
    ]
    last = {**candidates[0], "content": {"role": "model", "parts": [parts[-1]]}}
    return [*stream, {**response, "candidates": [last]}]


def _split(part: Message) -> list[Message]:
    if "text" not in part:
        return [part]
    return [{**part, "text": piece} for piece in pieces(part["text"], _STREAM_PIECES)]
