"""The models that a job can ask for: capabilities and dated prices, read from ``catalog.toml``."""

from __future__ import annotations

import tomllib
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

CATALOG_FILE = Path(__file__).with_name("catalog.toml")


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TextCapabilities(_Entry):
    """What a text model can be asked for.

    ``ignored`` names parameters that the model accepts without effect: they are not sent, and the
    job carries a warning.
    """

    max_input_tokens: int
    max_output_tokens: int
    seed: bool = True
    max_stop_sequences: int = 5
    response_schema: bool = True
    stream: bool = Field(True, description="Whether the text can be had as it is made.")
    thinking_levels: list[str] = []
    ignored: list[str] = []


class ImageCapabilities(_Entry):
    """What an image model can be asked for; ``sizes`` maps each to its image tokens."""

    aspect_ratios: list[str]
    sizes: dict[str, int]
    input_media_types: list[str]
    max_input_images: int
    max_input_image_bytes: int
    max_input_total_bytes: int
    seed: bool = True


class Price(_Entry):
    """USD for one million tokens, from a day on (00:00 UTC). ``image`` is for image tokens."""

    effective_from: date
    input: Decimal
    output: Decimal
    image: Decimal | None = None


class ModelSpec(_Entry):
    """One model: ``alias`` is what clients ask for, ``upstream`` what the provider is asked for."""

    alias: str
    title: str
    upstream: str
    family: Literal["gemini", "nano-banana"]
    kinds: list[str]
    typical_seconds: tuple[float, float] = Field(description="p50 and p95 of one call, seconds")
    text: TextCapabilities | None = None
    image: ImageCapabilities | None = None
    prices: list[Price] = Field(min_length=1)

    @model_validator(mode="after")
    def _prices_in_order(self) -> ModelSpec:
        days = [price.effective_from for price in self.prices]
        if days != sorted(set(days)):
            raise ValueError(f"{self.alias}: prices must be in order of effective_from, each day once")
        return self

    def price_at(self, moment: datetime) -> Price:
        """The price that holds at a moment; before the first day, the first."""
        day = moment.astimezone(UTC).date()
        held = [price for price in self.prices if price.effective_from <= day]
        return held[-1] if held else self.prices[0]


@cache
def catalog() -> dict[str, ModelSpec]:
    """Every model by its alias, in the order of the file."""
    entries = tomllib.loads(CATALOG_FILE.read_text(encoding="utf-8"))["models"]
    return {alias: ModelSpec.model_validate({"alias": alias, **entry}) for alias, entry in entries.items()}


def models_for(kind: str) -> list[ModelSpec]:
    """The models that can run a kind."""
    return [model for model in catalog().values() if kind in model.kinds]
