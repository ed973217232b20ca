"""``image.generate``: a prompt in, pictures out; with input pictures it edits them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Self
from uuid import UUID

from pydantic import Field, field_validator, model_validator

from shared.errors import FieldError, shown
from shared.kinds.base import (
    INPUT_URLS,
    Accepted,
    InputImage,
    InputRejected,
    InputUpload,
    KindInput,
    StoredImage,
    Whole,
    not_allowed,
)
from shared.providers.base import Generation, ImageBytes, ImageRequest
from shared.providers.catalog import ImageCapabilities, ModelSpec
from shared.providers.images import NotAnImageError, decode_base64
from shared.providers.input_images import HEADER_BYTES, TAIL_BYTES, check_end, read_header

_FORMS = ("data", "url", "upload_id")


class InputPicture(KindInput):
    """A picture to edit or to take as an example: one of `data`, `url` and `upload_id`."""

    data: Annotated[str | None, Field(min_length=1, description="The file, in base64.", repr=False)] = None
    url: Annotated[
        str | None,
        Field(
            min_length=1,
            description="A `data:` URL in base64, or an `https://` URL. The latter is fetched by the worker just before "
            "the model is called, each time anew: without redirects, from the public internet only.",
            repr=False,
        ),
    ] = None
    upload_id: Annotated[
        str | None,
        Field(
            description="The id of an upload: `POST /api/v1/uploads`.", json_schema_extra={"format": "uuid"}
        ),
    ] = None
    media_type: Annotated[
        str | None,
        Field(description="What `data` is; it is looked at anyway, and a contradiction is an error."),
    ] = None

    @field_validator("upload_id")
    @classmethod
    def _uuid(cls, text: str | None) -> str | None:
        if text is not None and not _is_uuid(text):
            raise ValueError("must be the id of an upload, such as 0198a7c2-6f0e-7c3a-9a53-0f6d2b9d8e11")
        return text

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        given = [name for name in _FORMS if getattr(self, name) is not None]
        if len(given) != 1:
            what = f"has {' and '.join(given)}" if given else "has none of them"
            raise ValueError(f"must have one of {', '.join(_FORMS)}, and {what}")
        if self.media_type is not None and self.data is None:
            raise ValueError("has a media_type, which goes with data only; leave it out")
        return self


class ImageInput(KindInput):
    prompt: Annotated[
        str, Field(description="What the picture should show, or how to change the input pictures.")
    ]
    aspect_ratio: str = "1:1"
    size: str = "1K"
    seed: Annotated[Whole | None, Field(ge=0, le=2**31 - 1)] = None
    input_images: list[InputPicture] = []


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
        given = parsed.input_images
        images = _decode_all(given, model.image)
        uploads = [
            InputUpload(UUID(item.upload_id), position)
            for position, item in enumerate(given)
            if item.upload_id is not None
        ]
        urls = {str(position): item.url for position, item in enumerate(given) if _is_elsewhere(item)}
        stored = parsed.model_dump(exclude={"input_images"}, exclude_none=True)
        if urls:
            stored[INPUT_URLS] = urls
        both: list[InputImage | InputUpload] = [*images, *uploads]
        ordered = sorted(both, key=lambda image: image.position)
        return Accepted(stored=stored, images=ordered, warnings=(), refers=bool(uploads or urls))

    def to_request(self, stored: dict[str, Any], images: Sequence[ImageBytes]) -> ImageRequest:
        fields = {name: value for name, value in stored.items() if name != INPUT_URLS}
        return ImageRequest(**fields, input_images=images)

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


def _decode_all(given: Sequence[InputPicture], can: ImageCapabilities) -> list[InputImage]:
    """The pictures that came in base64."""
    images: list[InputImage] = []
    errors: list[FieldError] = []
    for position, item in enumerate(given):
        if item.upload_id is not None or _is_elsewhere(item):
            continue
        try:
            images.append(_decode(item, position, can))
        except NotAnImageError as error:
            field = "data" if item.url is None else "url"
            errors.append(FieldError(f"/input_images/{position}/{field}", "invalid_image", str(error)))
    total = sum(len(image.data) for image in images)
    if total > can.max_input_total_bytes:
        message = f"hold {total:,} bytes together; at most {can.max_input_total_bytes:,} are allowed"
        errors.append(FieldError("/input_images", "too_large", message))
    if errors:
        raise InputRejected(errors)
    return images


def _decode(item: InputPicture, position: int, can: ImageCapabilities) -> InputImage:
    encoded, declared = _encoded(item)
    data = decode_base64(encoded)
    if len(data) > can.max_input_image_bytes:
        raise NotAnImageError(f"has {len(data):,} bytes; at most {can.max_input_image_bytes:,} are allowed")
    header = read_header(data[:HEADER_BYTES])
    check_end(header, data[-TAIL_BYTES:], len(data))
    allowed = ", ".join(can.input_media_types)
    if header.media_type not in can.input_media_types:
        raise NotAnImageError(f"is {header.media_type}; use one of: {allowed}")
    if declared and declared != header.media_type:
        raise NotAnImageError(f"is declared as {shown(declared)} and is {header.media_type}")
    return InputImage(data, header.media_type, header.width, header.height, position)


def _encoded(item: InputPicture) -> tuple[str, str | None]:
    """The base64 of a picture, and what it is declared to be."""
    if item.url is None:
        assert item.data is not None
        if item.data[:5].lower() == "data:" or item.data[:8].lower().startswith(("http://", "https://")):
            raise NotAnImageError("must be the file itself in base64; a URL goes into url")
        return item.data, item.media_type
    head, comma, encoded = item.url.partition(",")
    media_type, *parameters = head[len("data:") :].split(";")
    if not comma or "base64" not in (parameter.strip().lower() for parameter in parameters):
        raise NotAnImageError("must be like data:image/png;base64,… (RFC 2397)")
    return encoded, media_type.strip().lower() or None


def _is_elsewhere(item: InputPicture) -> bool:
    """Whether the picture has to be fetched."""
    return item.url is not None and item.url[:5].lower() != "data:"


def _is_uuid(text: str) -> bool:
    try:
        return len(text) == 36 and bool(UUID(text))
    except ValueError:
        return False
