"""The OpenAPI document and the page made from it."""

from __future__ import annotations

import re
from html import escape
from pathlib import Path
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator

import api
import shared
from api.errors import CODES
from api.shortcut import Application
from shared.jobs.status import State, WaitingReason


@pytest.fixture
async def document(anonymous: httpx.AsyncClient) -> dict[str, Any]:
    found: dict[str, Any] = (await anonymous.get("/openapi.json")).json()
    return found


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (path, method, entry) for path, item in document["paths"].items() for method, entry in item.items()
    ]


async def test_it_is_openapi_3_1_and_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    components = document["components"]
    for reference in set(re.findall(r'"\$ref": ?"([^"]+)"', str(document).replace("'", '"'))):
        root, _, group, name = reference.split("/")
        assert root == "#"
        assert name in components[group], reference
    for schema in components["schemas"].values():
        Draft202012Validator.check_schema(schema)


async def test_every_endpoint_documents_its_errors_as_problems(document: dict[str, Any]) -> None:
    for path, method, operation in operations(document):
        assert operation["summary"], path
        if path.startswith("/api/health"):
            assert operation["security"] == []
            continue
        errors = {status for status in operation["responses"] if status >= "400"}
        assert {"401", "503"} <= errors, (path, method)
        assert ("404" in errors) == ("{" in path)
        for status in errors:
            content = operation["responses"][status]["content"]
            assert content["application/problem+json"]["schema"] == {"$ref": "#/components/schemas/Problem"}
            assert content["application/problem+json"]["example"]["status"] == int(status)


async def test_every_route_is_documented(app: Application, document: dict[str, Any]) -> None:
    for route in app.routes:
        if getattr(route, "include_in_schema", False):
            assert getattr(route, "path", None) in document["paths"]


async def test_submit_has_examples_and_a_schema(document: dict[str, Any]) -> None:
    body = document["paths"]["/api/v1/jobs"]["post"]["requestBody"]["content"]["application/json"]
    assert body["schema"] == {"$ref": "#/components/schemas/JobSubmit"}
    assert set(body["examples"]) == {"text.generate", "image.generate"}


async def test_the_page_needs_nothing_from_elsewhere(
    anonymous: httpx.AsyncClient, document: dict[str, Any]
) -> None:
    response = await anonymous.get("/docs")
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.headers["content-security-policy"].startswith("default-src 'none'")
    page = response.text
    assert "<script" not in page
    assert not re.findall(r"""(?:src|href)=["'](?:https?:)?//""", page)
    for path, _, operation in operations(document):
        assert path in page
        assert escape(operation["summary"]) in page
    for code in CODES:
        assert f'id="error-{code}"' in page
    for target in re.findall(r'href="#([^"]+)"', page):
        assert f'id="{target}"' in page, target


async def test_every_code_that_is_raised_is_documented() -> None:
    root = Path(api.__file__).parent, Path(shared.__file__).parent
    raised = {
        match
        for folder in root
        for path in folder.rglob("*.py")
        if "providers" not in path.parts
        for match in re.findall(
            r'(?:BadRequest|Conflict|NotFound|Forbidden|Unauthenticated|ValidationFailed)\([^()]*(?:\([^()]*\)[^()]*)*code="(\w+)"',
            path.read_text(encoding="utf-8"),
        )
    }
    assert len(raised) > 8
    assert raised <= CODES.keys()
    assert {f"job_{state}" for state in ("failed", "cancelled", "expired")} <= CODES.keys()


async def test_the_words_of_the_state_machine_are_in_the_document(document: dict[str, Any]) -> None:
    assert document["components"]["schemas"]["State"]["enum"] == list(State)
    assert document["components"]["schemas"]["WaitingReason"]["enum"] == list(WaitingReason)


async def test_what_receivers_of_webhooks_get_is_in_the_document(document: dict[str, Any]) -> None:
    (received,) = document["webhooks"].values()
    content = received["post"]["requestBody"]["content"]["application/json"]
    assert content["schema"] == {"$ref": "#/components/schemas/WebhookMessage"}
    known = document["components"]["schemas"]["WebhookMessage"]["properties"]["type"]["examples"]
    assert set(known) > {f"job.{state}" for state in State}
    # Every event that is written somewhere has a name that can be asked for.
    folder = Path(shared.__file__).parent
    sources = [path.read_text(encoding="utf-8") for path in folder.rglob("*.py") if path.name != "types.py"]
    written = set(re.findall(r"""['"]((?:job|webhook|batch)\.[a-z_]+)['"]""", "\n".join(sources)))
    assert len(written) >= 6
    assert written <= set(known)


async def test_the_root_says_where_to_go(anonymous: httpx.AsyncClient) -> None:
    found = (await anonymous.get("/")).json()
    for name in ("documentation", "openapi", "health"):
        assert (await anonymous.get(found[name])).status_code in {200, 503}
