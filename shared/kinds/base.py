"""What a job kind is: its input, its queue, what it asks of a model, and what its result looks like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Protocol
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict

from shared.errors import FieldError, shown
from shared.providers.base import Generation, GenerationRequest, ImageBytes
from shared.providers.catalog import ModelSpec


def _whole(value: Any) -> Any:
    """JSON Schema's integers include 7.0."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


#: An integer as JSON Schema has it: neither a string nor a boolean.
Whole = Annotated[int, BeforeValidator(_whole)]


class KindInput(BaseModel):
    """Base of every kind's input: an unknown field or another type is an error, not a silent nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


@dataclass(frozen=True, slots=True)
class InputImage:
    """A picture that came with a submit, checked, to be stored beside the job."""

    data: bytes = field(repr=False)
    media_type: str
    width: int | None
    height: int | None
    #: Among the job's input pictures, from 0.
    position: int = 0


@dataclass(frozen=True, slots=True)
class InputUpload:
    """A picture that a submit names by the id of its upload; nothing about it has been looked up yet."""

    upload_id: UUID
    position: int


#: The field of a stored input that holds the URLs of its pictures by their position: the worker fetches them.
INPUT_URLS = "input_urls"


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An output picture as the result names it."""

    artifact_id: UUID
    media_type: str
    byte_size: int
    sha256: str
    width: int
    height: int


@dataclass(slots=True)  # one a job: frozen, it would take thrice as long to make
class Accepted:
    """A validated input.

    Attributes:
        stored: what is kept in the job; pictures are taken out.
        images: the pictures that came along or were uploaded before, in order.
        warnings: ``{pointer, code, message}`` each.
        refers: there are uploads or URLs among the pictures, which somebody else has to check.
    """

    stored: dict[str, Any]
    images: Sequence[InputImage | InputUpload]
    warnings: Sequence[dict[str, str]]
    refers: bool = False


class Kind(Protocol):
    """One kind; stateless."""

    #: What clients name it, such as ``text.generate``.
    name: ClassVar[str]
    title: ClassVar[str]
    #: The first part of its queues' names.
    queue: ClassVar[str]
    default_model: ClassVar[str]
    input_model: ClassVar[type[KindInput]]
    #: Ready to send, for the documentation.
    example: ClassVar[dict[str, Any]]

    def accept(self, value: Any, model: ModelSpec, *, max_prompt_chars: int) -> Accepted:
        """Checks a parsed input against the model's capabilities. May take long with pictures.

        Raises:
            InputRejected: with every field at fault.
        """
        ...

    def to_request(self, stored: dict[str, Any], images: Sequence[ImageBytes]) -> GenerationRequest:
        """What the provider is asked, from what was stored."""
        ...

    def result(
        self, stored: dict[str, Any], generation: Generation, images: Sequence[StoredImage]
    ) -> dict[str, Any]:
        """What the client gets, from what it asked for and what came back."""
        ...


class InputRejected(Exception):
    """An input that is not allowed; pointers are relative to the input."""

    def __init__(self, errors: Sequence[FieldError]) -> None:
        super().__init__("; ".join(f"{error.pointer}: {error.message}" for error in errors))
        self.errors = tuple(errors)


def not_allowed(pointer: str, value: object, allowed: Sequence[object], model: ModelSpec) -> FieldError:
    """A value that this model does not take, with those it does."""
    listed = ", ".join(str(item) for item in allowed)
    return FieldError(
        pointer,
        "not_allowed",
        f"{shown(value)} is not possible with {model.alias}; use one of: {listed}",
        list(allowed),
    )
