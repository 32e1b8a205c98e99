"""An event loop in a thread of its own, so that synchronous code can use asynchronous clients."""

import asyncio
import threading
from collections.abc import Coroutine, Iterable
from concurrent.futures import Future
from typing import Any, TypeVar

Result = TypeVar("Result")


class Loop:
    """Runs coroutines in the background. Close it when done."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="http", daemon=True)
        self._thread.start()

    def submit(self, work: Coroutine[Any, Any, Result]) -> "Future[Result]":
        """Start a coroutine."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Start a coroutine and wait for what it returns."""
        return self.submit(work).result()

    def cancel(self, running: Iterable["Future[Any]"]) -> None:
        """Cancel these together: one by one, each would hand its slot to the next."""
        ending = tuple(running)

        def end() -> None:
            for future in ending:
                future.cancel()

        if ending:
            self._loop.call_soon_threadsafe(end)

    def close(self) -> None:
        """Cancel what is under way and end the thread; closing twice is harmless."""
        if self._loop.is_closed():
            return
        self.run(cancel_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def cancel_all() -> None:
    """End everything under way but the caller."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
