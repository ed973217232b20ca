"""Pictures to files: resumed where the connection broke, checked, and at their path whole or not at all."""

from __future__ import annotations

import hashlib
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

import httpx

from shared.client.errors import ApiError, DownloadFailed
from shared.client.models import Image
from shared.client.retrying import Retries, Tries, no_answer, opened
from shared.client.steps import Opened, Pause, Read, Request, Steps

_SUFFIXES = {
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "image/webp": ".webp",
    "image/gif": ".gif",
    "image/heic": ".heic",
    "image/heif": ".heif",
}
_SHA256 = re.compile(r'"([0-9a-f]{64})"')


def download(artifact: Image | str, target: Path, retries: Retries) -> Steps[Path]:
    """Writes a picture to a file and gives the file's path; into a folder under the artifact's id.

    The bytes go to ``.<artifact id>.part`` beside it first. What is there already, of a download that was broken off,
    is not fetched again. Two downloads at the same time do each other no harm, as both write the same.

    Raises:
        DownloadFailed: the bytes are not those that the server announced.
        OSError: the file cannot be written.
    """
    artifact_id = artifact.artifact_id if isinstance(artifact, Image) else artifact
    folder = target if target.is_dir() else target.parent
    part = _Part(folder / f".{quote(artifact_id, safe='')}.part")
    path = f"/api/v1/artifacts/{quote(artifact_id, safe='')}"
    tries = Tries(retries)
    try:
        while True:
            request = Request("GET", path, headers={"accept-encoding": "identity", **part.headers()})
            before = part.size
            try:
                stream = yield from opened(request, retries)
            except ApiError as error:
                if error.status != 416 or not part.size:
                    raise
                part.empty()  # of something else, or there is nothing after its end
                continue
            failure = yield from _received(stream, part)
            if failure is None and (part.is_whole() or not part.resumed):
                return part.put(target, artifact_id)
            if failure is None:  # what was there before was of no use
                part.empty()
                continue
            if part.size > before:
                tries = Tries(retries)
            pause = tries.next_pause(None)
            if pause is None:
                raise no_answer(request, failure, tries.made) from failure
            yield Pause(pause)
    finally:
        part.close()


def _received(stream: Opened, part: _Part) -> Steps[httpx.RequestError | None]:
    """Takes what comes; gives why it broke off."""
    try:
        part.begin(stream.response)
        while (data := (yield Read(stream))) is not None:
            part.write(data)
    except httpx.RequestError as error:
        return error
    return None


class _Part:
    """The bytes so far."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO = _opened(path)
        self._digest = hashlib.sha256()
        self.size = 0
        for data in iter(lambda: self._file.read(1 << 20), b""):
            self._digest.update(data)
            self.size += len(data)
        self._wanted: str | None = None
        self._suffix = ""
        self.resumed = self.size > 0

    def headers(self) -> dict[str, str]:
        """Those that ask for the rest."""
        if not self.size:
            return {}
        condition = {"if-range": f'"{self._wanted}"'} if self._wanted else {}
        return {"range": f"bytes={self.size}-", **condition}

    def begin(self, response: httpx.Response) -> None:
        found = _SHA256.fullmatch(response.headers.get("etag", ""))
        self._wanted = found[1] if found else None
        self._suffix = _SUFFIXES.get(
            response.headers.get("content-type", "").partition(";")[0].strip(), ".bin"
        )
        if response.status_code != 206:
            self.empty()

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self.size += len(data)

    def empty(self) -> None:
        self._file.seek(0)
        self._file.truncate()
        self._digest = hashlib.sha256()
        self.size = 0
        self.resumed = False

    def is_whole(self) -> bool:
        return self._digest.hexdigest() == self._wanted

    def put(self, target: Path, artifact_id: str) -> Path:
        """Checks the bytes and moves them to their place."""
        if not self.is_whole():
            self.path.unlink(missing_ok=True)
            raise DownloadFailed(
                f"artifact {artifact_id}: the bytes that came do not have the announced SHA-256"
            )
        self._file.flush()
        os.fsync(self._file.fileno())
        if target.is_dir():
            target /= f"{artifact_id}{self._suffix}"
        try:
            self.path.replace(target)
        except FileNotFoundError:
            if not target.exists():  # otherwise another download of the same was faster
                raise
        return target

    def close(self) -> None:
        self._file.close()
        if not self.size:
            with suppress(OSError):
                self.path.unlink()


def _opened(path: Path) -> BinaryIO:
    """To read and write from the start, whatever is there; never through a link that somebody laid."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    return os.fdopen(os.open(path, flags, 0o666), "r+b")
