from __future__ import annotations

import base64
import io
import time
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from shared.kinds import KINDS
from shared.kinds.base import INPUT_URLS, Accepted, InputImage, InputRejected, InputUpload
from shared.kinds.text_generate import _extent
from shared.providers.base import Generation, Usage
from shared.providers.catalog import catalog, models_for
from tests.pictures import animated, bomb

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


def accept(kind: str, value: Any, alias: str | None = None, limit: int = 1000) -> Accepted:
    found = KINDS[kind]
    return found.accept(value, catalog()[alias or found.default_model], max_prompt_chars=limit)


def picture(form: str = "PNG", size: tuple[int, int] = (3, 2)) -> str:
    file = io.BytesIO()
    Image.new("RGB", size).save(file, form)
    return base64.b64encode(file.getvalue()).decode()


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_kinds_example_is_accepted_by_all_its_models(kind: str) -> None:
    assert KINDS[kind].name == kind
    for model in models_for(kind):
        accepted = KINDS[kind].accept(KINDS[kind].example, model, max_prompt_chars=1000)
        KINDS[kind].to_request(accepted.stored, [])


@given(JSON)
@settings(max_examples=200, deadline=None)
def test_no_json_breaks_a_kind(value: Any) -> None:
    for kind in KINDS:
        with pytest.raises((ValidationError, InputRejected)):
            accept(kind, value)


def test_a_conversation_counts_all_its_characters() -> None:
    turns = [
        {"role": "user", "text": "x" * 500},
        {"role": "model", "text": "y"},
        {"role": "user", "text": "z"},
    ]
    accept("text.generate", {"messages": turns}, limit=502)
    with pytest.raises(InputRejected) as caught:
        accept("text.generate", {"messages": turns}, limit=501)
    assert [(error.pointer, error.code) for error in caught.value.errors] == [("/messages", "too_long")]


def test_a_hostile_schema_costs_no_time() -> None:
    started = time.perf_counter()
    schemas: list[dict[str, Any]] = [
        {"allOf": [{}] * 30_000},
        {"properties": {str(number): {} for number in range(9000)}},
    ]
    for schema in schemas:
        with pytest.raises(InputRejected, match="more than 500"):
            accept("text.generate", {"prompt": "x", "response_schema": schema})
    assert time.perf_counter() - started < 0.5


@pytest.mark.parametrize(
    ("value", "extent"), [(1, (0, 0)), ({}, (1, 1)), ({"a": [1, {}]}, (3, 3)), ([[], []], (2, 3))]
)
def test_extent(value: Any, extent: tuple[int, int]) -> None:
    assert _extent(value) == extent


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_input_pictures_are_recognised_by_their_bytes(form: str) -> None:
    accepted = accept("image.generate", {"prompt": "x", "input_images": [{"data": picture(form)}]})
    (image,) = accepted.images
    assert isinstance(image, InputImage)
    assert (image.media_type, image.width, image.height) == (f"image/{form.lower()}", 3, 2)
    assert "input_images" not in accepted.stored


@pytest.mark.parametrize(
    ("image", "says"),
    [
        ({"data": "%%%"}, "base64"),
        ({"data": base64.b64encode(b"no picture").decode()}, ""),
        ({"data": picture("PNG"), "media_type": "image/jpeg"}, "declared as 'image/jpeg' and is image/png"),
        ({"data": picture("PNG"), "media_type": "x" * 5000}, "and is image/png"),
        ({"data": picture("BMP")}, ""),
    ],
)
def test_what_is_no_picture_or_another_is_refused(image: dict[str, str], says: str) -> None:
    with pytest.raises(InputRejected) as caught:
        accept("image.generate", {"prompt": "x", "input_images": [{"data": picture()}, image]})
    (error,) = caught.value.errors
    assert error.pointer == "/input_images/1/data"
    assert says in error.message
    assert len(error.message) < 300


def test_pictures_come_in_every_form_and_keep_their_order() -> None:
    upload = "0198a7c2-6f0e-7c3a-9a53-0f6d2b9d8e11"
    given = [
        {"upload_id": upload},
        {"url": f"data:image/png;base64,{picture()}"},
        {"url": "https://example.com/a.png"},
        {"data": picture("JPEG"), "media_type": "image/jpeg"},
    ]
    accepted = accept("image.generate", {"prompt": "x", "input_images": given})

    first, second, last = accepted.images
    assert first == InputUpload(UUID(upload), 0)
    assert isinstance(second, InputImage)
    assert isinstance(last, InputImage)
    assert (second.media_type, second.position) == ("image/png", 1)
    assert (last.media_type, last.position) == ("image/jpeg", 3)
    assert accepted.stored[INPUT_URLS] == {"2": "https://example.com/a.png"}
    assert accepted.refers
    KINDS["image.generate"].to_request(accepted.stored, [])


@pytest.mark.parametrize(
    ("image", "says"),
    [
        ({}, "one of data, url, upload_id"),
        ({"data": "x", "url": "https://a.test/"}, "one of data, url, upload_id"),
        ({"upload_id": "7"}, "id of an upload"),
        ({"url": "https://a.test/", "media_type": "image/png"}, "goes with data only"),
        ({"data": "data:image/png;base64,AAAA"}, "goes into url"),
        ({"url": "data:image/png,AAAA"}, "RFC 2397"),
        ({"url": "data:image/png;base64"}, "RFC 2397"),
        ({"url": "data:image/png;base64,%%%"}, "base64"),
        ({"url": f"data:image/jpeg;base64,{picture()}"}, "declared as 'image/jpeg'"),
        ({"data": base64.b64encode(bomb()).decode()}, "million"),
        ({"data": base64.b64encode(animated("PNG")).decode()}, "animated"),
        ({"data": picture("GIF")}, "is image/gif"),
    ],
)
def test_pictures_in_no_form_or_that_no_model_may_see_are_refused(image: dict[str, str], says: str) -> None:
    with pytest.raises((InputRejected, ValidationError), match=says):
        accept("image.generate", {"prompt": "x", "input_images": [image]})


def test_json_is_parsed_where_a_schema_was_given_and_cut_json_stays_text() -> None:
    kind = KINDS["text.generate"]
    usage = Usage()
    whole = Generation(text='{"a": 1}', images=(), finish_reason="stop", usage=usage)
    cut = Generation(text='{"a"', images=(), finish_reason="max_tokens", usage=usage)
    assert kind.result({"response_schema": {}}, whole, [])["json"] == {"a": 1}
    assert kind.result({"response_schema": {}}, cut, []) == {"text": '{"a"', "finish_reason": "max_tokens"}
    assert "json" not in kind.result({}, whole, [])
