"""The input pictures of a job, made ready before its provider is called: fetched where they are URLs, and all of them decoded.

A picture that cannot be had, or is none, ends the attempt as an error of a provider would, and nothing was paid for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

from shared.config import Settings
from shared.outbound import Outbound, Policy, RefusedUrlError, UnreachableError
from shared.providers.base import ImageBytes, PermanentError, RetryableError
from shared.providers.catalog import ImageCapabilities
from shared.providers.images import NotAnImageError
from shared.providers.input_images import decode

#: Seconds for one picture, from resolving its host to its last byte.
FETCH_SECONDS = 30.0
#: Of a job's timeout: what making its pictures ready may take, so that the call has the rest.
SHARE: Final = 0.5
#: Pictures that one process fetches at once, and from one host: one that hangs keeps nobody from the others.
_FETCHES, _FROM_ONE_HOST = 32, 8
#: Pictures that one process decodes at once: one may take 270 MB while it is (shared/providers/input_images.py).
_DECODERS = 1
#: Answers after which trying again is right.
_AGAIN = frozenset({408, 425, 429})


class InputImages:
    """One a process."""

    def __init__(self, settings: Settings) -> None:
        self._outbound = Outbound(Policy.of(settings))
        self._fetches = asyncio.Semaphore(_FETCHES)
        #: A host's goes when nobody holds it any more.
        self._hosts: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._decoders = ThreadPoolExecutor(_DECODERS, thread_name_prefix="decode")

    async def ready(
        self,
        stored: Mapping[int, ImageBytes],
        urls: Mapping[str, str],
        can: ImageCapabilities,
        seconds: float,
    ) -> Sequence[ImageBytes]:
        """All pictures in their order, whole and within the model's limits.

        Args:
            stored: those whose bytes are known, by position.
            urls: the others.
            seconds: how long it may take.

        Raises:
            PermanentError: a picture that the model must not see, or a URL that gives none.
            RetryableError: a picture could not be had this time.
        """
        try:
            async with asyncio.timeout(seconds):
                found = {
                    position: await self._decoded(position, image.data, can)
                    for position, image in stored.items()
                }
                total = sum(len(image.data) for image in found.values())
                for key, url in urls.items():
                    position = int(key)
                    found[position] = await self._decoded(
                        position, await self._fetched(position, url, can), can
                    )
                    total += len(found[position].data)
                    if total > can.max_input_total_bytes:
                        raise _bad(position, f"makes them over {can.max_input_total_bytes:,} bytes together")
        except TimeoutError:
            raise _lost(None, f"were not ready within {seconds:g} s") from None
        return [found[position] for position in sorted(found)]

    async def aclose(self) -> None:
        self._decoders.shutdown(wait=False, cancel_futures=True)
        await self._outbound.aclose()

    async def _fetched(self, position: int, url: str, can: ImageCapabilities) -> bytes:
        host = urlsplit(url).hostname or ""
        of_host = self._hosts.setdefault(host, asyncio.Semaphore(_FROM_ONE_HOST))
        try:
            async with of_host, self._fetches:
                answer = await self._outbound.request(
                    "GET",
                    url,
                    timeout=FETCH_SECONDS,
                    max_bytes=can.max_input_image_bytes,
                    headers={"accept": ", ".join(can.input_media_types), "user-agent": "plantain"},
                )
        except RefusedUrlError as error:
            raise PermanentError(
                _words(position, f"was not fetched: {error}"), reason="input_refused"
            ) from None
        except UnreachableError as error:
            raise _lost(position, f"was not fetched: {error}") from None
        if answer.status >= 500 or answer.status in _AGAIN:
            raise _lost(position, f"was not fetched: {host} answered {answer.status}")
        if answer.status != 200:
            hint = "; redirects are not followed, give the final URL" if 300 <= answer.status < 400 else ""
            words = _words(position, f"was not fetched: {host} answered {answer.status}{hint}")
            raise PermanentError(words, reason="input_unavailable")
        if answer.truncated:
            raise _bad(position, f"has more than {can.max_input_image_bytes:,} bytes")
        return answer.body

    async def _decoded(self, position: int, data: bytes, can: ImageCapabilities) -> ImageBytes:
        loop = asyncio.get_running_loop()
        try:
            image = await loop.run_in_executor(self._decoders, decode, data)
        except NotAnImageError as error:
            raise _bad(position, str(error)) from None
        if image.media_type not in can.input_media_types:
            raise _bad(position, f"is {image.media_type}; use one of: {', '.join(can.input_media_types)}")
        return image


def _bad(position: int, what: str) -> PermanentError:
    return PermanentError(_words(position, what), reason="invalid_image")


def _lost(position: int | None, what: str) -> RetryableError:
    return RetryableError(_words(position, what), code="input_unavailable")


def _words(position: int | None, what: str) -> str:
    which = "The input pictures" if position is None else f"The input picture input_images/{position}"
    return f"{which} {what}. The model was not called."
