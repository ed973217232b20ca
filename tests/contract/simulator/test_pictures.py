"""Pictures: real formats, exact dimensions, a real weight, and the same again for the same order."""

import asyncio
import time
from typing import Any

import httpx
import pytest

from scripts.simulator.facts import DIMENSIONS_1K

from .conftest import SimulatorProcess
from .wire import IMAGE_MODEL, PRO_MODEL, body, decode, generate, inline

MEGABYTE = 1_000_000
PNG = {"imageOutputOptions": {"mimeType": "image/png"}}


async def painted(http: httpx.AsyncClient, model: str = IMAGE_MODEL, **config: Any) -> tuple[bytes, Any]:
    blob = inline(await generate(http, body("A plantain at sea", imageConfig=config), model))[0]
    data, image = decode(blob["data"])
    assert blob["mimeType"] == f"image/{(image.format or '').lower()}"
    return data, image


@pytest.mark.parametrize("ratio", DIMENSIONS_1K)
async def test_1k_of_every_ratio(http: httpx.AsyncClient, sim: SimulatorProcess, ratio: str) -> None:
    sim.configure(picture_weight="real")
    data, image = await painted(http, aspectRatio=ratio)
    assert (image.format, image.mode, image.size) == ("PNG", "RGB", DIMENSIONS_1K[ratio])
    assert MEGABYTE <= len(data) <= 2 * MEGABYTE
    assert all(side % 16 == 0 for side in image.size)
    across, down = ratio.split(":")
    assert image.width / image.height == pytest.approx(int(across) / int(down), rel=0.02)


@pytest.mark.parametrize(("size", "factor", "low", "high"), [("2K", 2, 3.5, 5), ("4K", 4, 13, 18)])
async def test_larger_png(
    http: httpx.AsyncClient, sim: SimulatorProcess, size: str, factor: int, low: float, high: float
) -> None:
    sim.configure(picture_weight="real")
    data, image = await painted(http, PRO_MODEL, aspectRatio="16:9", imageSize=size, **PNG)
    assert image.size == (1376 * factor, 768 * factor)
    assert low * MEGABYTE <= len(data) <= high * MEGABYTE


async def test_pro_answers_lighter_jpeg(http: httpx.AsyncClient, sim: SimulatorProcess) -> None:
    sim.configure(picture_weight="real")
    data, image = await painted(http, PRO_MODEL)
    assert (image.format, image.size) == ("JPEG", (1024, 1024))
    assert 0.2 * MEGABYTE <= len(data) <= MEGABYTE


@pytest.mark.parametrize("model", [IMAGE_MODEL, PRO_MODEL])
@pytest.mark.parametrize(("ratio", "size"), [("1:1", "1K"), ("21:9", "1K"), ("4:5", "2K")])
async def test_light_pictures_have_the_same_dimensions(
    http: httpx.AsyncClient, model: str, ratio: str, size: str
) -> None:
    data, image = await painted(http, model, aspectRatio=ratio, imageSize=size)
    width, height = DIMENSIONS_1K[ratio]
    assert image.size == (width * int(size[0]), height * int(size[0]))
    assert len(data) < 0.2 * MEGABYTE


async def test_noise_survives_a_real_picture(http: httpx.AsyncClient, sim: SimulatorProcess) -> None:
    """The grain is in the pixels, not padding: neighbours on plain ground differ."""
    sim.configure(picture_weight="real")
    _, image = await painted(http)
    box = image.convert("L").crop((0, 0, 64, 64))
    assert len(set(box.tobytes())) > 6


async def test_painting_does_not_hold_up_the_others(http: httpx.AsyncClient, sim: SimulatorProcess) -> None:
    """While two 4K pictures are painted, a health call is answered in between."""
    sim.configure(picture_weight="real")
    slow = [asyncio.create_task(painted(http, aspectRatio="1:1", imageSize="4K")) for _ in range(2)]
    await asyncio.sleep(0.2)
    started = time.monotonic()
    await http.get("/sim/health")
    waited = time.monotonic() - started
    assert not all(task.done() for task in slow)
    await asyncio.gather(*slow)
    assert waited < 0.5
