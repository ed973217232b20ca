"""``image.generate``: a prompt in, pictures out; with input pictures it edits them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

from pydantic import Field

from shared.errors import FieldError, shown
from shared.kinds.base import (
    Accepted,
    InputImage,
    InputRejected,
    KindInput,
    StoredImage,
    Whole,
    not_allowed,
)
from shared.providers.base import Generation, ImageBytes, ImageRequest
from shared.providers.catalog import ImageCapabilities, ModelSpec
from shared.providers.images import NotAnImageError, decode_base64, inspect

#: The brands by which an ISO media file says that it is HEIC or HEIF (ISO/IEC 23008-12, 10.2).
_HEIC_BRANDS = {b"heic": "image/heic", b"heix": "image/heic", b"mif1": "image/heif", b"msf1": "image/heif"}


class EncodedImage(KindInput):
    """A picture to edit or to take as an example."""

    data: Annotated[str, Field(min_length=1, description="The file, in base64.", repr=False)]
    media_type: Annotated[
        str | None,
        Field(description="What the file is; it is looked at anyway, and a contradiction is an error."),
    ] = None


class ImageInput(KindInput):
    prompt: Annotated[
        str, Field(description="What the picture should show, or how to change the input pictures.")
    ]
    aspect_ratio: str = "1:1"
    size: str = "1K"
    seed: Annotated[Whole | None, Field(ge=0, le=2**31 - 1)] = None
    input_images: list[EncodedImage] = []


class ImageGenerate:
    name: ClassVar[str] = "image.generate"
    title: ClassVar[str] = "Generate or edit a picture"
    queue: ClassVar[str] = "image"
    default_model: ClassVar[str] = "nano-banana"
    input_model: ClassVar[type[KindInput]] = ImageInput
    example: ClassVar[dict[str, Any]] = {
        "prompt": "A plantain wearing sunglasses",
        "aspect_ratio": "16:9",
        "size": "1K",
    }

    def accept(self, value: Any, model: ModelSpec, *, max_prompt_chars: int) -> Accepted:
        parsed = ImageInput.model_validate(value)
        assert model.image is not None, f"{model.alias} is not an image model"
        errors = _errors(parsed, model, model.image, max_prompt_chars)
        if errors:
            raise InputRejected(errors)
        images = _decode_all(parsed.input_images, model.image)
        stored = parsed.model_dump(exclude={"input_images"}, exclude_none=True)
        return Accepted(stored=stored, images=images, warnings=())

    def to_request(self, stored: dict[str, Any], images: Sequence[ImageBytes]) -> ImageRequest:
        return ImageRequest(**stored, input_images=images)

    def result(
        self,
        stored: dict[str, Any],  # noqa: ARG002
        generation: Generation,
        images: Sequence[StoredImage],
    ) -> dict[str, Any]:
        listed = [
            {
                "artifact_id": str(image.artifact_id),
                "media_type": image.media_type,
                "byte_size": image.byte_size,
                "sha256": image.sha256,
                "width": image.width,
                "height": image.height,
            }
            for image in images
        ]
        return {"images": listed, "text": generation.text or None, "finish_reason": generation.finish_reason}


def _errors(
    parsed: ImageInput, model: ModelSpec, can: ImageCapabilities, max_prompt_chars: int
) -> list[FieldError]:
    errors = []
    if not parsed.prompt.strip():
        errors.append(FieldError("/prompt", "empty", "is empty; write what the picture should show"))
    if len(parsed.prompt) > max_prompt_chars:
        message = f"has {len(parsed.prompt):,} characters; at most {max_prompt_chars:,} are allowed"
        errors.append(FieldError("/prompt", "too_long", message))
    if parsed.aspect_ratio not in can.aspect_ratios:
        errors.append(not_allowed("/aspect_ratio", parsed.aspect_ratio, can.aspect_ratios, model))
    if parsed.size not in can.sizes:
        errors.append(not_allowed("/size", parsed.size, list(can.sizes), model))
    if parsed.seed is not None and not can.seed:
        errors.append(FieldError("/seed", "not_supported", f"{model.alias} takes no seed; leave it out"))
    if len(parsed.input_images) > can.max_input_images:
        message = (
            f"has {len(parsed.input_images)} pictures; {model.alias} takes at most {can.max_input_images}"
        )
        errors.append(FieldError("/input_images", "too_many", message))
    return errors


def _decode_all(encoded: Sequence[EncodedImage], can: ImageCapabilities) -> list[InputImage]:
    images: list[InputImage] = []
    errors: list[FieldError] = []
    for position, item in enumerate(encoded):
        try:
            images.append(_decode(item, can))
        except NotAnImageError as error:
            errors.append(FieldError(f"/input_images/{position}/data", "invalid_image", str(error)))
    total = sum(len(image.data) for image in images)
    if total > can.max_input_total_bytes:
        message = f"hold {total:,} bytes together; at most {can.max_input_total_bytes:,} are allowed"
        errors.append(FieldError("/input_images", "too_large", message))
    if errors:
        raise InputRejected(errors)
    return images


def _decode(item: EncodedImage, can: ImageCapabilities) -> InputImage:
    if item.data[:5].lower() == "data:":
        raise NotAnImageError("must be base64 alone; leave out the data:…;base64, prefix")
    if item.data[:8].lower().startswith(("http://", "https://")):
        raise NotAnImageError("must be the file itself in base64; addresses are not fetched")
    data = decode_base64(item.data)
    if len(data) > can.max_input_image_bytes:
        raise NotAnImageError(f"has {len(data):,} bytes; at most {can.max_input_image_bytes:,} are allowed")
    image = _identify(data)
    allowed = ", ".join(can.input_media_types)
    if image.media_type not in can.input_media_types:
        raise NotAnImageError(f"is {image.media_type}; use one of: {allowed}")
    if item.media_type and item.media_type != image.media_type:
        raise NotAnImageError(f"is declared as {shown(item.media_type)} and is {image.media_type}")
    return image


def _identify(data: bytes) -> InputImage:
    if data[4:8] == b"ftyp" and (media_type := _HEIC_BRANDS.get(data[8:12])):
        return InputImage(data, media_type, None, None)
    found = inspect(data)
    return InputImage(data, found.media_type, found.width, found.height)
