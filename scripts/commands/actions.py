"""What each command does; gives the exit code."""

from __future__ import annotations

import asyncio
import sys
from argparse import Namespace
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from scripts.commands import output
from scripts.commands.follow import follow
from scripts.commands.output import Output
from shared.client import AsyncPlantain, Job, Plantain, Retries, picture

#: A person waits for less than a program; a watch begins anew with every answer.
_PATIENCE = Retries(tries=6, patience=15)
#: Bytes of a prompt that are read at most; the server takes fewer.
_MAX_PROMPT = 8_000_000


class UsageError(Exception):
    """The command line makes no sense; the text says why."""


@dataclass
class Session:
    """Where the commands speak to, and what to say if they are interrupted."""

    url: str | None
    key: str | None = field(repr=False)
    out: Output
    prog: str
    #: Said after Ctrl-C.
    on_interrupt: str = ""

    def client(self) -> Plantain:
        return Plantain(self.url, self.key, retries=_PATIENCE)

    def watching(self) -> AsyncPlantain:
        return AsyncPlantain(self.url, self.key, retries=_PATIENCE)


def submit(session: Session, parsed: Namespace) -> int:
    job_input: dict[str, Any] = dict(parsed.input)
    prompt = _prompt(
        parsed.prompt, parsed.file, needed="messages" not in job_input and "prompt" not in job_input
    )
    if prompt is not None:
        job_input["prompt"] = prompt
    if parsed.picture:
        job_input["input_images"] = [picture(path) for path in parsed.picture]
    wanted: dict[str, Any] = {
        "priority": parsed.priority,
        "scheduled_at": parsed.at,
        "expires_at": parsed.expires,
        "keep_for": parsed.keep_for,
        "tags": parsed.tag,
        "metadata": dict(parsed.metadata),
    }
    if parsed.stream and (parsed.json or parsed.output or parsed.timeout is not None):
        raise UsageError("--stream prints the text to its end: leave out --json, --output and --timeout")
    wanted["stream"] = parsed.stream
    options = {name: value for name, value in wanted.items() if value}
    with session.client() as plantain:
        key = _key(session, parsed)
        job = plantain.submit(
            parsed.kind or "text.generate", job_input, model=parsed.model, idempotency_key=key, **options
        )
        return (
            _streamed(session, plantain, job) if parsed.stream else _submitted(session, plantain, job, parsed)
        )


def replay(session: Session, parsed: Namespace) -> int:
    changes: dict[str, Any] = {
        name: value
        for name, value in (
            ("model", parsed.model),
            ("priority", parsed.priority),
            ("input", dict(parsed.input)),
        )
        if value
    }
    with session.client() as plantain:
        job = plantain.replay(parsed.id, changes, idempotency_key=_key(session, parsed))
        return _submitted(session, plantain, job, parsed)


def watch(session: Session, parsed: Namespace) -> int:
    return 0 if all(job.succeeded for job in _followed(session, parsed.ids, parsed.timeout)) else 1


def get(session: Session, parsed: Namespace) -> int:
    with session.client() as plantain:
        for number, job_id in enumerate(parsed.ids):
            if number and not session.out.as_json:
                session.out.line("")
            session.out.job(plantain.get(job_id, attempts=parsed.attempts))
    return 0


def cancel(session: Session, parsed: Namespace) -> int:
    with session.client() as plantain:
        for job_id in parsed.ids:
            receipt = plantain.cancel(job_id)
            if session.out.as_json:
                session.out.object(receipt.raw)
            else:
                called = "; the provider had been called" if receipt.provider_called else ""
                session.out.data(f"{job_id}  {receipt.outcome}{called}")
    return 0


def list_jobs(session: Session, parsed: Namespace) -> int:
    wanted: dict[str, Any] = {
        "state": parsed.state,
        "kind": parsed.kind,
        "model": parsed.model,
        "priority": parsed.priority,
        "tag": parsed.tag,
        "metadata": dict(parsed.metadata),
        "batch": parsed.batch,
        "created_after": parsed.after,
        "created_before": parsed.before,
        "q": parsed.search,
    }
    chosen = {name: value for name, value in wanted.items() if value}
    show = session.out.table
    if parsed.ids:
        show = _show_id(session.out)
    elif session.out.as_json:
        show = session.out.job
    with session.client() as plantain:
        for job in plantain.jobs(limit=None if parsed.all else parsed.limit, **chosen):
            show(job)
    return 0


def download(session: Session, parsed: Namespace) -> int:
    with session.client() as plantain:
        fetch = output.artifact if parsed.artifact else output.fetched
        fetch(plantain, parsed.id, session.out, parsed.output)
    return 0


COMMANDS = {
    "submit": submit,
    "watch": watch,
    "get": get,
    "cancel": cancel,
    "list": list_jobs,
    "replay": replay,
    "download": download,
}


def _key(session: Session, parsed: Namespace) -> str:
    """The key under which the job is made, so that an interrupted command can say how to go on."""
    key = parsed.idempotency_key or str(uuid4())
    session.on_interrupt = (
        "It is not known whether the job was accepted. The same command with this option gives the job, once:\n"
        f"  --idempotency-key {key}"
    )
    return key


def _submitted(session: Session, plantain: Plantain, job: Job, parsed: Namespace) -> int:
    for warning in job.warnings:
        session.out.remark(f"{warning.pointer} {warning.message}")
    if not parsed.wait:
        session.on_interrupt = ""
        if session.out.as_json:
            session.out.job(job)
        else:
            session.out.data(job.id)
            if sys.stdout.isatty():
                session.out.remark(f"Watch it with: {session.prog} watch {job.id}")
        return 0
    quiet_data = Output(as_json=False, quiet=session.out.quiet)
    (final,) = _followed(session, [job.id], parsed.timeout, show=quiet_data)
    if not final.succeeded:
        if session.out.as_json:
            session.out.job(final)
        return 1
    output.fetched(plantain, job.id, session.out, parsed.output)
    return 0


def _streamed(session: Session, plantain: Plantain, job: Job) -> int:
    """The text as it is made; of an attempt that fails, what was printed stays, and the next one begins below."""
    _tell_how_to_go_on(session, [job.id])
    attempt = 0
    for delta in plantain.text(job.id):
        if attempt and delta.attempt != attempt:
            session.out.line("")
            session.out.remark("That attempt failed; the text begins anew.")
        attempt = delta.attempt
        session.out.piece(delta.text)
    final = plantain.get(job.id)
    if attempt:
        session.out.line("")
    if not final.succeeded:
        session.out.remarks.bad(f"{final.kind} {output.described(final)}")
    return 0 if final.succeeded else 1


def _followed(
    session: Session, ids: list[str], timeout: float | None, *, show: Output | None = None
) -> list[Job]:
    _tell_how_to_go_on(session, ids)
    return asyncio.run(follow(session.watching, ids, show or session.out, timeout))


def _tell_how_to_go_on(session: Session, ids: list[str]) -> None:
    several = " ".join(ids[:5]) + (" …" if len(ids) > 5 else "")
    goes = "The job goes" if len(ids) == 1 else "The jobs go"
    session.on_interrupt = (
        f"{goes} on. Watch again with:  {session.prog} watch {several}\n"
        f"Call off with:  {session.prog} cancel {several}"
    )


def _show_id(out: Output) -> Any:
    def show(job: Job) -> None:
        out.data(job.id)

    return show


def _prompt(argument: str | None, file: Path | None, *, needed: bool) -> str | None:
    """The prompt, from where it was said to be.

    Raises:
        UsageError: there is none, or it is no text.
    """
    if file is not None:
        if argument is not None:
            raise UsageError("give the prompt as an argument or with --file, not both")
        return _text(file.read_bytes(), str(file))
    if argument not in {None, "-"}:
        return argument
    if argument is None and not needed:
        return None
    if argument is None and sys.stdin.isatty():
        raise UsageError("no prompt: give it as an argument, with --file, or on stdin")
    return _text(sys.stdin.buffer.read(_MAX_PROMPT + 1), "stdin")


def _text(data: bytes, name: str) -> str:
    if len(data) > _MAX_PROMPT:
        raise UsageError(f"the prompt of {name} is too long")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"the prompt of {name} is not UTF-8: {error}") from None
