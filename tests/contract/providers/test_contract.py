"""What every driver promises, whatever it speaks: one suite over all of them (see conftest.py).

The old SDK's driver takes part where its package is installed, which the default environment does without:

    python -m venv .venv-legacy
    .venv-legacy/bin/pip install -r requirements/dev.txt -r requirements/legacy-gemini.txt
    .venv-legacy/bin/python -m pytest tests/contract/providers
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from shared.providers import Drivers
from shared.providers.base import (
    ImageRequest,
    Message,
    PermanentError,
    ProviderError,
    RateLimitedError,
    RetryableError,
    TextRequest,
    UnknownOutcomeError,
)
from shared.providers.pricing import cost
from shared.providers.wire import until_midnight_pacific
from tests.contract.conftest import RunningSimulator
from tests.contract.providers.cases import Asker, Case, Failure, call, settings_for


async def test_answers_what_the_kind_needs(ask: Asker) -> None:
    answer = await ask()

    assert answer.simulated
    assert answer.finish_reason == "stop"
    assert answer.model_version == ask.case.spec.upstream
    assert answer.upstream_request_id
    if ask.case.makes_images:
        [image] = answer.images
        assert image.media_type in {"image/png", "image/jpeg"}
        assert (image.width, image.height) == (1376, 768)
    else:
        assert answer.text is not None
        assert "a green banana" in answer.text
        assert answer.images == []
    assert "".join(ask.pieces) == (answer.text if ask.case.streamed else "")
    assert len(ask.pieces) > 2 or not ask.case.streamed


async def test_counts_tokens_that_price(ask: Asker) -> None:
    answer = await ask()

    assert answer.usage.input_tokens > 0
    assert answer.usage.output_tokens > 0
    assert answer.usage.image_tokens == (1120 if ask.case.makes_images else 0)
    dollars = cost(ask.case.spec, answer.usage, datetime(2026, 11, 30, tzinfo=UTC))
    assert float(dollars) == pytest.approx(0.0336, rel=0.1) if ask.case.makes_images else dollars > 0


async def test_names_job_and_attempt_upstream(ask: Asker, simulator: RunningSimulator) -> None:
    job = uuid4()

    await ask(job=job, attempt=3)

    assert simulator.calls(str(job))["by_job"] == {str(job): {"3": 1}}
    headers = simulator.last_request(str(job))["headers"]
    assert headers["x-request-id"] == f"{job}-3"
    assert headers.get("idempotency-key") == (f"{job}-3" if ask.case.form == "gateway" else None)


async def test_says_what_model_really_served(ask: Asker) -> None:
    assert (await ask(fault="silent-reroute:other-model")).model_version == "other-model"


async def test_fails_as_the_policy_says(ask: Asker, failure: Failure, simulator: RunningSimulator) -> None:
    job = uuid4()

    with pytest.raises(ProviderError) as caught:
        await ask(fault=failure.fault, job=job)

    error = caught.value
    gateway_code = failure.gateway_code if ask.case.form == "gateway" else ""
    assert (type(error), error.error_code) == (failure.error, gateway_code or failure.code), error
    assert error.billed is failure.billed
    assert error.status == failure.status or failure.status is None
    assert error.message
    # The mark arrives with the headers, so only an answer without any lacks it.
    assert error.simulated or failure.fault == "reset"
    assert simulator.calls(str(job))["by_job"][str(job)] == {"1": 1}, "a failure was repeated unasked"


@pytest.mark.parametrize(
    ("fault", "code", "delay"),
    [
        ("429-retryinfo:7.5", "rate_limited", 7.5),
        ("429-spend", "spend_limited", 600.0),
        ("429", "rate_limited", None),
    ],
)
async def test_rate_limit_says_how_long(ask: Asker, fault: str, code: str, delay: float | None) -> None:
    with pytest.raises(RateLimitedError) as caught:
        await ask(fault=fault)

    assert caught.value.delay == delay
    assert caught.value.error_code == (code if ask.case.form == "google" else "rate_limited")


async def test_daily_quota_waits_for_midnight_pacific(ask: Asker) -> None:
    if ask.case.form == "gateway":
        pytest.skip("the gateway form has no quotas by name")

    with pytest.raises(RateLimitedError) as caught:
        await ask(fault="429-perday")

    assert caught.value.error_code == "quota_exhausted"
    assert caught.value.delay == pytest.approx(until_midnight_pacific(datetime.now(UTC)), abs=30)


@pytest.mark.parametrize("fault", ["drip:30", "stall:30", "stall-midbody:30"])
async def test_total_deadline_holds_while_bytes_trickle(ask: Asker, fault: str) -> None:
    begun = time.monotonic()

    with pytest.raises(UnknownOutcomeError) as caught:
        await ask(fault=fault, timeout=0.4)

    assert caught.value.error_code == "timeout"
    assert time.monotonic() - begun < 15


async def test_refused_connection_is_retryable(case: Case, unused_tcp_port: int) -> None:
    drivers = Drivers(settings_for(f"http://127.0.0.1:{unused_tcp_port}", **case.settings))

    with pytest.raises(RetryableError) as caught:
        await Asker(case, drivers.get(case.spec))()

    assert caught.value.error_code == "provider_unavailable"
    assert caught.value.billed is False
    await drivers.aclose()


async def test_unknown_host_is_retryable(case: Case) -> None:
    drivers = Drivers(settings_for("http://nowhere.invalid", **case.settings))

    with pytest.raises(RetryableError):
        await Asker(case, drivers.get(case.spec))()

    await drivers.aclose()


async def test_missing_key_names_the_setting(case: Case) -> None:
    drivers = Drivers(settings_for(None, **case.settings))

    with pytest.raises(PermanentError, match="_API_KEY") as caught:
        await Asker(case, drivers.get(case.spec))()

    assert caught.value.error_code == "unauthenticated"
    await drivers.aclose()


async def test_refuses_a_request_of_another_kind(ask: Asker) -> None:
    text = TextRequest(messages=[Message("user", "hello")])
    image = ImageRequest(prompt="hello", aspect_ratio="1:1", size="1K")

    with pytest.raises(PermanentError) as caught:
        await ask.driver.generate(text if ask.case.makes_images else image, call(ask.case))

    assert caught.value.error_code == "invalid_request"


async def test_cancelling_aborts_the_call_upstream(ask: Asker, simulator: RunningSimulator) -> None:
    if not ask.case.aborts:
        pytest.skip("nothing upstream is left to abort, or the driver declares that it cannot")
    left = simulator.calls()["client_left"]
    task = asyncio.create_task(ask(latency=30, timeout=60))
    await _until(lambda: simulator.calls()["in_flight"] > 0)

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    await _until(lambda: simulator.calls()["client_left"] == left + 1)


async def test_cancelling_passes_through(ask: Asker) -> None:
    task = asyncio.create_task(ask(latency=2, timeout=60))
    await asyncio.sleep(0.2)

    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


async def test_fifty_calls_at_once_on_one_instance(ask: Asker, simulator: RunningSimulator) -> None:
    jobs = [uuid4() for _ in range(50)]

    answers = await asyncio.gather(
        *(ask(f"banana number {n}", job=job, latency=0.3) for n, job in enumerate(jobs))
    )

    assert all(answer.simulated for answer in answers)
    if not ask.case.makes_images:
        assert all(f"banana number {n}" in (answer.text or "") for n, answer in enumerate(answers))
    for job in jobs[:5]:
        assert simulator.calls(str(job))["by_job"][str(job)] == {"1": 1}


async def test_usable_again_after_failures(ask: Asker) -> None:
    for fault in ("reset", "close-midbody", "503", "malformed-json"):
        with pytest.raises(ProviderError):
            await ask(fault=fault)

    assert (await ask()).finish_reason == "stop"


async def test_closing_twice_does_no_harm(case: Case, simulator: RunningSimulator) -> None:
    drivers = Drivers(settings_for(simulator.url, **case.settings))
    await Asker(case, drivers.get(case.spec))()

    await drivers.aclose()
    await drivers.aclose()


@pytest.mark.parametrize("fault", ["", "403", "bad-key", "reset", "malformed-json"])
async def test_key_shows_nowhere(
    case: Case, simulator: RunningSimulator, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    canary = "AIzaSyCANARY0123456789abcdefghijklmnopq"
    url = {"gemini_base_url": simulator.url, "nano_banana_base_url": simulator.url}
    keys = {"gemini_api_key": canary, "nano_banana_api_key": canary}
    drivers = Drivers(settings_for(None, **url, **keys, **case.settings))
    driver = drivers.get(case.spec)
    shown = [repr(driver), repr(vars(driver))]

    with caplog.at_level("DEBUG"):
        try:
            await Asker(case, driver)(f"hello [[sim:fault={fault}]]" if fault else "hello")
        except ProviderError as error:
            shown += [str(error), repr(error), error.message, repr(error.__cause__), repr(error.__context__)]
    await drivers.aclose()

    assert canary not in caplog.text
    assert canary not in "".join(shown)


async def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.02)
