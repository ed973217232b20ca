"""The description of the API: as OpenAPI, and as a page that needs nothing from anywhere else."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterator, Sequence
from hashlib import sha256
from html import escape
from typing import Any

import orjson
from fastapi import APIRouter, Request
from starlette.responses import Response

from api import render
from api.deps import ApiRoute
from api.errors import CODES

router = APIRouter(include_in_schema=False, route_class=ApiRoute)

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; --accent: #4a7d10; }
@media (prefers-color-scheme: dark) { :root { --accent: #a5d65c; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem 1rem 6rem; }
h1, h2, h3 { line-height: 1.2; } h2 { margin-top: 3rem; } h3 { margin-top: 2.5rem; }
a { color: var(--accent); } code, pre { font: 0.875em/1.45 ui-monospace, monospace; }
pre { background: var(--soft); border-radius: 6px; padding: 0.75rem; overflow-x: auto; }
table { border-collapse: collapse; width: 100%; margin: 0.75rem 0; }
th, td { border-bottom: 1px solid var(--line); padding: 0.35rem 0.75rem 0.35rem 0; text-align: left; vertical-align: top; }
th { font-weight: 600; } .method { color: var(--accent); font-weight: 700; } nav li { margin: 0.15rem 0; }
"""
_POLICY = f"default-src 'none'; style-src 'sha256-{b64encode(sha256(_STYLE.encode()).digest()).decode()}'"
_METHODS = ("get", "post", "put", "patch", "delete")


@router.get("/")
async def root(request: Request) -> Response:
    return render.JsonResponse(
        {
            "name": request.app.title,
            "version": request.app.version,
            "api": "/api/v1",
            "documentation": "/docs",
            "openapi": "/openapi.json",
            "health": "/api/health",
        }
    )


@router.get("/openapi.json")
async def openapi(request: Request) -> Response:
    return render.JsonResponse(request.app.openapi(), headers={"Cache-Control": "no-cache"})


@router.get("/docs")
async def docs(request: Request) -> Response:
    page = getattr(request.app.state, "docs_page", None)
    if page is None:
        page = request.app.state.docs_page = page_of(request.app.openapi())
    headers = {"Content-Security-Policy": _POLICY, "Cache-Control": "no-cache"}
    return Response(page, headers=headers, media_type="text/html; charset=utf-8")


def page_of(document: dict[str, Any]) -> str:
    """The whole page: HTML without a script and without an address of anybody else."""
    operations = [
        (method, path, operation)
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if method in _METHODS
    ]
    parts = [
        f"<h1>{escape(document['info']['title'])} API {escape(document['info']['version'])}</h1>",
        *(f"<p>{_rich(text)}</p>" for text in document["info"]["description"].strip().split("\n\n")),
        '<p>For programs: <a href="/openapi.json">openapi.json</a> (OpenAPI 3.1).</p>',
        "<nav><ul>",
        *(
            f'<li><a href="#{operation["operationId"]}"><code>{method.upper()} {escape(path)}</code></a> '
            f"{escape(operation['summary'])}</li>"
            for method, path, operation in operations
        ),
        '<li><a href="#errors">Error codes</a></li><li><a href="#schemas">Schemas</a></li></ul></nav>',
    ]
    for method, path, operation in operations:
        parts += _operation(method, path, operation)
    parts += _errors()
    parts.append('<h2 id="schemas">Schemas</h2>')
    for name, schema in sorted(document["components"]["schemas"].items()):
        parts += _schema(name, schema)
    title = f"<title>{escape(document['info']['title'])} API</title>"
    viewport = '<meta name="viewport" content="width=device-width, initial-scale=1">'
    head = f'<!doctype html><html lang="en"><head><meta charset="utf-8">{viewport}{title}<style>{_STYLE}</style></head>'
    return f"{head}<body>{''.join(parts)}</body></html>\n"


def _operation(method: str, path: str, operation: dict[str, Any]) -> Iterator[str]:
    yield f'<h3 id="{operation["operationId"]}"><code><span class="method">{method.upper()}</span> {escape(path)}</code></h3>'
    yield f"<p><strong>{escape(operation['summary'])}.</strong> {_rich(operation.get('description', ''))}</p>"
    if parameters := operation.get("parameters"):
        rows = [
            (
                f"<code>{escape(entry['name'])}</code>",
                entry["in"],
                _type(entry["schema"]),
                _rich(entry.get("description") or entry["schema"].get("description", "")),
            )
            for entry in parameters
        ]
        yield _table(("Parameter", "In", "Type", ""), rows)
    yield from _body(method, path, operation.get("requestBody"))
    yield _table(("Answer", "", "Body"), [_answer(*item) for item in sorted(operation["responses"].items())])


def _body(method: str, path: str, body: dict[str, Any] | None) -> Iterator[str]:
    if body is None:
        return
    if form := body["content"].get("multipart/form-data"):
        yield from _form(path, form["schema"])
        return
    content = body["content"]["application/json"]
    yield f"<p>Body: {_type(content['schema'])}</p>"
    for example in content.get("examples", {}).values():
        sent = orjson.dumps(example["value"], option=orjson.OPT_INDENT_2).decode()
        command = (
            f'curl -X {method.upper()} "$PLANTAIN_URL{path}" \\\n  -H "Authorization: Bearer $PLANTAIN_API_KEY" \\\n'
            f"  -H 'Content-Type: application/json' \\\n  -d '{sent}'"
        )
        yield f"<p>{escape(example['summary'])}:</p><pre>{escape(command)}</pre>"


def _form(path: str, schema: dict[str, Any]) -> Iterator[str]:
    rows = [
        (
            f"<code>{escape(field)}</code>{'' if field in schema['required'] else ' (optional)'}",
            _type(entry),
            _rich(entry["description"]),
        )
        for field, entry in schema["properties"].items()
    ]
    yield "<p>Body: <code>multipart/form-data</code></p>"
    yield _table(("Part", "Type", ""), rows)
    command = f'curl "$PLANTAIN_URL{path}" \\\n  -H "Authorization: Bearer $PLANTAIN_API_KEY" \\\n  -F file=@photo.jpg'
    yield f"<pre>{escape(command)}</pre>"


def _answer(status: str, answer: dict[str, Any]) -> tuple[str, str, str]:
    bodies = [
        f"{_type(content['schema'])} <code>{escape(media_type)}</code>"
        if content.get("schema")
        else escape(media_type)
        for media_type, content in answer.get("content", {}).items()
    ]
    headers = "".join(
        f"<br><code>{escape(name)}</code> {_rich(header['description'])}"
        for name, header in answer.get("headers", {}).items()
        if "$ref" not in header  # what goes without saying at every endpoint
    )
    return escape(status), _rich(answer.get("description", "")) + headers, "<br>".join(bodies)


def _errors() -> Iterator[str]:
    yield '<h2 id="errors">Error codes</h2><table><tr><th>Code</th><th>Status</th><th></th></tr>'
    for code, (status, meaning) in CODES.items():
        yield f'<tr id="error-{code}"><td><code>{code}</code></td><td>{status}</td><td>{_rich(meaning)}</td></tr>'
    yield "</table>"


def _schema(name: str, schema: dict[str, Any]) -> Iterator[str]:
    yield f'<h3 id="schema-{escape(name)}"><code>{escape(name)}</code></h3><p>{_rich(schema.get("description", ""))}</p>'
    if "enum" in schema:
        yield f"<p>{_type(schema)}</p>"
    required = set(schema.get("required", ()))
    rows = [
        (
            f"<code>{escape(field)}</code>{'' if field in required else ' (optional)'}",
            _type(entry),
            _rich(entry.get("description", "")),
        )
        for field, entry in schema.get("properties", {}).items()
    ]
    if rows:
        yield _table(("Field", "Type", ""), rows)


def _type(schema: dict[str, Any]) -> str:
    """A schema in a few words of HTML."""
    if reference := schema.get("$ref"):
        name = escape(reference.rpartition("/")[2])
        return f'<a href="#schema-{name}">{name}</a>'
    if "enum" in schema or "const" in schema:
        return " | ".join(
            f"<code>{escape(str(value))}</code>" for value in schema.get("enum", [schema.get("const")])
        )
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        return " | ".join(dict.fromkeys(_type(choice) for choice in choices))
    if schema.get("type") == "array":
        return f"array of {_type(schema.get('items', {}))}"
    return escape(" ".join(filter(None, (schema.get("type", "any"), schema.get("format")))))


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = ["".join(f"<td>{cell}</td>" for cell in row) for row in rows]
    titles = "".join(f"<th>{escape(title)}</th>" for title in head)
    return f"<table><tr>{titles}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _rich(text: str) -> str:
    """Text with `code` in it."""
    return re.sub(r"`+([^`]+)`+", r"<code>\1</code>", escape(text))
