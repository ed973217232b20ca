"""What the drivers really send, as the simulator received it, and how they read its odder answers."""

from __future__ import annotations

import gc
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from io import BytesIO
from uuid import uuid4

import orjson
import pytest
from PIL import Image

from shared.providers import Drivers
from shared.providers.base import (
    Call,
    ImageBytes,
    ImageRequest,
    Message,
    PermanentError,
    RetryableError,
    TextRequest,
    UnknownOutcomeError,
    Usage,
)
from shared.providers.catalog import catalog
from shared.providers.endpoints import Endpoint
from shared.providers.gemini import GeminiDriver
from shared.providers.origin import Answer, Origin
from shared.providers.wire import error_from
from tests.contract.conftest import RunningSimulator
from tests.contract.providers.cases import CASES, Asker, Case, call, settings_for

GEMINI, _, NANO_BANANA, GATEWAY, GATEWAY_POLL, STREAMED = CASES
_SIMULATOR_KEY = "sha256:" + hashlib.sha256(b"simulator").hexdigest()[:12]
AskerOf = Callable[..., Asker]


@pytest.fixture
async def asker(simulator: RunningSimulator) -> AsyncIterator[AskerOf]:
    """Makes the driver of a case, with settings changed."""
    made: list[Drivers] = []

    def make(case: Case, **settings: str) -> Asker:
        drivers = Drivers(settings_for(simulator.url, **{**case.settings, **settings}))
        made.append(drivers)
        return Asker(case, drivers.get(case.spec))

    yield make
    for drivers in made:
        await drivers.aclose()


def picture(kind: str = "PNG") -> ImageBytes:
    data = BytesIO()
    Image.new("RGB", (8, 8), "green").save(data, kind)
    return ImageBytes(data.getvalue(), f"image/{kind.lower()}", 8, 8)


async def test_gemini_sends_every_parameter(asker: AskerOf, simulator: RunningSimulator) -> None:
    job = uuid4()
    request = TextRequest(
        messages=[Message("user", "one"), Message("model", "two"), Message("user", "three")],
        system="be brief",
        response_schema={"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]},
        max_output_tokens=300,
        temperature=0.5,
        seed=7,
        stop=["END"],
        thinking_level="low",
    )

    answer = await asker(GEMINI).driver.generate(request, call(GEMINI, job))

    assert "a" in json.loads(answer.text or "")
    sent = simulator.last_request(str(job))
    assert sent["path"] == "/v1beta/models/gemini-3.8-flash:generateContent"
    assert sent["query"] == {}
    assert sent["headers"]["x-goog-api-key"] == _SIMULATOR_KEY
    assert sent["headers"]["accept-encoding"] == "identity"
    assert [(turn["role"], turn["parts"]) for turn in sent["body"]["contents"]] == [
        ("user", [{"text": "one"}]),
        ("model", [{"text": "two"}]),
        ("user", [{"text": "three"}]),
    ]
    assert sent["body"]["systemInstruction"]["parts"] == [{"text": "be brief"}]
    assert sent["body"]["generationConfig"] == {
        "maxOutputTokens": 300,
        "stopSequences": ["END"],
        "seed": 7,
        "responseMimeType": "application/json",
        "responseJsonSchema": request.response_schema,
        "thinkingConfig": {"thinking_level": "LOW"},  # the SDK's spelling; Google reads both
    }, "temperature is ignored by the model and left out"


async def test_nano_banana_sends_pictures_to_work_from(asker: AskerOf, simulator: RunningSimulator) -> None:
    job = uuid4()
    request = ImageRequest("paint it", "4:5", "2K", seed=3, input_images=[picture(), picture("JPEG")])

    await asker(NANO_BANANA).driver.generate(request, call(NANO_BANANA, job, timeout=9.5))

    sent = simulator.last_request(str(job))
    assert sent["path"] == "/v1beta/models/gemini-nano-banana-2.1:generateContent"
    assert sent["headers"]["x-goog-api-key"] == _SIMULATOR_KEY
    assert sent["headers"]["x-server-timeout"] == "10"
    [turn] = sent["body"]["contents"]
    assert [part.get("text") or part["inlineData"]["mimeType"] for part in turn["parts"]] == [
        "paint it",
        "image/png",
        "image/jpeg",
    ]
    assert sent["body"]["generationConfig"] == {
        "responseModalities": ["TEXT", "IMAGE"],
        "imageConfig": {"aspectRatio": "4:5", "imageSize": "2K"},
        "seed": 3,
    }


async def test_gateway_sends_its_own_form(asker: AskerOf, simulator: RunningSimulator) -> None:
    job = uuid4()
    request = ImageRequest("paint it", "16:9", "1K", seed=7, input_images=[picture()])

    await asker(GATEWAY).driver.generate(request, call(GATEWAY, job))

    sent = simulator.last_request(str(job))
    assert (sent["method"], sent["path"]) == ("POST", "/visualize")
    assert sent["headers"]["authorization"] == f"Bearer {_SIMULATOR_KEY}"
    body = sent["body"]
    [image] = body.pop("input_images")
    assert image["mime_type"] == "image/png"
    assert body == {
        "model": "nano-banana",
        "prompt": "paint it",
        "aspect_ratio": "16:9",
        "size": "1K",
        "seed": 7,
        "response_format": "b64",
        "output_format": "png",
    }


async def test_gateway_path_and_header_are_settings(asker: AskerOf) -> None:
    elsewhere = asker(GATEWAY, nano_banana_gateway_path="/v2/draw")
    with pytest.raises(PermanentError) as caught:
        await elsewhere()
    assert caught.value.error_code == "model_not_found"

    renamed = asker(GATEWAY, nano_banana_gateway_auth_header="x-key", nano_banana_gateway_auth_scheme="none")
    with pytest.raises(PermanentError) as caught:
        await renamed()
    assert caught.value.error_code == "unauthenticated", "the simulator reads Authorization only"


@pytest.mark.parametrize(
    ("fault", "finish"), [("max-tokens", "max_tokens"), ("int-enum", "stop"), ("no-usage", "stop")]
)
async def test_usable_text_is_success(asker: AskerOf, fault: str, finish: str) -> None:
    answer = await asker(GEMINI)(fault=fault)

    assert answer.finish_reason == finish
    assert answer.text
    assert (answer.usage == Usage()) is (fault == "no-usage")


@pytest.mark.parametrize("chosen", [GEMINI, NANO_BANANA], ids=lambda chosen: chosen.name)
async def test_unknown_finish_reason_with_content_is_success(asker: AskerOf, chosen: Case) -> None:
    answer = await asker(chosen)(fault="unknown-enum")

    assert answer.finish_reason not in {"", "stop"}
    assert answer.finish_reason == answer.finish_reason.lower()
    assert answer.images or answer.text


async def test_finish_message_reaches_the_error(asker: AskerOf) -> None:
    with pytest.raises(PermanentError, match=r"OTHER\): \w+"):
        await asker(GEMINI)(fault="finish-message")


async def test_drafts_are_left_out(asker: AskerOf) -> None:
    assert len((await asker(NANO_BANANA)(fault="draft-thoughts")).images) == 1


@pytest.mark.parametrize("chosen", [NANO_BANANA, GATEWAY], ids=lambda chosen: chosen.name)
async def test_bytes_say_what_a_picture_is(asker: AskerOf, chosen: Case) -> None:
    [image] = (await asker(chosen)(fault="jpeg-as-png")).images

    assert image.media_type == "image/jpeg"
    assert image.data.startswith(b"\xff\xd8")


async def test_oversized_answer_is_not_read(asker: AskerOf, simulator: RunningSimulator) -> None:
    ask = asker(NANO_BANANA)
    vars(ask.driver)["_origin"] = Origin(simulator.url, error_from, max_answer_bytes=5_000)

    with pytest.raises(RetryableError, match="larger than 5000 bytes") as caught:
        await ask()

    assert (caught.value.error_code, caught.value.billed) == ("malformed_response", None)


@pytest.mark.parametrize("form", [NANO_BANANA, GATEWAY], ids=["google", "gateway"])
async def test_answer_is_let_go_when_it_has_been_read(asker: AskerOf, form: Case) -> None:
    """Without waiting for the garbage collector: an answer is megabytes, and collections are rare."""
    ask = asker(form)
    await ask()
    gc.collect()
    gc.disable()
    try:
        before = sum(isinstance(each, Answer) for each in gc.get_objects())
        await ask()
        after = sum(isinstance(each, Answer) for each in gc.get_objects())
    finally:
        gc.enable()

    assert after == before


async def test_lost_poll_is_repeated_without_another_post(
    asker: AskerOf, simulator: RunningSimulator
) -> None:
    job = uuid4()

    answer = await asker(GATEWAY_POLL)(fault="poll-503", job=job)

    assert len(answer.images) == 1
    assert simulator.calls(str(job))["by_job"][str(job)] == {"1": 1}


@pytest.mark.parametrize(("fault", "code"), [("poll-lost", "connection_lost"), ("poll-forever", "timeout")])
async def test_accepted_and_lost_is_unknown(asker: AskerOf, fault: str, code: str) -> None:
    with pytest.raises(UnknownOutcomeError) as caught:
        await asker(GATEWAY_POLL)(fault=fault, timeout=0.6)

    assert caught.value.error_code == code


async def test_result_url_on_the_gateway_itself_is_fetched_without_the_key(
    asker: AskerOf, simulator: RunningSimulator
) -> None:
    import httpx

    form = {"model": "nano-banana", "prompt": "a boat", "response_format": "url"}
    made = httpx.post(f"{simulator.url}/visualize", json=form, headers={"authorization": "Bearer simulator"})
    url = made.json()["images"][0]["url"]

    answer = await asker(GATEWAY)(fault=f"private-url:{url}")

    assert len(answer.images) == 1
    assert simulator.calls()["keys_forwarded"] == 0


@pytest.mark.parametrize(
    ("url", "hosts", "words"),
    [
        ("https://10.0.0.1/a.png", "", "RESULT_HOSTS"),
        ("https://10.0.0.1/a.png", "10.0.0.1", "public internet"),
        ("https://127.0.0.1:2000/a.png", "", "public internet"),
        ("https://localhost/a.png", "localhost", "public internet"),
        ("https://169.254.169.254/latest", "169.254.169.254", "public internet"),
        ("http://127.0.0.1:1/a.png", "", "not https"),
        ("file:///etc/passwd", "", "not https"),
        ("https://user:pw@10.0.0.1/a.png", "10.0.0.1", "credentials"),
        ("https://10.0.0.1:99999/a.png", "", "malformed"),
    ],
)
async def test_result_url_elsewhere_is_refused_for_good(
    asker: AskerOf, url: str, hosts: str, words: str
) -> None:
    with pytest.raises(PermanentError, match=words) as caught:
        await asker(GATEWAY, nano_banana_gateway_result_hosts=hosts)(fault=f"private-url:{url}")

    assert caught.value.error_code == "no_image"
    assert caught.value.billed is True


async def test_result_url_that_gives_nothing_is_of_unknown_outcome(
    asker: AskerOf, simulator: RunningSimulator
) -> None:
    with pytest.raises(UnknownOutcomeError):
        await asker(GATEWAY)(fault=f"private-url:{simulator.url}/visualize-files/nothing/0.png")


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    "request_",
    [
        TextRequest([Message("user", "Hello")]),
        TextRequest(
            [Message("user", "a"), Message("model", "b"), Message("user", '\u00e9 \u2028 "')],
            system="Be brief.",
        ),
        TextRequest([Message("user", "x")], max_output_tokens=7, seed=3, stop=["END"], thinking_level="low"),
        TextRequest(
            [Message("user", "x")],
            response_schema={"type": "object", "properties": {"a": {"type": "string"}}},
        ),
    ],
    ids=["plain", "conversation", "options", "schema"],
)
async def test_what_is_sent_is_what_the_sdk_would_send(request_: TextRequest, streamed: bool) -> None:
    """The driver keeps the SDK's form of a request and fills in texts: it must come to the same."""
    driver = GeminiDriver(Endpoint("http://127.0.0.1:1/prefix", "key"), stream_idle=60)
    model = catalog()["gemini-flash"]
    call_ = Call(uuid4(), 1, model, 12.5, on_text=(lambda _: None) if streamed else None)
    # Learned from another conversation with the same options.
    learned = replace(request_, messages=[Message("user", "other")], system=request_.system and "other")
    form = await driver._form(learned, call_)
    sdks = await driver._sdk.request(request_, call_)
    await driver.aclose()

    assert orjson.loads(form.filled_in(request_)) == orjson.loads(sdks.content)
    assert sdks.url.raw_path.decode() == f"/prefix{form.path}"
    assert form.path.endswith(":streamGenerateContent?alt=sse" if streamed else ":generateContent")
    assert form.headers.items() <= dict(sdks.headers).items()
    assert form.headers["x-goog-api-key"] == "key"
    assert form.headers["x-server-timeout"] == "13"
