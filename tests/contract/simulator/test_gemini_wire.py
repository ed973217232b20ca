"""The Gemini REST form on the wire: what is accepted, what is refused, and what is answered."""

import json
from typing import Any

import httpx
import jsonschema
import pytest

from .conftest import SimulatorProcess
from .wire import (
    IMAGE_MODEL,
    KEY,
    PRO_MODEL,
    TEXT_MODEL,
    body,
    generate,
    inline,
    inline_part,
    picture,
    text_of,
)


@pytest.mark.parametrize("prefix", ["", "/proxy/gemini"])
@pytest.mark.parametrize("version", ["v1", "v1beta"])
async def test_any_prefix_and_both_versions(http: httpx.AsyncClient, prefix: str, version: str) -> None:
    answer = await generate(http, path=f"{prefix}/{version}/models/{{model}}:generateContent")
    assert answer.status_code == 200
    assert answer.headers["x-plantain-simulated"] == "1"
    listed = await http.get(f"{prefix}/{version}/models", headers=KEY)
    assert listed.json()["models"]


async def test_every_answer_says_that_it_is_simulated(http: httpx.AsyncClient) -> None:
    for path in ("/sim/health", "/nothing/here", "/v1beta/models/x", "/v3/models/x"):
        assert (await http.get(path)).headers["x-plantain-simulated"] == "1"


async def test_snake_case_and_numbers_of_enums(http: httpx.AsyncClient) -> None:
    value = {
        "system_instruction": {"parts": {"text": "Be brief."}},
        "contents": [
            {"parts": [{"text": "A"}, {"inline_data": {"mime_type": "image/png", "data": "iVBORw0KGgo="}}]}
        ],
        "safety_settings": [{"category": 7, "threshold": 3}],
        "generation_config": {
            "max_output_tokens": "5",
            "response_modalities": [1],
            "thinking_config": {"thinking_level": 1},
        },
    }
    answer = await generate(http, value)
    assert answer.json()["candidates"][0]["finishReason"] == "MAX_TOKENS"
    assert len(text_of(answer)) == 20
    assert answer.json()["usageMetadata"]["thoughtsTokenCount"] > 0


async def test_key_in_the_query(http: httpx.AsyncClient) -> None:
    answer = await http.post(f"/v1beta/models/{TEXT_MODEL}:generateContent?key=abc", json=body())
    assert answer.status_code == 200


async def test_missing_and_invalid_key(http: httpx.AsyncClient) -> None:
    path = f"/v1beta/models/{TEXT_MODEL}:generateContent"
    missing = await http.post(path, json=body())
    assert (missing.status_code, missing.json()["error"]["status"]) == (403, "PERMISSION_DENIED")
    invalid = await http.post(path, json=body(), headers={"x-goog-api-key": "invalid-1"})
    assert invalid.status_code == 400
    info = invalid.json()["error"]["details"][0]
    assert info["@type"] == "type.googleapis.com/google.rpc.ErrorInfo"
    assert info["reason"] == "API_KEY_INVALID"


async def test_seed_makes_it_repeatable(http: httpx.AsyncClient) -> None:
    texts = [text_of(await generate(http, body(seed=3))) for _ in range(2)]
    assert texts[0] == texts[1] != text_of(await generate(http, body(seed=4)))
    pictures = [inline(await generate(http, body(seed=3), IMAGE_MODEL))[0]["data"] for _ in range(2)]
    assert pictures[0] == pictures[1] != inline(await generate(http, body(seed=4), IMAGE_MODEL))[0]["data"]


async def test_stop_sequence_ends_the_text_before_it(http: httpx.AsyncClient) -> None:
    answer = await generate(http, body("one two END three", stopSequences=["END"]))
    assert text_of(answer).endswith("one two ")
    assert answer.json()["candidates"][0]["finishReason"] == "STOP"


async def test_several_candidates(http: httpx.AsyncClient) -> None:
    candidates = (await generate(http, body(candidateCount=3))).json()["candidates"]
    assert [one["index"] for one in candidates] == [0, 1, 2]


async def test_stream_without_sse_is_a_json_array(http: httpx.AsyncClient) -> None:
    path = "/v1beta/models/{model}:streamGenerateContent"
    chunks = (await generate(http, path=path)).json()
    assert chunks[-1]["candidates"][0]["finishReason"] == "STOP"
    sse = await generate(http, path=path + "?alt=sse")
    assert sse.headers["content-type"] == "text/event-stream"
    lines = [line for line in sse.text.split("\r\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    assert "usageMetadata" in json.loads(lines[-1][6:])


async def test_streamed_picture(http: httpx.AsyncClient) -> None:
    path = "/v1beta/models/{model}:streamGenerateContent"
    chunks = (await generate(http, model=IMAGE_MODEL, path=path)).json()
    assert "inlineData" in chunks[-1]["candidates"][0]["content"]["parts"][0]


@pytest.mark.parametrize(
    ("model", "size", "tokens"), [(IMAGE_MODEL, "1K", 1120), (PRO_MODEL, "2K", 1120), (PRO_MODEL, "4K", 2000)]
)
async def test_usage_prices_correctly(http: httpx.AsyncClient, model: str, size: str, tokens: int) -> None:
    usage = (await generate(http, body(imageConfig={"imageSize": size}), model)).json()["usageMetadata"]
    assert usage["candidatesTokensDetails"] == [{"modality": "IMAGE", "tokenCount": tokens}]
    thoughts = usage.get("thoughtsTokenCount", 0)
    assert (thoughts > 0) == (model == PRO_MODEL)
    assert usage["totalTokenCount"] == usage["promptTokenCount"] + usage["candidatesTokenCount"] + thoughts


async def test_image_only_modality_leaves_the_text_out(http: httpx.AsyncClient) -> None:
    answer = await generate(http, body(responseModalities=["IMAGE"]), IMAGE_MODEL)
    assert next(iter(answer.json()["candidates"][0]["content"]["parts"][0])) == "inlineData"


async def test_rerouted_model_says_who_answered(http: httpx.AsyncClient) -> None:
    answer = await generate(http, model="gemini-2.5-flash")
    assert answer.json()["modelVersion"] == TEXT_MODEL


async def test_extra_model(http: httpx.AsyncClient, sim: SimulatorProcess) -> None:
    assert (await generate(http, model="gemini-9-flash")).status_code == 404
    sim.configure(extra_models={"gemini-9-flash": "text"})
    assert (await generate(http, model="gemini-9-flash")).json()["modelVersion"] == "gemini-9-flash"


PNG = picture()
REFUSED: dict[str, tuple[Any, str]] = {
    "no contents": ({"contents": []}, "contents is not specified"),
    "no parts": ({"contents": [{"role": "user", "parts": []}]}, "parts must not be empty"),
    "empty part": ({"contents": [{"parts": [{}]}]}, "must have one initialized field"),
    "not an object": ([], "Root element must be a message"),
    "bad role": ({"contents": [{"role": "system", "parts": [{"text": "a"}]}]}, "valid role"),
    "unknown field": (
        body(sharpness=1),
        "Unknown name \"sharpness\" at 'generation_config': Cannot find field",
    ),
    "unknown top field": ({**body(), "prompt": "a"}, 'Unknown name "prompt": Cannot find field'),
    "wrong type": (body(temperature="hot"), "Invalid value at 'generation_config.temperature' (TYPE_FLOAT)"),
    "wrong enum": (body(responseModalities=["SMELL"]), "generation_config.response_modalities[0]"),
    "temperature": (body(temperature=3), "must be in the range [0, 2]"),
    "too many stops": (body(stopSequences=list("abcdef")), "at most 5"),
    "schema without json": (body(responseSchema={"type": "STRING"}), "response mime type"),
    "mime type": (body(responseMimeType="text/html"), "allowed mimetypes"),
    "image config on text": (body(imageConfig={"aspectRatio": "1:1"}), "not supported"),
    "image from text": (body(responseModalities=["TEXT", "IMAGE"]), "response modalities"),
    "bad base64": (
        body("a", {"inlineData": {"mimeType": "image/png", "data": "%%%"}}),
        "Base64 decoding failed",
    ),
    "bad media type": (body("a", inline_part(PNG, "image/gif")), "Unsupported MIME type"),
}
REFUSED_PICTURES: dict[str, tuple[Any, str]] = {
    "ratio": (body(imageConfig={"aspectRatio": "7:5"}), "aspect_ratio must be one of"),
    "size": (body(imageConfig={"imageSize": "8K"}), "image_size must be one of"),
    "lower-case size": (body(imageConfig={"imageSize": "1k"}), "image_size must be one of"),
    "candidates": (body(candidateCount=2, responseModalities=["IMAGE"]), "Multiple candidates"),
    "too many inputs": (body("a", *[inline_part(PNG)] * 15), "Too many input images: 15"),
    "large input": (body("a", inline_part(bytes(7 * 1024 * 1024 + 1))), "Input image is larger"),
    "large request": (
        body("a", *[inline_part(bytes(6 * 1024 * 1024))] * 3),
        "payload size exceeds the limit",
    ),
    "not an image": (body("a", inline_part(b"plain text")), "Unable to process input image"),
    "half an image": (
        body("a", inline_part(picture(900, 900, kind="JPEG")[:900])),
        "Unable to process input",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_text_request_is_refused(http: httpx.AsyncClient, case: str) -> None:
    await check_refusal(http, *REFUSED[case], TEXT_MODEL)


@pytest.mark.parametrize("case", REFUSED_PICTURES)
async def test_image_request_is_refused(http: httpx.AsyncClient, sim: SimulatorProcess, case: str) -> None:
    sim.configure(picture_weight="real")
    await check_refusal(http, *REFUSED_PICTURES[case], IMAGE_MODEL)


async def check_refusal(http: httpx.AsyncClient, value: Any, message: str, model: str) -> None:
    answer = await generate(http, value, model)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["status"]) == (400, 400, "INVALID_ARGUMENT")
    assert message in error["message"]


async def test_body_that_is_no_json(http: httpx.AsyncClient) -> None:
    path = f"/v1beta/models/{TEXT_MODEL}:generateContent"
    answer = await http.post(path, content=b"{", headers=KEY)
    assert answer.status_code == 400
    assert "Invalid JSON payload" in answer.json()["error"]["message"]


async def test_body_beyond_the_servers_limit(http: httpx.AsyncClient) -> None:
    path = f"/v1beta/models/{TEXT_MODEL}:generateContent"
    answer = await http.post(path, content=bytes(40 * 1024 * 1024 + 1), headers=KEY)
    assert answer.status_code == 413


async def test_wrong_models(http: httpx.AsyncClient) -> None:
    for model in ("gemini-2.5-flash-image", "gpt-4", "gemini-1.5-pro"):
        answer = await generate(http, model=model)
        assert (answer.status_code, answer.json()["error"]["status"]) == (404, "NOT_FOUND")
    assert (await http.get("/v1beta/models/nope", headers=KEY)).status_code == 404


async def test_model_pages(http: httpx.AsyncClient) -> None:
    first = (await http.get("/v1beta/models?pageSize=3", headers=KEY)).json()
    second = (
        await http.get(f"/v1beta/models?pageSize=3&pageToken={first['nextPageToken']}", headers=KEY)
    ).json()
    assert len(first["models"]) == 3
    assert "nextPageToken" not in second


OPENAPI = {
    "type": "OBJECT",
    "required": ["name", "tags"],
    "properties": {
        "name": {"type": "STRING", "minLength": "30", "maxLength": "40"},
        "kind": {"type": "STRING", "enum": ["a", "b"]},
        "score": {"type": "NUMBER", "minimum": 0.5, "maximum": 0.75},
        "count": {"type": 3, "minimum": 10},
        "tags": {"type": "ARRAY", "items": {"type": "STRING"}, "minItems": "3", "maxItems": 3},
        "maybe": {"type": "BOOLEAN", "nullable": True},
        "either": {"anyOf": [{"type": "INTEGER"}, {"type": "STRING"}]},
    },
}


async def test_openapi_schema_is_satisfied(http: httpx.AsyncClient) -> None:
    answer = await generate(http, body(responseMimeType="application/json", responseSchema=OPENAPI))
    value = json.loads(text_of(answer))
    assert 30 <= len(value["name"]) <= 40
    assert value["kind"] in ("a", "b")
    assert 0.5 <= value["score"] <= 0.75
    assert isinstance(value["count"], int)
    assert value["count"] >= 10
    assert len(value["tags"]) == 3


JSON_SCHEMAS: list[dict[str, Any]] = [
    {"type": "integer", "exclusiveMinimum": 4, "exclusiveMaximum": 6},
    {"type": "number", "exclusiveMaximum": 0},
    {"type": "integer", "multipleOf": 7, "minimum": 50},
    {"type": "string", "pattern": r"^[A-Z]{3}-\d{2,4}$"},
    {"type": "string", "format": "date-time"},
    {"type": ["null", "string"], "maxLength": 4},
    {"type": "array", "items": {"enum": [1, 2, 3]}, "minItems": 3, "uniqueItems": True},
    {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "items": False},
    {"const": {"a": 1}},
    {"allOf": [{"type": "object", "required": ["a"]}, {"properties": {"a": {"type": "boolean"}}}]},
    {"oneOf": [{"type": "integer"}, {"type": "string"}]},
    {"type": "object", "additionalProperties": {"type": "integer"}, "minProperties": 3},
    {
        "$defs": {
            "node": {
                "type": "object",
                "properties": {"next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]}},
            }
        },
        "$ref": "#/$defs/node",
    },
    {
        "type": "object",
        "properties": {"child": {"$ref": "#"}, "value": {"type": "integer"}},
        "required": ["value"],
        "additionalProperties": False,
    },
]


@pytest.mark.parametrize("schema", JSON_SCHEMAS, ids=lambda schema: json.dumps(schema)[:50])
async def test_json_schema_is_satisfied(http: httpx.AsyncClient, schema: dict[str, Any]) -> None:
    for seed in range(3):
        config: dict[str, Any] = {
            "responseMimeType": "application/json",
            "responseJsonSchema": schema,
            "seed": seed,
        }
        jsonschema.validate(json.loads(text_of(await generate(http, body(**config)))), schema)


async def test_enum_answer(http: httpx.AsyncClient) -> None:
    schema = {"type": "STRING", "enum": ["yes", "no"]}
    answer = await generate(http, body(responseMimeType="text/x.enum", responseSchema=schema))
    assert text_of(answer) in ("yes", "no")
