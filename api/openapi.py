"""What the OpenAPI document says beyond what the handlers' signatures do: errors, headers, examples, the key."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from api.errors import CODES, PROBLEM, Problem
from shared.jobs.schemas import JobsCancel, JobSubmit
from shared.kinds import KINDS

DESCRIPTION = """\
Plantain runs generation jobs: submit one, poll it, fetch its result.

Every request but those to `/api/health` needs an API key: `Authorization: Bearer pln_…`. Reading needs its scope
`jobs:read`, submitting and cancelling `jobs:write`. A key sees its own project and nothing of any other.

Errors are `application/problem+json` (RFC 9457); their `code` is stable. Times are RFC 3339 in UTC, ids UUIDs,
money decimal strings in USD. Addresses in answers are paths on this server, or whole addresses where PUBLIC_URL is set.
"""

_TITLES = {
    400: "The request could not be read",
    401: "No valid API key",
    403: "The key lacks the scope",
    404: "Not in this project",
    408: "The body did not come in time",
    409: "The state forbids it",
    410: "Removed",
    413: "Body too large",
    415: "Not JSON",
    416: "Range outside the artifact",
    422: "Something in the request is not allowed",
    503: "Something that we need is away",
}
_PROBLEM_SCHEMA = {"$ref": "#/components/schemas/Problem"}


def answers(
    *statuses: int, success: dict[int, dict[str, Any]] | None = None, not_modified: bool = False
) -> dict[int | str, dict[str, Any]]:
    """The documented answers of an endpoint: its errors, and headers of what succeeds."""
    found: dict[int | str, dict[str, Any]] = {
        status: {"description": _TITLES[status], "content": {PROBLEM: _content(status)}}
        for status in statuses
    }
    if not_modified:
        found[304] = {"description": "What you have is current (`If-None-Match`)"}
    for status, headers in (success or {}).items():
        found[status] = {"headers": headers}
    return found


def _content(status: int) -> dict[str, Any]:
    code, (_, meaning) = next((name, entry) for name, entry in CODES.items() if entry[0] == status)
    example: dict[str, Any] = {
        "type": f"/docs#error-{code}",
        "title": _TITLES[status],
        "status": status,
        "detail": meaning,
        "instance": "/api/v1/jobs",
        "code": code,
        "request_id": "0198a7c2-6f0e-7c3a-9a53-0f6d2b9d8e11",
    }
    if status == 422:
        example["errors"] = [
            {
                "pointer": "/input/size",
                "code": "not_allowed",
                "message": "'8K' is not possible with nano-banana; use one of: 1K, 2K, 4K",
                "allowed": ["1K", "2K", "4K"],
            }
        ]
    return {"schema": _PROBLEM_SCHEMA, "example": example}


def _header(description: str, kind: str = "string") -> dict[str, Any]:
    return {"description": description, "schema": {"type": kind}}


JOB_HEADERS = {
    "ETag": _header("Names this version of the job."),
    "Retry-After": _header(
        "Seconds to wait before the next poll; absent once the state is final.", "integer"
    ),
}
GET_PARAMETERS = [
    {
        "name": "job_id",
        "in": "path",
        "required": True,
        "description": "The job's id.",
        "schema": {"type": "string", "format": "uuid"},
    },
    {
        "name": "include",
        "in": "query",
        "description": "`attempts` adds every attempt.",
        "schema": {"type": "string", "enum": ["attempts"]},
    },
    {
        "name": "If-None-Match",
        "in": "header",
        "description": "The `ETag` you have: 304 where the job has not changed since.",
        "schema": {"type": "string"},
    },
]
ARTIFACT_PARAMETERS = [
    {
        "name": name,
        "in": "header",
        "description": description,
        "schema": {"type": "string"},
    }
    for name, description in (
        ("Range", "One range of bytes, such as `bytes=0-1023` or `bytes=-500`."),
        ("If-Range", "The `ETag` you have: another one makes the range be ignored."),
        ("If-None-Match", "The `ETag` you have: 304, the bytes never change."),
    )
]
_BYTES = {"content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}}
ARTIFACT_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"description": "All bytes; the `ETag` is their SHA-256", **_BYTES},
    206: {"description": "The range that was asked for", **_BYTES},
}
SUBMIT_BODY = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {"$ref": "#/components/schemas/JobSubmit"},
            "examples": {
                kind.name: {
                    "summary": kind.title,
                    "value": {"kind": kind.name, "model": kind.default_model, "input": kind.example},
                }
                for kind in KINDS.values()
            },
        }
    },
}
CANCEL_BODY = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {"$ref": "#/components/schemas/JobsCancel"},
            "example": {"filter": {"state": ["queued"], "tag": ["nightly"]}, "dry_run": True},
        }
    },
}


def document(app: FastAPI) -> dict[str, Any]:
    """The whole OpenAPI document; made once."""
    if app.openapi_schema:
        return app.openapi_schema
    made = get_openapi(
        title=app.title,
        version=app.version,
        openapi_version=app.openapi_version,
        description=DESCRIPTION,
        routes=app.routes,
        tags=app.openapi_tags,
    )
    schemas: dict[str, Any] = made.setdefault("components", {}).setdefault("schemas", {})
    for unused in (
        "HTTPValidationError",
        "ValidationError",
    ):  # FastAPI's own form of 422, which we never send
        schemas.pop(unused, None)
    for operation in (entry for item in made["paths"].values() for entry in item.values()):
        answer = operation["responses"].get("422")
        if answer and PROBLEM not in answer["content"]:
            del operation["responses"]["422"]
    schemas |= _schemas()
    made["components"]["securitySchemes"] = {
        "api_key": {"type": "http", "scheme": "bearer", "description": "An API key: `scripts/keys create`."}
    }
    made["security"] = [{"api_key": []}]
    app.openapi_schema = made
    return made


def _schemas() -> dict[str, Any]:
    """Schemas of what handlers read or send without FastAPI's knowledge."""
    found: dict[str, Any] = {}
    models: list[type[BaseModel]] = [
        Problem,
        JobSubmit,
        JobsCancel,
        *(kind.input_model for kind in KINDS.values()),
    ]
    for model in models:
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        found |= schema.pop("$defs", {})
        found[model.__name__] = schema
    return found
