"""How busy the runner keeps a server: the real stages and runner over a server that is simulated.

The server has so many places; a trace takes as long as its length says (log-normal, median 4,000
tokens, sigma 0.7, at most 16,384) at 30 tokens a second; time is the simulation's own. 15 % of the
problems are extreme, and a repair of one passes with a chance of its own, drawn from Beta(0.6, 1).
Verifying and scoring take no time here. Printed per setting: hours, share of places kept busy,
requests, and when the first and the median problem were finished, over seeds. Run:
python benchmarks/bench_waiting.py [--json FILE] [--problems N] [--slots N] [--seeds N]
"""

import argparse
import heapq
import json
import math
import random
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from heal.config import Config
from heal.engines.base import Generated, GenRequest
from heal.engines.scripted import END, ScriptedEngine
from heal.execute import ask_all
from heal.recipe import parse
from heal.records import Finish
from heal.session import Session
from heal.store import Store

MEDIAN, SIGMA, LONGEST = 4000.0, 0.7, 16_384
TOKENS_S = 30.0
EXTREME, CHANCE = 0.15, (0.6, 1.0)
HINT_TOKENS = 100
BAR = 0.93


@dataclass(frozen=True)
class Kept:
    """One simulated run."""

    problems: int
    slots: int
    seed: int
    hours: float
    busy: float
    """Share of the time that the places spent on requests, until the last one ended."""
    requests: int
    first_h: float
    """When the first problem owed nothing more."""
    median_h: float


class SimulatedServer(ScriptedEngine):
    """Answers as a server of `slots` places would, in its own time."""

    def __init__(self, slots: int, seed: int) -> None:
        super().__init__([{"match": "", "entropies": [0.2, 0.3, 2.5, 0.4]}])
        self.slots, self.seed = slots, seed
        self.now = self.spent_s = 0.0
        self.asked = 0

    def generate(self, requests: Iterable[GenRequest | None]) -> Iterator[Generated | None]:
        source, ended = iter(requests), False
        waiting: deque[tuple[GenRequest, int]] = deque()
        running: list[tuple[float, int, GenRequest, int]] = []
        while True:
            paused = False
            while not ended and not paused and len(running) + len(waiting) < self.slots:
                request = next(source, END)
                ended, paused = request is END, request is None
                if isinstance(request, GenRequest):
                    waiting.extend((request, index) for index in range(len(request.seeds)))
            while waiting and len(running) < self.slots:
                request, index = waiting.popleft()
                self.asked += 1
                spent = self._takes_s(request, index)
                self.spent_s += spent
                heapq.heappush(running, (self.now + spent, self.asked, request, index))
            if running:
                self.now, _, request, index = heapq.heappop(running)
                yield self._answer(request, index)
            elif ended:
                return
            yield None  # nothing else happens before the runner has seen this answer

    def _takes_s(self, request: GenRequest, index: int) -> float:
        if request.sampling.max_new_tokens == HINT_TOKENS:
            return HINT_TOKENS / TOKENS_S
        dice = random.Random(f"{self.seed}|{request.seeds[index]}")
        return min(LONGEST, MEDIAN * math.exp(dice.gauss(0, SIGMA))) / TOKENS_S

    def _answer(self, request: GenRequest, index: int) -> Generated:
        prompt = bytes(i if i < 256 else 32 for i in request.prompt_ids).decode()
        name = prompt.split("#", 1)[1].split(" ", 1)[0]
        extreme, chance = _kind(self.seed, name)
        dice = random.Random(f"{self.seed}|{request.seeds[index]}|answer")
        if request.sampling.max_new_tokens == HINT_TOKENS:
            text = "Look at the tens before anything else."
        elif "Hint:" in prompt:
            text = _trace(dice, 142 if dice.random() < (chance if extreme else 0.9) else 99)
        else:
            text = _trace(dice, 142 if not extreme else 100 + dice.randrange(40))
        ids = np.array([*text.encode(), END], np.int32)
        return Generated(request.id, index, ids, Finish.STOP)


def _kind(seed: int, name: str) -> tuple[bool, float]:
    dice = random.Random(f"{seed}|{name}")
    return dice.random() < EXTREME, dice.betavariate(*CHANCE)


def _trace(dice: random.Random, answer: int) -> str:
    words = ("red", "green", "blue", "brown", "white", "black", "grey")
    lines = [f"Then the {dice.choice(words)} ones {dice.randrange(1000)} come." for _ in range(5)]
    return "\n\n".join([*lines, f"So \\boxed{{{answer}}}."])


def simulate(problems: int, slots: int, seed: int) -> Kept:
    """One run, with its stages and its runner, in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        rows = [{"problem": f"What is #{n} worth?", "answer": "142"} for n in range(problems)]
        (home / "problems.jsonl").write_text("\n".join(map(json.dumps, rows)))
        (home / "script.json").write_text("[]")  # the server answers in its place
        config = _config(home)
        server, finished = SimulatedServer(slots, seed), list[float]()
        with Store.open(home / "run") as store:
            session = Session(config, store, _Watch(server, finished))
            session.teacher = server
            ask_all(session)
    ends = sorted(finished)
    return Kept(
        problems,
        slots,
        seed,
        server.now / 3600,
        server.spent_s / (server.now * slots),
        server.asked,
        ends[0] / 3600,
        median(ends) / 3600,
    )


def _config(home: Path) -> Config:
    tree: dict[str, Any] = {
        "run": str(home / "run"),
        "problems": {
            "path": str(home / "problems.jsonl"),
            "verifier": "exact",
            "held_out": 0,
        },
        "teacher": {"engine": "scripted", "model": str(home / "script.json")},
        "arms": ["rft", "heal"],
        # failed traces are scored, so that every stage waits
        "gear": {"breakpoint": "difference", "hint_max_tokens": HINT_TOKENS},
    }
    return parse(tree)


class _Watch:
    """Notes when problems are finished, by the server's clock."""

    def __init__(self, server: SimulatedServer, finished: list[float]) -> None:
        self._server, self._finished = server, finished

    def advance(self, count: int = 1) -> None:
        self._finished.append(self._server.now)

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **more: None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--problems", type=int, default=1000)
    parser.add_argument("--slots", type=int, default=256)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    runs = [simulate(args.problems, args.slots, seed) for seed in range(args.seeds)]
    print("problems  slots  seed   hours  kept busy  requests  first done  median done")
    for r in runs:
        print(
            f"{r.problems:8,} {r.slots:6,} {r.seed:5} {r.hours:7.2f} {r.busy:9.1%} {r.requests:9,}"
            f" {r.first_h:9.2f} h {r.median_h:10.2f} h"
        )
    busy = median(r.busy for r in runs)
    print(f"kept busy, median of {len(runs)}: {busy:.1%} (bar {BAR:.0%})")
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps([asdict(r) for r in runs], indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
