"""What jobs can do, with the JSON Schema of each kind's input."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from api import render
from api.deps import AnyKeyRoute
from api.openapi import answers
from shared.errors import NotFound, shown
from shared.kinds import KINDS, Kind
from shared.providers.catalog import models_for

router = APIRouter(prefix="/api/v1/kinds", tags=["kinds"], route_class=AnyKeyRoute)


class KindView(BaseModel):
    """A kind of job."""

    name: str = Field(examples=["text.generate"])
    title: str
    models: list[str] = Field(description="Aliases that can run it.")
    default_model: str
    input_schema: dict[str, Any] = Field(description="JSON Schema (2020-12) of the job's `input`.")
    example: dict[str, Any] = Field(description="A whole job, ready to be submitted.")


class KindList(BaseModel):
    items: list[KindView]


@router.get("", response_model=KindList, summary="List kinds", responses=answers(401, 503))
async def list_kinds(request: Request) -> Response:  # noqa: ARG001
    """Every kind with its input's schema and an example to submit."""
    return render.JsonResponse({"items": [kind_view(kind) for kind in KINDS.values()]})


@router.get("/{name}", response_model=KindView, summary="Look at a kind", responses=answers(401, 404, 503))
async def get_kind(request: Request, name: Annotated[str, Path(examples=["image.generate"])]) -> Response:  # noqa: ARG001
    kind = KINDS.get(name)
    if kind is None:
        raise NotFound(
            f"There is no kind {shown(name)}; there are: {', '.join(KINDS)}.", code="kind_not_found"
        )
    return render.JsonResponse(kind_view(kind))


def kind_view(kind: Kind) -> dict[str, Any]:
    """``KindView`` as JSON can take it."""
    return {
        "name": kind.name,
        "title": kind.title,
        "models": [model.alias for model in models_for(kind.name)],
        "default_model": kind.default_model,
        "input_schema": {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            **kind.input_model.model_json_schema(),
        },
        "example": {"kind": kind.name, "model": kind.default_model, "input": kind.example},
    }
