"""GET /models and /kinds."""

from __future__ import annotations

from datetime import UTC, datetime

import httpx
import pytest
from jsonschema import Draft202012Validator

from api.routers.models import ModelView, model_view
from shared.providers.catalog import catalog
from tests.integration.api.conftest import problem


async def test_models_say_what_they_can_and_cost(client: httpx.AsyncClient) -> None:
    items = (await client.get("/api/v1/models")).json()["items"]
    assert [item["alias"] for item in items] == list(catalog())
    for item in items:
        ModelView.model_validate(item)
        assert (await client.get(f"/api/v1/models/{item['alias']}")).json() == item
    flash, banana = items[0], next(item for item in items if item["alias"] == "nano-banana")
    assert flash["default_for"] == ["text.generate"]
    assert "max_output_tokens" in flash["text"]
    assert banana["image"]["sizes"]
    assert banana["price"]["per_image"].keys() == banana["image"]["sizes"].keys()


@pytest.mark.parametrize(
    ("now", "price", "coming"),
    [
        (datetime(2026, 12, 31, 23, 59, tzinfo=UTC), "0.75", ["1.50"]),
        (datetime(2027, 1, 1, tzinfo=UTC), "1.50", []),
    ],
)
def test_the_price_in_force_depends_on_the_day(now: datetime, price: str, coming: list[str]) -> None:
    view = model_view(catalog()["gemini-flash"], now)
    assert str(view["price"]["input"]) == price
    assert [str(entry["input"]) for entry in view["coming_prices"]] == coming


async def test_kinds_have_a_schema_and_an_example_that_fits_and_can_be_submitted(
    client: httpx.AsyncClient,
) -> None:
    items = (await client.get("/api/v1/kinds")).json()["items"]
    assert {item["name"] for item in items} == {"text.generate", "image.generate"}
    for item in items:
        Draft202012Validator.check_schema(item["input_schema"])
        Draft202012Validator(item["input_schema"]).validate(item["example"]["input"])
        assert item["default_model"] in item["models"]
        assert (await client.post("/api/v1/jobs", json=item["example"])).status_code == 202
        assert (await client.get(f"/api/v1/kinds/{item['name']}")).json() == item


async def test_unknown_names_list_those_that_exist(client: httpx.AsyncClient) -> None:
    body = problem(await client.get("/api/v1/models/gpt"), 404, "model_not_found")
    assert "gemini-flash" in body["detail"]
    body = problem(await client.get("/api/v1/kinds/" + "x" * 5000), 404, "kind_not_found")
    assert "text.generate" in body["detail"]
    assert len(str(body)) < 1000
