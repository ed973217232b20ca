"""What the commands print: JSON for programs, lines for people, pictures and texts to files."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scripts.terminal import Terminal, seconds
from shared.client import Image, Job, JobResult, Plantain

_COLOURS = {
    "succeeded": "green",
    "failed": "red",
    "cancelled": "yellow",
    "expired": "yellow",
    "running": "cyan",
}


class Output:
    """stdout for data, stderr for remarks.

    Args:
        as_json: data are objects, one a line.
        quiet: no remarks.
    """

    def __init__(self, *, as_json: bool, quiet: bool) -> None:
        self.as_json = as_json
        self.quiet = quiet
        self.screen = Terminal(sys.stdout)
        self.remarks = Terminal(sys.stderr)

    def data(self, text: str) -> None:
        """A text as it is; on a terminal without what could control it."""
        self.line(_harmless(text.removesuffix("\n")))

    def piece(self, text: str) -> None:
        """The same, of a text that goes on."""
        sys.stdout.write(_harmless(text))
        sys.stdout.flush()

    def line(self, text: str) -> None:
        """Text of ours. Raises: BrokenPipeError: nobody reads on."""
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()

    def object(self, value: Mapping[str, Any]) -> None:
        self.line(json.dumps(value, ensure_ascii=False, separators=(",", ":")))

    def job(self, job: Job) -> None:
        """All that is known of it."""
        if self.as_json:
            self.object(job.raw)
            return
        self.data_lines([(name, value) for name, value in _facts(job) if value])

    def data_lines(self, facts: list[tuple[str, str]]) -> None:
        width = max(len(name) for name, _ in facts) + 2
        for name, value in facts:
            label = self.screen.paint(f"{name:<{width}}", "dim")
            self.line(label + (self.state(value) if name == "state" else _plain(value)))

    def table(self, job: Job) -> None:
        """Its line in a list."""
        state = self.state(f"{job.state:<10}")
        when = f"{job.created_at:%Y-%m-%d %H:%M:%S}"
        more = job.waiting_reason or (job.error.code if job.error else "") or f"${job.cost_usd}"
        self.line(f"{job.id}  {state} {when}  {job.kind:<15} {job.model:<18} {_plain(more)}".rstrip())

    def state(self, word: str) -> str:
        style = _COLOURS.get(word.split(maxsplit=1)[0])
        return self.screen.paint(word, style) if style else word

    def remark(self, text: str) -> None:
        if not self.quiet:
            self.remarks.say(text)


def described(job: Job) -> str:
    """A job's state in a few words."""
    words = [job.state]
    if job.waiting_reason:
        words.append(f"({job.waiting_reason})")
    if job.attempt > 1:
        words.append(f"attempt {job.attempt} of {job.max_attempts}")
    if job.estimated_start and job.state == "queued":
        words.append(f"starts in about {seconds(_until(job.estimated_start.p50))}")
    if job.progress and job.state == "running":
        words.append(f"takes {seconds(job.progress.p50)} as a rule, seldom over {seconds(job.progress.p90)}")
    if job.error and job.state in {"failed", "queued"}:
        words.append(f"{job.error.code}: {_plain(job.error.message)}")
    return " ".join(words)


def _until(moment: datetime) -> float:
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


def took(job: Job) -> str:
    """From submit to end."""
    return seconds((job.finished_at - job.created_at).total_seconds()) if job.finished_at else ""


def fetched(plantain: Plantain, job_id: str, output: Output, target: str | None) -> None:
    """Gets a succeeded job's result to where it is wanted."""
    result = plantain.result(job_id)
    files: list[Path] = []
    if result.result.images:
        files = _pictures(plantain, result, target)
    elif target and target != "-":
        files = [_text_file(result, Path(target))]
    if output.as_json:
        output.object({**result.raw, "files": [str(path) for path in files]})
    elif target == "-" and files == [] and result.result.images:
        return
    elif files:
        output.data("\n".join(str(path) for path in files))
    else:
        output.data(result.result.text or "")


def _pictures(plantain: Plantain, result: JobResult, target: str | None) -> list[Path]:
    images = result.result.images
    if target == "-":
        _picture_to_stdout(plantain, images[0])
        return []
    return [
        plantain.download(
            image, named(Path(target or "."), result.job_id, position, len(images), image.media_type)
        )
        for position, image in enumerate(images, 1)
    ]


def artifact(plantain: Plantain, artifact_id: str, output: Output, target: str | None) -> None:
    """One picture by its own id."""
    if target == "-":
        _picture_to_stdout(plantain, artifact_id)
        return
    path = plantain.download(artifact_id, Path(target or "."))
    if output.as_json:
        output.object({"files": [str(path)]})
    else:
        output.data(str(path))


def _picture_to_stdout(plantain: Plantain, picture: Image | str) -> None:
    """Whole and checked before the first byte goes on."""
    with tempfile.TemporaryDirectory(prefix="plantain-") as folder:
        path = plantain.download(picture, Path(folder) / "picture")
        with path.open("rb") as file:
            shutil.copyfileobj(file, sys.stdout.buffer)
    sys.stdout.buffer.flush()


def named(target: Path, job_id: str, position: int, count: int, media_type: str) -> Path:
    """A picture's file: in a folder by the job's id, else as was said; several are numbered."""
    number = f"-{position}" if count > 1 else ""
    if target.is_dir():
        suffix = {"image/jpeg": ".jpg"}.get(media_type, f".{media_type.rpartition('/')[2]}")
        return target / f"{job_id}{number}{suffix}"
    return target.with_name(f"{target.stem}{number}{target.suffix}")


def _text_file(result: JobResult, target: Path) -> Path:
    path = target / f"{result.job_id}.txt" if target.is_dir() else target
    path.write_text(result.result.text or "", encoding="utf-8")
    return path


def _facts(job: Job) -> list[tuple[str, str]]:
    usage = ", ".join(f"{name} {count:,}" for name, count in (job.usage or {}).items() if count)
    return [
        ("id", job.id),
        ("state", described(job)),
        ("kind", job.kind),
        ("model", job.model + (f" ({job.model_version})" if job.model_version else "")),
        ("provider", job.provider or ""),
        ("created", job.created_at.isoformat()),
        ("place", f"{job.queue_position:,} in its queue" if job.queue_position else ""),
        ("waits until", job.waiting_until.isoformat() if job.waiting_until else ""),
        ("took", took(job)),
        ("usage", usage),
        ("cost", f"${job.cost_usd}"),
        ("tags", ", ".join(job.tags)),
        ("metadata", ", ".join(f"{key}={value}" for key, value in job.metadata.items())),
        ("replay of", job.replay_of or ""),
        *(
            (f"attempt {entry.number}", f"{entry.outcome or 'under way'} on {entry.worker}")
            for entry in job.attempts
        ),
        *(("warning", f"{entry.pointer} {entry.message}") for entry in job.warnings),
    ]


def _harmless(text: str) -> str:
    if not sys.stdout.isatty():
        return text
    return "".join(char for char in text if char.isprintable() or char in "\n\t")


def _plain(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text)
