"""The models that a job can ask for."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from api import render
from api.deps import AnyKeyRoute
from api.openapi import answers
from shared.errors import NotFound, shown
from shared.kinds import KINDS
from shared.providers.catalog import ImageCapabilities, ModelSpec, Price, TextCapabilities, catalog

router = APIRouter(prefix="/api/v1/models", tags=["models"], route_class=AnyKeyRoute)

_MILLION = Decimal(1_000_000)


class PriceView(BaseModel):
    """USD for one million tokens, as decimal strings."""

    effective_from: date = Field(description="The day (UTC) from which it holds.")
    input: Decimal
    output: Decimal
    image: Decimal | None = Field(description="Of image tokens, where the model makes pictures.")
    per_image: dict[str, Decimal] | None = Field(description="What one picture of each size costs, about.")


class TypicalSeconds(BaseModel):
    p50: float
    p95: float


class ModelView(BaseModel):
    """A model, under the alias that jobs ask for."""

    alias: str = Field(examples=["gemini-flash"])
    title: str
    upstream_model: str = Field(description="The id that the provider is asked for.")
    kinds: list[str]
    default_for: list[str] = Field(description="The kinds that take this model where a job names none.")
    typical_seconds: TypicalSeconds = Field(
        description="How long one call takes: half of them, and 95 of 100."
    )
    text: TextCapabilities | None
    image: ImageCapabilities | None
    price: PriceView = Field(description="In force today.")
    coming_prices: list[PriceView] = Field(description="Known already, and not yet in force.")


class ModelList(BaseModel):
    items: list[ModelView]


@router.get("", response_model=ModelList, summary="List models", responses=answers(401, 503))
async def list_models(request: Request) -> Response:  # noqa: ARG001
    """Every model with what it can do and what it costs."""
    now = datetime.now(UTC)
    return render.JsonResponse({"items": [model_view(model, now) for model in catalog().values()]})


@router.get("/{alias}", response_model=ModelView, summary="Look at a model", responses=answers(401, 404, 503))
async def get_model(request: Request, alias: Annotated[str, Path(examples=["nano-banana"])]) -> Response:  # noqa: ARG001
    model = catalog().get(alias)
    if model is None:
        raise NotFound(
            f"There is no model {shown(alias)}; there are: {', '.join(catalog())}.", code="model_not_found"
        )
    return render.JsonResponse(model_view(model, datetime.now(UTC)))


def model_view(model: ModelSpec, now: datetime) -> dict[str, Any]:
    """``ModelView`` as JSON can take it; ``now`` decides which price is in force."""
    today = now.astimezone(UTC).date()
    p50, p95 = model.typical_seconds
    view = ModelView(
        alias=model.alias,
        title=model.title,
        upstream_model=model.upstream,
        kinds=model.kinds,
        default_for=[kind.name for kind in KINDS.values() if kind.default_model == model.alias],
        typical_seconds=TypicalSeconds(p50=p50, p95=p95),
        text=model.text,
        image=model.image,
        price=_price(model, model.price_at(now)),
        coming_prices=[_price(model, price) for price in model.prices if price.effective_from > today],
    )
    return view.model_dump()


def _price(model: ModelSpec, price: Price) -> PriceView:
    per_image = None
    if model.image and price.image is not None:
        per_image = {size: price.image * tokens / _MILLION for size, tokens in model.image.sizes.items()}
    return PriceView(
        effective_from=price.effective_from,
        input=price.input,
        output=price.output,
        image=price.image,
        per_image=per_image,
    )
