"""The official SDK, unchanged, with only its base URL pointing here."""

import io
from collections.abc import AsyncIterator, Iterator

import pytest
from google import genai
from google.genai import errors, types
from PIL import Image
from pydantic import BaseModel

from .conftest import SimulatorProcess
from .wire import IMAGE_MODEL, PRO_MODEL, TEXT_MODEL, picture


class Recipe(BaseModel):
    title: str
    minutes: int
    steps: list[str]


def options(sim: SimulatorProcess) -> types.HttpOptions:
    return types.HttpOptions(base_url=sim.url, api_version="v1beta")


@pytest.fixture
def sdk(sim: SimulatorProcess) -> Iterator[genai.Client]:
    client = genai.Client(api_key="test-key", http_options=options(sim))
    yield client
    client.close()


@pytest.fixture
async def aio(sim: SimulatorProcess) -> AsyncIterator[genai.client.AsyncClient]:
    client = genai.Client(api_key="test-key", http_options=options(sim)).aio
    yield client
    await client.aclose()


def image_of(answer: types.GenerateContentResponse) -> Image.Image:
    blobs = [part.inline_data for part in answer.parts or [] if part.inline_data]
    assert len(blobs) == 1
    assert blobs[0].data
    return Image.open(io.BytesIO(blobs[0].data))


def test_text(sdk: genai.Client) -> None:
    answer = sdk.models.generate_content(model=TEXT_MODEL, contents="What is a plantain?")
    assert "SIMULATED" in (answer.text or "")
    assert answer.model_version == TEXT_MODEL
    assert answer.response_id
    assert answer.candidates
    assert answer.candidates[0].finish_reason is types.FinishReason.STOP
    usage = answer.usage_metadata
    assert usage
    assert usage.total_token_count == (usage.prompt_token_count or 0) + (usage.candidates_token_count or 0)


async def test_text_async_with_every_option(aio: genai.client.AsyncClient) -> None:
    config = types.GenerateContentConfig(
        system_instruction="Be brief.",
        temperature=0.5,
        top_p=0.9,
        top_k=40,
        max_output_tokens=10,
        stop_sequences=["END"],
        seed=7,
        thinking_config=types.ThinkingConfig(thinking_level=types.ThinkingLevel.LOW, include_thoughts=True),
        safety_settings=[
            types.SafetySetting(
                category=types.HarmCategory.HARM_CATEGORY_HARASSMENT,
                threshold=types.HarmBlockThreshold.BLOCK_ONLY_HIGH,
            )
        ],
    )
    answer = await aio.models.generate_content(model=TEXT_MODEL, contents="Hello", config=config)
    assert len(answer.text or "") == 40
    assert answer.candidates
    assert answer.candidates[0].finish_reason is types.FinishReason.MAX_TOKENS
    assert any(part.thought for part in answer.parts or [])
    assert answer.usage_metadata
    assert answer.usage_metadata.thoughts_token_count


async def test_json_schema_from_a_model(aio: genai.client.AsyncClient) -> None:
    config = types.GenerateContentConfig(response_mime_type="application/json", response_schema=Recipe)
    answer = await aio.models.generate_content(model=TEXT_MODEL, contents="A recipe", config=config)
    assert isinstance(answer.parsed, Recipe)


def test_response_json_schema(sdk: genai.Client) -> None:
    config = types.GenerateContentConfig(
        response_mime_type="application/json", response_json_schema=Recipe.model_json_schema()
    )
    answer = sdk.models.generate_content(model=TEXT_MODEL, contents="A recipe", config=config)
    assert Recipe.model_validate_json(answer.text or "").steps


def test_stream(sdk: genai.Client) -> None:
    chunks = list(sdk.models.generate_content_stream(model=TEXT_MODEL, contents="Tell me a story"))
    assert len(chunks) > 2
    assert "You wrote: Tell me a story" in "".join(chunk.text or "" for chunk in chunks)
    reasons = [chunk.candidates[0].finish_reason for chunk in chunks if chunk.candidates]
    assert reasons[:-1] == [None] * (len(chunks) - 1)
    assert reasons[-1] is types.FinishReason.STOP


async def test_stream_async(aio: genai.client.AsyncClient) -> None:
    stream = await aio.models.generate_content_stream(model=TEXT_MODEL, contents="Tell me a story")
    chunks = [chunk async for chunk in stream]
    assert chunks[-1].usage_metadata
    assert chunks[-1].usage_metadata.candidates_token_count


async def test_stream_that_brings_an_error(aio: genai.client.AsyncClient) -> None:
    prompt = "Tell me a story [[sim:fault=stream-error:503]]"
    stream = await aio.models.generate_content_stream(model=TEXT_MODEL, contents=prompt)
    for _ in range(3):
        assert (await anext(stream)).text
    with pytest.raises(errors.ServerError, match="overloaded") as caught:
        await anext(stream)
    assert (caught.value.code, caught.value.status) == (503, "UNAVAILABLE")


async def test_stream_without_an_end(aio: genai.client.AsyncClient) -> None:
    prompt = "Tell me a story [[sim:fault=stream-unfinished]]"
    stream = await aio.models.generate_content_stream(model=TEXT_MODEL, contents=prompt)
    reasons = [chunk.candidates[0].finish_reason async for chunk in stream if chunk.candidates]
    assert reasons == [None, None, None]


async def test_image_generation(aio: genai.client.AsyncClient) -> None:
    config = types.GenerateContentConfig(
        response_modalities=["TEXT", "IMAGE"],
        image_config=types.ImageConfig(aspect_ratio="16:9", image_size="2K"),
    )
    answer = await aio.models.generate_content(model=PRO_MODEL, contents="A plantain", config=config)
    assert image_of(answer).size == (2752, 1536)
    usage = answer.usage_metadata
    assert usage
    assert usage.candidates_tokens_details
    assert usage.candidates_tokens_details[0].token_count == 1120
    assert usage.thoughts_token_count


def test_image_editing_keeps_the_input_visible(sdk: genai.Client, sim: SimulatorProcess) -> None:
    sim.configure(picture_weight="real")
    source = types.Part.from_bytes(data=picture(400, 300, "#ff00ff"), mime_type="image/png")
    contents = types.Content(role="user", parts=[types.Part.from_text(text="Make it blue"), source])
    answer = sdk.models.generate_content(model=IMAGE_MODEL, contents=contents)
    image = image_of(answer).convert("RGB")
    assert image.size == (1200, 896)  # the ratio nearest to the input's
    pixel = image.getpixel((image.width // 2, int(image.height * 0.47)))
    assert isinstance(pixel, tuple)
    assert all(abs(a - b) < 20 for a, b in zip(pixel, (255, 0, 255), strict=True))


@pytest.mark.parametrize(
    ("fault", "code", "status"),
    [
        ("429-retryinfo", 429, "RESOURCE_EXHAUSTED"),
        ("400", 400, "INVALID_ARGUMENT"),
        ("503", 503, "UNAVAILABLE"),
    ],
)
async def test_errors(aio: genai.client.AsyncClient, fault: str, code: int, status: str) -> None:
    with pytest.raises(errors.APIError) as caught:
        await aio.models.generate_content(model=TEXT_MODEL, contents=f"x [[sim:fault={fault}]]")
    assert (caught.value.code, caught.value.status) == (code, status)


def test_wrong_model_and_key(sdk: genai.Client, sim: SimulatorProcess) -> None:
    with pytest.raises(errors.ClientError, match="not found") as missing:
        sdk.models.generate_content(model="gemini-1.5-flash", contents="x")
    assert missing.value.code == 404
    with (
        genai.Client(api_key="invalid-key", http_options=options(sim)) as other,
        pytest.raises(errors.ClientError, match="API key not valid") as refused,
    ):
        other.models.generate_content(model=TEXT_MODEL, contents="x")
    assert refused.value.code == 400


async def test_models(aio: genai.client.AsyncClient, sdk: genai.Client) -> None:
    names = {model.name for model in sdk.models.list(config={"page_size": 3})}
    assert names == {
        f"models/{name}" for name in (TEXT_MODEL, "gemini-3.5-flash-lite", IMAGE_MODEL, PRO_MODEL)
    }
    model = await aio.models.get(model=TEXT_MODEL)
    assert model.supported_actions == ["generateContent"]
    assert [one.name async for one in await aio.models.list()]
