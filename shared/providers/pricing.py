"""What a call cost, from the provider's token counts and the catalogue's dated prices."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from shared.providers.base import GenerationRequest, ImageRequest, TextRequest, Usage
from shared.providers.catalog import ModelSpec

_MILLION = Decimal(1_000_000)
_CENT_MILLIONTHS = Decimal("0.00000001")
#: About what one input image counts as, in tokens (Google's documentation of Gemini 3 images).
_INPUT_IMAGE_TOKENS = 1120
_DEFAULT_OUTPUT_TOKENS = 1024


def cost(model: ModelSpec, usage: Usage, at: datetime) -> Decimal:
    """USD of one call: input, output and thoughts, and images, each at its rate of that day."""
    price = model.price_at(at)
    image_rate = price.image if price.image is not None else price.output
    text_tokens = max(usage.output_tokens - usage.image_tokens, 0) + usage.thought_tokens
    total = (
        usage.input_tokens * price.input + text_tokens * price.output + usage.image_tokens * image_rate
    ) / _MILLION
    return total.quantize(_CENT_MILLIONTHS)


def estimate(model: ModelSpec, request: GenerationRequest, at: datetime) -> Decimal:
    """USD that a call whose answer was lost has probably cost: an upper middle, never zero."""
    return cost(model, _expected_usage(model, request), at)


def _expected_usage(model: ModelSpec, request: GenerationRequest) -> Usage:
    match request:
        case TextRequest():
            characters = sum(len(message.text) for message in request.messages) + len(request.system or "")
            output = request.max_output_tokens or _DEFAULT_OUTPUT_TOKENS
            return Usage(input_tokens=characters // 4 + 1, output_tokens=min(output, _DEFAULT_OUTPUT_TOKENS))
        case ImageRequest():
            tokens = model.image.sizes.get(request.size, 0) if model.image else 0
            inputs = len(request.prompt) // 4 + 1 + _INPUT_IMAGE_TOKENS * len(request.input_images)
            return Usage(input_tokens=inputs, output_tokens=tokens, image_tokens=tokens)
