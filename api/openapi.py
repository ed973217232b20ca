"""What the OpenAPI document says beyond what the handlers' signatures do: errors, headers, examples, the key."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from api.errors import CODES, PROBLEM, Problem
from shared.batches.replay_schemas import JobsReplay
from shared.batches.schemas import BatchSubmit, ResultLine
from shared.events.schemas import DeltaView, EventView
from shared.jobs.list_schemas import JobsCancel
from shared.jobs.messages import WebhookMessage
from shared.jobs.schemas import JobSubmit
from shared.kinds import KINDS
from shared.providers.catalog import catalog
from shared.webhooks.schemas import Redeliver, SecretRotate, WebhookCreate, WebhookUpdate

DESCRIPTION = """\
Plantain runs generation jobs: submit one, poll it, fetch its result.

Every request but those to `/api/health` needs an API key: `Authorization: Bearer pln_…`. Reading needs its scope
`jobs:read`, submitting and cancelling `jobs:write`, changing webhooks both. A key sees its own project and nothing of any other.

Errors are `application/problem+json` (RFC 9457); their `code` is stable. Every answer has `X-Request-ID`. Times are RFC 3339 in UTC, ids UUIDs,
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
    415: "Of another type",
    416: "Range outside the picture",
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
    "ETag": _header("Names this version of the job and, while it is queued, its place."),
    "Retry-After": _header(
        "Seconds to wait before the next poll, 1 to 60, from what is known of the job; absent once the state is final.",
        "integer",
    ),
    "Preference-Applied": _header("`wait=N`, where `Prefer` asked for it."),
}
_PREFER = {
    "name": "Prefer",
    "in": "header",
    "description": "`wait=N` (RFC 7240): answer when the job is final, or after N seconds (60 at most); with "
    "`If-None-Match`, already when it has changed (a better place in the queue alone does not count). `Preference-Applied` says that it was understood.",
    "schema": {"type": "string"},
    "example": "wait=30",
}
JOB_ID_PARAMETER = {
    "name": "job_id",
    "in": "path",
    "required": True,
    "description": "The job's id.",
    "schema": {"type": "string", "format": "uuid"},
}
EVENT_PARAMETERS = [
    {
        "name": name,
        "in": place,
        "description": f"The `id` of the last event that you have: those after it are sent; empty is none.{more}",
        "schema": {"type": "string", "pattern": "^[0-9]{0,18}$"},
    }
    for name, place, more in (
        ("Last-Event-ID", "header", " EventSource sends it by itself when it comes back."),
        ("last_event_id", "query", " For clients that cannot send the header, which wins over it."),
    )
]


def _event(data: str, event: dict[str, Any]) -> dict[str, Any]:
    """One event of a stream, as OpenAPI 3.2 has it; FastAPI writes it into documents of 3.1 likewise."""
    return {
        "type": "object",
        "properties": {
            "id": {"type": "string", "pattern": "^[0-9]{1,18}$"},
            "event": {"type": "string", **event},
            "data": {
                "type": "string",
                "contentMediaType": "application/json",
                "contentSchema": {"$ref": f"#/components/schemas/{data}"},
            },
            "retry": {
                "type": "integer",
                "description": "Milliseconds to wait before coming back; sent once.",
            },
        },
    }


IF_NONE_MATCH = {
    "name": "If-None-Match",
    "in": "header",
    "description": "The `ETag` you have: 304 where nothing has changed since.",
    "schema": {"type": "string"},
}
STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Server-sent events; the `data` of each is an `EventView`, and a comment comes every 15 s",
        "content": {
            "text/event-stream": {
                "itemSchema": _event("EventView", {"description": "The `type` of the data."}),
                "example": 'id: 7\nevent: job.succeeded\ndata: {"id":7,"type":"job.succeeded","version":3,…}\n\n',
            }
        },
    }
}
RESULT_HEADERS = {"ETag": _header("Names this version of the result.")}
JOB_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        **STREAM[200],
        "description": "Server-sent events; the `data` of each is an `EventView`, that of those named `delta` a "
        "`DeltaView`, and a comment comes every 15 s",
    }
}
ACCEPTED_HEADERS = {
    **JOB_HEADERS,
    "Location": _header("Where the job is: its `status_url`."),
    "Idempotent-Replayed": _header("`true` where the `Idempotency-Key` came before: nothing new was made."),
}
_KEY = r'^([!#-~][!-~]*|"([!#-\[\]-~]|\\["\\])+")$'
IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "A name of your choice for this request, such as a UUID: 1 to 255 visible ASCII characters, bare or in "
    "double quotes (RFC 9651). Sent again with the same body within 7 days, it is answered as the first time.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": _KEY},
    "example": "8e03978e-40d5-43e8-bc93-6894a57f9324",
}
SUBMIT_PARAMETERS = [IDEMPOTENCY_KEY, _PREFER]
GET_PARAMETERS = [
    JOB_ID_PARAMETER,
    {
        "name": "include",
        "in": "query",
        "description": "`attempts` adds every attempt.",
        "schema": {"type": "string", "enum": ["attempts"]},
    },
    {
        "name": "If-None-Match",
        "in": "header",
        "description": "The `ETag` you have: 304 where neither the job nor its place in the queue has changed since.",
        "schema": {"type": "string"},
    },
    _PREFER,
]
DOWNLOAD_PARAMETERS = [
    {
        "name": name,
        "in": "header",
        "description": description,
        "schema": {"type": "string"},
        **more,
    }
    for name, description, more in (
        ("Range", "One range of bytes, such as `bytes=0-1023` or `bytes=-500`.", {"example": "bytes=0-1023"}),
        ("If-Range", "The `ETag` you have: another one makes the range be ignored.", {}),
        ("If-None-Match", "The `ETag` you have: 304, the bytes never change.", {}),
    )
]
_BYTES = {"content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}}
_DOWNLOAD_HEADERS = {
    "ETag": _header("The SHA-256 of all bytes."),
    "Accept-Ranges": _header("`bytes`."),
    "Content-Disposition": _header("A name for the file."),
    "Content-Security-Policy": _header("A browser that shows it runs nothing of it."),
}
DOWNLOAD_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"description": "All bytes", "headers": _DOWNLOAD_HEADERS, **_BYTES},
    206: {
        "description": "The range that was asked for",
        "headers": {**_DOWNLOAD_HEADERS, "Content-Range": _header("Which bytes, and of how many.")},
        **_BYTES,
    },
}
#: What answers of a status have, whatever the endpoint; every answer has X-Request-ID.
_HEADERS = {
    "X-Request-ID": _header(
        "Names the request in our log: your own `X-Request-ID` where it is sane, else a new one."
    ),
    "WWW-Authenticate": _header("How to say who asks, and what was wrong with it (RFC 6750)."),
    "Retry-After": _header("Seconds to wait before trying again.", "integer"),
    "Content-Range": _header("`bytes */N`: the artifact has N bytes."),
}
_HEADERS_OF = {
    "401": ["WWW-Authenticate"],
    "403": ["WWW-Authenticate"],
    "409": ["Retry-After"],
    "416": ["Content-Range"],
    "503": ["Retry-After"],
}
UPLOAD_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file"],
                "additionalProperties": False,
                "properties": {
                    "file": {"type": "string", "format": "binary", "description": "The picture."},
                    "sha256": {
                        "type": "string",
                        "pattern": "^[0-9a-fA-F]{64}$",
                        "description": "What the SHA-256 of the file must be; another one is an error.",
                    },
                },
            },
        }
    },
}
_UPLOAD_HEADERS = {"Location": _header("Where the upload is: its `url`.")}
UPLOAD_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The project has this file already; it is kept longer",
        "headers": _UPLOAD_HEADERS,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/UploadView"}}},
    },
    201: {"headers": _UPLOAD_HEADERS},
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
_BATCH_LINE = '{"kind": "text.generate", "input": {"prompt": "Write a haiku about a plantain."}, "metadata": {"row": "1"}}\n'
BATCH_BODY = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {"$ref": "#/components/schemas/BatchSubmit"},
            "examples": {
                "prompts": {
                    "summary": "Two prompts",
                    "value": {
                        "defaults": {"kind": "text.generate", "model": "gemini-flash"},
                        "tags": ["nightly"],
                        "jobs": [
                            {"input": {"prompt": "Write a haiku about a plantain."}},
                            {"input": {"prompt": "And one about a banana."}},
                        ],
                    },
                }
            },
        },
        **{
            media_type: {
                "schema": {"type": "string", "description": "A `JobSubmit` on each line."},
                "example": _BATCH_LINE,
            }
            for media_type in ("application/jsonl", "application/x-ndjson")
        },
    },
}
BATCH_PARAMETERS = [
    IDEMPOTENCY_KEY,
    *(
        {
            "name": name,
            "in": "query",
            "description": f"With JSONL: `{field}` of the batch{more}.",
            "schema": schema,
        }
        for name, field, more, schema in (
            ("priority", "priority", "", {"$ref": "#/components/schemas/Priority"}),
            ("tag", "tags", "; may be repeated", {"type": "array", "items": {"type": "string"}}),
            (
                "metadata",
                "metadata",
                ", as `key=value`; may be repeated",
                {"type": "array", "items": {"type": "string"}},
            ),
        )
    ),
]
BATCH_HEADERS = {
    "ETag": _header("Names what the answer says."),
    "Retry-After": _header("Seconds to wait before the next poll; absent once it is completed.", "integer"),
}
BATCH_ACCEPTED_HEADERS = {
    "Location": _header("Where the batch is: its `status_url`."),
    "Retry-After": BATCH_HEADERS["Retry-After"],
    "Idempotent-Replayed": ACCEPTED_HEADERS["Idempotent-Replayed"],
}
BATCH_RESULTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A `ResultLine` for each job",
        "content": {
            "application/jsonl": {
                "schema": {"type": "string"},
                "example": '{"index":0,"id":"0198a7c2-…","state":"succeeded","output":{"text":"…"},"error":null,…}\n',
            }
        },
    }
}
BATCH_EVENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Server-sent events; the `data` of each is a `BatchView`, and a comment comes every 15 s",
        "content": {
            "text/event-stream": {
                "itemSchema": _event("BatchView", {"enum": ["batch.progress", "batch.completed"]}),
                "example": 'event: batch.progress\ndata: {"id":"0198a7c2-…","state":"running","counts":{…},…}\n\n',
            }
        },
    },
    204: {"description": "Nothing is to come"},
}


def json_body(schema: str, example: dict[str, Any], *, required: bool = True) -> dict[str, Any]:
    """The body of a handler that reads it by hand, for ``openapi_extra``."""
    content = {"schema": {"$ref": f"#/components/schemas/{schema}"}, "example": example}
    return {"requestBody": {"required": required, "content": {"application/json": content}}}


def location(what: str) -> dict[str, Any]:
    """The headers of an answer that something was made."""
    return {"Location": _header(f"Where {what} is.")}


CANCEL_BODY = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {"$ref": "#/components/schemas/JobsCancel"},
            "example": {"filter": {"state": ["queued"], "tag": ["nightly"]}, "dry_run": True},
        }
    },
}


REPLAYED_HEADERS = {
    "Location": _header("Where the batch is; absent where none was made."),
    "Idempotent-Replayed": ACCEPTED_HEADERS["Idempotent-Replayed"],
}
REPLAY_MANY_BODY = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {"$ref": "#/components/schemas/JobsReplay"},
            "example": {"filter": {"state": ["failed"], "tag": ["nightly"]}, "dry_run": True},
        }
    },
}
REPLAY_BODY = {
    "required": False,
    "content": {
        "application/json": {
            "schema": {"$ref": "#/components/schemas/JobReplay"},
            "examples": {
                "same": {"summary": "As it was", "value": {}},
                "changed": {
                    "summary": "With another seed, and at once",
                    "value": {"input": {"seed": 7}, "priority": "interactive"},
                },
            },
        }
    },
}


#: What receivers get: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
_WEBHOOK = {
    "summary": "Something happened",
    "description": "Sent to the endpoints that want the event's type, and to a job's `webhook_url`, until it is answered with "
    "2xx within 15 s (`WEBHOOK_TIMEOUT`): at least once, in no promised order.",
    "security": [],
    "parameters": [
        {"name": name, "in": "header", "required": True, "description": description, "schema": {"type": kind}}
        for name, kind, description in (
            (
                "webhook-id",
                "string",
                "The message's id, the same whenever it is sent: what you have had, skip.",
            ),
            ("webhook-timestamp", "integer", "When this sending began, in seconds since 1970."),
            (
                "webhook-signature",
                "string",
                "`v1,` and base64 of HMAC-SHA256 over `<webhook-id>.<webhook-timestamp>.<body>`; or two, with a space between.",
            ),
        )
    ],
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/WebhookMessage"}}},
    },
    "responses": {
        "2XX": {"description": "It is delivered."},
        "410": {"description": "The endpoint is disabled; a job's own address is not tried again."},
        "default": {
            "description": "It is sent again, after 5 s, 5 min, 30 min, 2, 5, 10, 14, 20 and 24 h, and not before "
            "`Retry-After`. Redirects are not followed."
        },
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
        _add_headers(operation["responses"])
    schemas |= _schemas()
    made["components"]["headers"] = _HEADERS
    made["webhooks"] = {"event": {"post": _WEBHOOK}}
    made["components"]["securitySchemes"] = {
        "api_key": {"type": "http", "scheme": "bearer", "description": "An API key: `scripts/keys create`."}
    }
    made["security"] = [{"api_key": []}]
    app.openapi_schema = made
    return made


def _add_headers(responses: dict[str, dict[str, Any]]) -> None:
    """Those that go without saying, and for what is current (304) those of what would be sent."""
    success: dict[str, Any] = next(
        (answer.get("headers", {}) for status, answer in responses.items() if status[0] == "2"), {}
    )
    for status, answer in responses.items():
        common = ["X-Request-ID", *_HEADERS_OF.get(status, ())]
        answer["headers"] = {
            **(success if status == "304" else {}),
            **answer.get("headers", {}),
            **{name: {"$ref": f"#/components/headers/{name}"} for name in common},
        }


def _schemas() -> dict[str, Any]:
    """Schemas of what handlers read or send without FastAPI's knowledge."""
    found: dict[str, Any] = {}
    models: list[type[BaseModel]] = [
        Problem,
        JobSubmit,
        EventView,
        DeltaView,
        JobsCancel,
        WebhookCreate,
        WebhookUpdate,
        WebhookMessage,
        SecretRotate,
        Redeliver,
        BatchSubmit,
        JobsReplay,
        ResultLine,
        *(kind.input_model for kind in KINDS.values()),
    ]
    for model in models:
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        found |= schema.pop("$defs", {})
        found[model.__name__] = schema
    fields = found["JobSubmit"]["properties"]
    fields["kind"]["enum"] = list(KINDS)
    fields["model"]["anyOf"][0]["enum"] = list(catalog())
    fields["input"] = {
        "description": fields["input"]["description"],
        "anyOf": [{"$ref": f"#/components/schemas/{kind.input_model.__name__}"} for kind in KINDS.values()],
    }
    found["JobReplay"] = _replay(found["JobSubmit"])
    return found


def _replay(submit: dict[str, Any]) -> dict[str, Any]:
    """A merge patch of a submit: all may be left out, and null takes a field back to its default."""
    fields: dict[str, dict[str, Any]] = {
        name: {"description": field.get("description", ""), "anyOf": [field, {"type": "null"}]}
        for name, field in submit["properties"].items()
    }
    fields["input"] = {"type": "object", "description": "A merge patch of the source's input."}
    fields["kind"] = {"type": "string", "description": "The source's; better left out."}
    return {
        "title": "JobReplay",
        "description": "What a replay changes: a JSON merge patch (RFC 7396) of the source's submit.",
        "type": "object",
        "additionalProperties": False,
        "properties": fields,
    }
