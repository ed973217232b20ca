"""Many calls, one statement (``Coalescer``); many askers, one answer (``SingleFlight``, ``FreshFlight``).

While a batch is under way, the calls that arrive are collected; the next batch carries them all.
A lone call starts at once and waits for nothing. Under load, one statement, one commit and one round trip serve many
callers; each batch then gathers for one turn of the loop, and where batches take little time, callers go in two halves.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Sequence
from contextlib import nullcontext
from contextvars import Context
from typing import Any, Generic, TypeVar

from shared.errors import Unavailable
from shared.patience import Patience
from shared.turns import Turns

Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)
Result = TypeVar("Result")

#: After a batch with several callers; while there are few of them, many a batch carries one all the same.
_CROWDED_SECONDS = 0.05
#: Nobody waits longer than this for the other half's batch.
_TURN_SECONDS = 0.02


class _Lane:
    """What carries batches, one after the other."""

    __slots__ = ("carried", "given_up", "late", "task")

    def __init__(self) -> None:
        self.task: asyncio.Task[None]
        #: Callers of its batch, while that is under way.
        self.carried = 0
        #: Its batch took longer than callers are made to wait.
        self.given_up = False
        #: Its batch takes longer than the other half of the callers should wait.
        self.late = False


class Coalescer(Generic[Item, Result]):
    """Calls ``run(items)`` with everything that has gathered; answers each caller with its own result.

    ``run`` returns one result per item, in order; an exception in the place of a result is raised
    for that item alone. When a whole batch fails and ``is_shared_fault`` says that the fault lies
    outside the items (the database is away), every caller gets it; otherwise each item is run by
    itself, so that one bad item fails alone.

    Args:
        run: does the work of one batch.
        max_batch: items in one batch at most.
        lanes: batches under way at once at most.
        by_turns: its batches take so long that this process has nothing to do meanwhile: where that helps, callers go
            in two halves, see ``Turns``.
        inline: a call that comes alone is run in its caller's own task, and called off with it; another task for it costs a
            lone call a twentieth. Where calls overlap, none is taken to come alone for a moment.
        max_waiting: callers that may wait; beyond it ``Unavailable`` is raised at once.
        is_shared_fault: tells a fault of the outside from a fault of an item.
        patience: seconds that a batch may take. Then its callers, and those who wait for the next one, get
            ``TimeoutError``, and the work is called off without waiting for that: a server that hangs answers not even
            a cancel. One timer a batch instead of one a call.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Awaitable[Sequence[Result | BaseException]]],
        *,
        max_batch: int = 200,
        lanes: int = 1,
        by_turns: bool = False,
        inline: bool = False,
        max_waiting: int = 20_000,
        is_shared_fault: Callable[[BaseException], bool] = lambda _: False,
        patience: float | None = None,
    ) -> None:
        self._run = run
        self._max_batch = max_batch
        self._lanes = lanes
        self._max_waiting = max_waiting
        self._is_shared_fault = is_shared_fault
        self._patience = patience
        self._inline = inline
        self._alone_for = nullcontext() if patience is None else Patience(patience)
        #: Until then, no call is taken to come alone.
        self._company_until = 0.0
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._busy = 0
        #: Of those lanes, whose batches take long, and a call that came alone.
        self._late = 0
        #: Callers whose batches are under way.
        self._carried = 0
        self._turns = Turns(max_batch) if by_turns else None
        self._crowded_until = 0.0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def crowded(self) -> bool:
        """Several callers came at once, a moment ago: there will be others."""
        return time.monotonic() < self._crowded_until

    async def __call__(self, item: Item) -> Result:
        """Waits for the item's own result.

        Raises:
            Unavailable: too many callers wait already.
            TimeoutError: the batch took longer than the patience.
        """
        if self._inline:
            now = time.monotonic()
            if self._busy or self._waiting:
                self._company_until = now + _CROWDED_SECONDS
            elif now >= self._company_until:
                return await self._alone(item)
        if len(self._waiting) >= self._max_waiting:
            raise Unavailable("Too many requests are waiting; try again in a moment.", retry_after=1)
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._busy < self._lanes and not self._is_waited_for(0):
            self._open_lane()
        return await future

    async def _alone(self, item: Item) -> Result:
        """Runs an item in its caller's own task."""
        self._busy += 1
        self._late += 1  # who comes meanwhile does not wait for its end
        try:
            with self._alone_for:
                [result] = await self._run([item])
        finally:
            self._busy -= 1
            self._late -= 1
            if self._waiting and not self._busy:
                self._open_lane()
        if isinstance(result, BaseException):
            raise result
        return result

    def _is_waited_for(self, lanes: int) -> bool:
        """By turns, one lane is enough, unless its batch takes long."""
        return self._turns is not None and self._turns.on and self._busy - self._late > lanes

    def _open_lane(self) -> None:
        self._busy += 1
        lane = _Lane()
        lane.task = asyncio.create_task(self._drain(lane), context=Context())  # it works for many callers
        self._tasks.add(lane.task)  # the loop itself keeps no strong reference
        lane.task.add_done_callback(self._tasks.discard)

    async def _drain(self, lane: _Lane) -> None:
        try:
            while self._waiting and not lane.given_up:
                if self.crowded:
                    # One turn of the loop: who has just been answered asks again, and larger batches are cheaper for all.
                    await asyncio.sleep(0)
                most = self._share()
                if not most:
                    break
                taken = [self._waiting.popleft() for _ in range(min(len(self._waiting), most))]
                if len(taken) > 1:
                    self._crowded_until = time.monotonic() + _CROWDED_SECONDS
                # A caller that has gone needs no work done.
                batch = [(item, future) for item, future in taken if not future.done()]
                if batch:
                    await self._carry(lane, batch)
        finally:
            # In the same step as the look at an empty queue: an item that comes later finds the lane free.
            if not lane.given_up:
                self._busy -= 1
                if self._waiting and not self._busy:  # it broke, and others relied on it
                    self._open_lane()

    def _share(self) -> int:
        """How many callers the next batch may carry; 0: another lane sees to them."""
        if self._turns is None:
            return self._max_batch
        self._turns.saw(len(self._waiting) + self._carried)
        if self._is_waited_for(1):
            return 0
        return self._turns.share if self._turns.on else self._max_batch

    async def _carry(self, lane: _Lane, batch: Sequence[tuple[Item, asyncio.Future[Result]]]) -> None:
        """Runs a batch, and sees how long it takes."""
        if self._turns is None:
            await self._run_batch(lane, batch)
            return
        began = time.monotonic()
        timer = asyncio.get_running_loop().call_later(_TURN_SECONDS, self._is_late, lane)
        lane.carried = len(batch)
        self._carried += lane.carried
        try:
            await self._run_batch(lane, batch)
        finally:
            timer.cancel()
            if not lane.given_up:
                self._turns.saw(len(self._waiting) + self._carried)
                self._turns.took(time.monotonic() - began)
                self._forget(lane)

    def _forget(self, lane: _Lane) -> None:
        """Its batch is no longer under way, or nobody waits for it any more."""
        self._carried -= lane.carried
        self._late -= lane.late
        lane.carried, lane.late = 0, False

    def _is_late(self, lane: _Lane) -> None:
        """Whoever waits for the end of this lane's batch gets the next lane."""
        if lane.given_up:
            return
        lane.late = True
        self._late += 1
        if self._waiting and self._busy < self._lanes:
            self._open_lane()

    async def _run_batch(
        self,
        lane: _Lane,
        batch: Sequence[tuple[Item, asyncio.Future[Result]]],
        rest: Sequence[tuple[Item, asyncio.Future[Result]]] = (),
    ) -> None:
        """Runs a batch; ``rest`` are those that come after it and lose patience with it."""
        alarm = self._alarm(lane, [*batch, *rest])
        try:
            results = await self._run([item for item, _ in batch])
        except BaseException as error:
            if len(batch) == 1 or self._is_shared_fault(error) or not isinstance(error, Exception):
                # After what ends this task nobody else gets to those who come after it.
                for _, future in batch if isinstance(error, Exception) else (*batch, *rest):
                    _settle(future, error)
                if not isinstance(error, Exception):
                    raise
                return
        else:
            for (_, future), result in zip(batch, results, strict=True):
                _settle(future, result)
            return
        finally:
            if alarm is not None:
                alarm.cancel()
        for position, pair in enumerate(batch):
            if not pair[1].done():
                await self._run_batch(lane, [pair], batch[position + 1 :])

    def _alarm(
        self, lane: _Lane, batch: Sequence[tuple[Item, asyncio.Future[Result]]]
    ) -> asyncio.TimerHandle | None:
        if self._patience is None:
            return None
        callers = [future for _, future in batch]
        return asyncio.get_running_loop().call_later(self._patience, self._give_up, lane, callers)

    def _give_up(self, lane: _Lane, callers: Sequence[asyncio.Future[Result]]) -> None:
        """Whoever waits is told; the lane is free for others, and what it does called off, which nobody waits for."""
        for future in (*callers, *(future for _, future in self._waiting)):
            _settle(future, TimeoutError(f"no answer within {self._patience:g} s"))
        self._waiting.clear()
        lane.given_up = True
        self._busy -= 1
        self._forget(lane)
        # What has not gone out yet never does: its callers are told that it failed.
        lane.task.cancel()


class SingleFlight(Generic[Key, Result]):
    """Runs ``run(key)`` once for all who ask for the same key while it is under way.

    A caller who goes away takes nobody else's answer along: the work goes on.
    """

    def __init__(self, run: Callable[[Key], Coroutine[Any, Any, Result]]) -> None:
        self._run = run
        self._under_way: dict[Key, asyncio.Task[Result]] = {}

    async def __call__(self, key: Key) -> Result:
        task = self._under_way.get(key)
        if task is None:
            task = self._under_way[key] = asyncio.create_task(self._run(key))
            task.add_done_callback(lambda done: self._landed(key, done))
        return await asyncio.shield(task)

    def _landed(self, key: Key, task: asyncio.Task[Result]) -> None:
        self._under_way.pop(key, None)
        if not task.cancelled():
            task.exception()  # seen, even where nobody waited for it any more


class FreshFlight(Generic[Key, Result]):
    """As ``SingleFlight``, for answers that must not be older than their questions.

    Who asks while a run for his key is under way waits for the next one, and shares that with all who ask meanwhile.
    """

    def __init__(self, run: Callable[[Key], Coroutine[Any, Any, Result]]) -> None:
        self._run = run
        #: By key, runs that have begun, and those that wait for their end.
        self._under_way: dict[Key, asyncio.Task[Result]] = {}
        self._next: dict[Key, asyncio.Task[Result]] = {}

    async def __call__(self, key: Key) -> Result:
        task = self._next.get(key)
        if task is None:
            before = self._under_way.get(key)
            runs = self._under_way if before is None else self._next
            task = runs[key] = asyncio.create_task(self._fly(key, before), context=Context())
            task.add_done_callback(
                lambda done: done.cancelled() or done.exception()
            )  # seen, if nobody waits any more
        return await asyncio.shield(task)

    async def _fly(self, key: Key, before: asyncio.Task[Result] | None) -> Result:
        if before is not None:
            await asyncio.wait({before})
            self._under_way[key] = self._next.pop(key)
        try:
            return await self._run(key)
        finally:
            del self._under_way[key]


def _settle(future: asyncio.Future[Result], result: Result | BaseException) -> None:
    if future.done():
        return
    if isinstance(result, asyncio.CancelledError):
        future.cancel()
    elif isinstance(result, BaseException):
        future.set_exception(result)
    else:
        future.set_result(result)
