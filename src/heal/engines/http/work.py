"""One of our requests as requests to servers, and their answers as our results.

In: a `GenRequest` or `ScoreRequest` that was found possible. Out: results, handed over one by one.
An answer is believed only if its ids are in the vocabulary, no longer than asked for, and ended by
what the tokenizer calls an end; what is wrong with it is asked for again, its siblings are kept.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from heal.engines.base import (
    Generated,
    GenRequest,
    Probe,
    Scored,
    ScoreRequest,
    failed_generation,
    failed_score,
)
from heal.engines.http.dialects.base import Dialect, HttpRequest, Sample, SampleRequest, Values
from heal.engines.http.endpoint import Endpoint
from heal.engines.http.failures import BadAnswerError, RequestError
from heal.engines.http.pool import Call, Pool
from heal.method.entropy import entropy_bounds
from heal.records import Finish, IntArray

PREFILL_SPEEDUP = 100
"""A token that is read takes this much less of the time-out than one that is written."""


@dataclass(frozen=True)
class Done:
    """So many requests are over, and all that came of them was delivered before."""

    requests: int


Deliver = Callable[[Generated | Scored | BaseException | Done], None]


@dataclass(frozen=True)
class Served:
    """What is known of the model."""

    end_ids: frozenset[int]
    context: int
    vocabulary: int


async def write(pool: Pool, served: Served, request: GenRequest, deliver: Deliver) -> None:
    """Draw every sample of a request at one server, and deliver each as it comes."""
    preferred, size = pool.choose(score=False), pool.settings.samples_per_request
    everything = range(len(request.seeds))
    chunks = [everything[i : i + size] for i in range(0, len(everything), size)]
    drawings = (_Drawing(pool, served, request, list(c), deliver) for c in chunks)
    await asyncio.gather(*_assigned([d.run(preferred) for d in drawings], preferred))


@dataclass
class _Drawing:
    """Some samples of one request, drawn together until none is left."""

    pool: Pool
    served: Served
    request: GenRequest
    left: list[int]
    """Indices still to be drawn."""
    deliver: Deliver

    async def run(self, preferred: Endpoint | None) -> None:
        settings = self.pool.settings
        tokens = self.budget + len(self.request.prompt_ids) / PREFILL_SPEEDUP
        timeout_s = settings.timeout_s + tokens / settings.slowest_tokens_s
        try:
            await self.pool.ask(Call(self._request, self._read, timeout_s), preferred)
        except RequestError as error:
            for index in self.left:
                self.deliver(failed_generation(self.request, index, error.cause))
        except Exception as error:
            self.deliver(error)
        finally:
            self.deliver(Done(1))

    @property
    def budget(self) -> int:
        """Most tokens a sample may have: servers refuse what might not fit."""
        room = self.served.context - len(self.request.prompt_ids)
        return min(self.request.sampling.max_new_tokens, room)

    def _request(self, dialect: Dialect, model: str) -> HttpRequest:
        sampling = replace(self.request.sampling, max_new_tokens=self.budget)
        # With n, seeds would be seed, seed + 1, … and no longer those the caller named.
        alone = self.pool.settings.samples_per_request == 1
        seed = self.request.seeds[self.left[0]] if alone else None
        stops = tuple(sorted(self.served.end_ids))
        drawn = SampleRequest(self.request.prompt_ids, sampling, stops, len(self.left), seed)
        return dialect.write(model, drawn)

    def _read(self, dialect: Dialect, body: bytes) -> None:
        samples = {sample.index: sample for sample in dialect.written(body)}
        trouble: BadAnswerError | None = None
        wanted, self.left = self.left, []
        for position, index in enumerate(wanted):
            try:
                if position not in samples:
                    raise BadAnswerError("fewer samples than were asked for")
                ids, finish = believed(samples[position], self.served, self.budget)
            except BadAnswerError as error:
                trouble = error
                self.left.append(index)
                continue
            self.deliver(Generated(self.request.id, index, ids, finish))
        if trouble is not None:
            raise trouble


def believed(sample: Sample, served: Served, budget: int) -> tuple[IntArray, Finish]:
    """A sample's ids, end included, and how it ended. Raises: BadAnswerError."""
    told, stop = sample.ids, sample.stop_id
    if stop in served.end_ids and told[-1:] != [stop]:
        told = [*told, stop]
    if not told:
        raise BadAnswerError("an answer without tokens")
    ids = _as_array(told, served.vocabulary)
    if len(ids) > budget + (stop is not None):
        raise BadAnswerError("more tokens than were asked for")
    ends = [int(hit.argmax()) for end in served.end_ids if (hit := ids == end).any()]
    if ends:
        # A server knows fewer ends than the chat template has, and may have gone on.
        return ids[: min(ends) + 1], Finish.STOP
    if sample.reason == "stop":
        raise BadAnswerError("it stopped at an id that the tokenizer does not call an end")
    if sample.reason != "length" or len(ids) < budget:
        raise BadAnswerError(f"it ended early ('{sample.reason}')")
    return ids, Finish.LENGTH


def _as_array(ids: list[int], vocabulary: int) -> IntArray:
    """int32[T]. Raises: BadAnswerError for ids outside the vocabulary."""
    foreign = BadAnswerError(f"ids outside the vocabulary of {vocabulary}")
    try:
        found = np.array(ids, np.int64)
    except OverflowError:
        raise foreign from None
    if found.min() < 0 or found.max() >= vocabulary:
        raise foreign
    return found.astype(np.int32)


def requests_of(request: ScoreRequest) -> int:
    """How many requests a score takes: the target and each probe."""
    return bool(request.target_ids) + len(request.probes)


async def score(pool: Pool, served: Served, request: ScoreRequest, deliver: Deliver) -> None:
    """Score a target and its probes, at one server, and deliver the whole."""
    preferred, k = pool.choose(score=True), pool.settings.top_logprobs
    context, target = request.context_ids, request.target_ids
    calls = [_scoring(pool, (*context, *target), len(context), k)] if target else []
    for probe in request.probes:
        ids = (*context, *target[: probe.at], *probe.ids)
        calls.append(_scoring(pool, ids, len(context) + probe.at + probe.score_from, 0))
    tasks = _assigned([pool.ask(call, preferred) for call in calls], preferred)
    try:
        values = await asyncio.gather(*tasks)
        deliver(_scored(request, served, k, values))
    except RequestError as error:
        deliver(failed_score(request, error.cause))
    except Exception as error:
        deliver(error)
    finally:
        deliver(Done(requests_of(request)))
        for task in tasks:
            task.cancel()


def _scoring(pool: Pool, ids: tuple[int, ...], start: int, k: int) -> Call[Values]:
    settings = pool.settings
    timeout_s = settings.timeout_s + len(ids) / PREFILL_SPEEDUP / settings.slowest_tokens_s
    return Call(
        lambda dialect, model: dialect.score(model, ids, start, k),
        lambda dialect, body: dialect.scored(body, ids, start, k),
        timeout_s,
        score=True,
    )


def _scored(request: ScoreRequest, served: Served, k: int, values: Sequence[Values]) -> Scored:
    empty = np.zeros(0, np.float32)
    logprob, lo, hi, probes, rank = empty, empty, empty, list(values), None
    if request.target_ids:
        main = probes.pop(0)
        logprob, rank = main.logprob, main.rank if request.ranks else None
        lo, hi = entropy_bounds(main.top, served.vocabulary, main.logprob)
    context, length = len(request.context_ids), len(request.target_ids)
    read = [context + p.at + len(p.ids) for p in request.probes]
    tokens = sum(read) + (context + length if length else 0)
    probed = tuple(p.logprob for p in probes)
    return Scored(request.id, logprob, lo, hi, probed, tokens, rank=rank)


def probes_in_range(probes: Sequence[Probe], length: int) -> str | None:
    """Why a probe cannot be scored; None if all can."""
    for probe in probes:
        if not 0 <= probe.at <= length or not 0 <= probe.score_from < len(probe.ids):
            return f"probe at {probe.at} (scored from {probe.score_from}) is out of range"
    return None


def _assigned(
    work: Sequence[Coroutine[Any, Any, Any]], preferred: Endpoint | None
) -> list[asyncio.Task[Any]]:
    """Start requests that count as their preferred server's load until done or cancelled."""
    tasks = [asyncio.create_task(one) for one in work]
    if preferred is not None:
        preferred.assigned += len(tasks)
        for task in tasks:
            task.add_done_callback(lambda _: setattr(preferred, "assigned", preferred.assigned - 1))
    return tasks
