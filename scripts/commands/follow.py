"""Following jobs until they are final: a line that moves on a terminal, a line for each change elsewhere."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress

from scripts.commands.output import Output, described, took
from scripts.terminal import seconds
from shared.client import AsyncPlantain, Job, WaitTimeout

#: Jobs that are waited for at the same time; the others are looked at when one of these is final.
_AT_ONCE = 50
_TICK = 0.1


async def follow(
    make: Callable[[], AsyncPlantain], ids: Sequence[str], output: Output, patience: float | None
) -> list[Job]:
    """The jobs once they are final, in the order of their ids.

    Raises:
        WaitTimeout: one of them is not, after ``patience`` seconds.
    """
    display = _Display(ids, output)
    async with make() as plantain:
        places = asyncio.Semaphore(_AT_ONCE)
        deadline = None if patience is None else time.monotonic() + patience

        async def one(job_id: str) -> Job:
            async with places:
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                async for job in plantain.watch(job_id, left):
                    display.changed(job)
            return job

        ticking = asyncio.create_task(display.tick())
        following = [asyncio.create_task(one(job_id)) for job_id in ids]
        try:
            return list(await asyncio.gather(*following))
        except WaitTimeout as error:
            raise WaitTimeout(error.job, patience or 0) from None
        finally:
            for task in (ticking, *following):
                task.cancel()
            for task in (ticking, *following):
                with suppress(BaseException):
                    await task
            output.remarks.clear()


class _Display:
    def __init__(self, ids: Sequence[str], output: Output) -> None:
        self._output = output
        self._many = len(set(ids)) > 1
        self._count = len(set(ids))
        self._jobs: dict[str, Job] = {}
        self._began = time.monotonic()

    def changed(self, job: Job) -> None:
        self._jobs[job.id] = job
        output = self._output
        if output.as_json:
            output.object(job.raw)
        if output.quiet:
            return
        name = job.id if self._many else job.kind
        if job.is_final:
            mark = output.remarks.good if job.succeeded else output.remarks.bad
            mark(f"{name} {described(job)}", f"{took(job)}, ${job.cost_usd}")
        elif not output.remarks.live:
            output.remark(f"{seconds(self._elapsed):>7}  {name}  {described(job)}")

    async def tick(self) -> None:
        """The line that moves."""
        while not self._output.quiet:
            self._output.remarks.status(f"{seconds(self._elapsed)}  {self._line()}")
            await asyncio.sleep(_TICK)

    @property
    def _elapsed(self) -> float:
        return time.monotonic() - self._began

    def _line(self) -> str:
        if not self._jobs:
            return "asking"
        if not self._many:
            (job,) = self._jobs.values()
            return f"{job.kind}  {job.model}  {described(job)}"
        done = sum(job.is_final for job in self._jobs.values())
        states = Counter(described(job) for job in self._jobs.values() if not job.is_final)
        return f"{done} of {self._count} done" + "".join(
            f" · {count} {state}" for state, count in states.most_common(4)
        )
