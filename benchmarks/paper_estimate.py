"""What a run with a 32B teacher would take on 1 to 1,000 GPUs: arithmetic, not measured on GPUs.

Tokens are those `heal check` counts (`heal.before.estimate`). Model and GPU figures are from their
data sheets, the speeds are assumptions, and both are printed beside what follows from them.
`docs/scaling.md` quotes this output. Run: python benchmarks/paper_estimate.py
"""

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from heal.before.estimate import Assumed, Cost, costs
from heal.config import Config
from heal.recipe import parse
from heal.records import Problem
from heal.stages.repair import rounds

PROBLEMS, TRACES, TRACE_TOKENS, PROMPT_TOKENS = 10_000, 30, 4_000, 200
PROBE_TOKENS = 12
STEP_TOKENS = 40
ACCEPTED = 0.2
"""Assumed share of repairs that pass the gates, where `gear.target` ends a problem."""
FLEETS = (1, 8, 64, 256, 1000)
JSON_PER_TOKEN = 1_500
"""Bytes a server sends per scored token with its 20 likeliest (a vLLM answer, measured)."""
TRACE_BYTES = 11_240
"""Bytes of a run folder per stored trace of 4,000 tokens of real text, measured:
benchmarks/bench_store.py."""
TRACES_S = {"one trace per request, with its seed": 4_011, "32 traces per request": 10_738}
"""Driver: traces per second of one core, measured (benchmarks/bench_driver.py, 1,000 tokens)."""


@dataclass(frozen=True)
class Decoder:
    """A dense decoder with grouped-query attention."""

    name: str
    parameters: float
    layers: int
    kv_heads: int
    head_dim: int
    kv_bytes: int = 2

    @property
    def kv_per_token(self) -> int:
        """Bytes of keys and values of one token."""
        return 2 * self.layers * self.kv_heads * self.head_dim * self.kv_bytes


@dataclass(frozen=True)
class Gpu:
    """Data sheet figures of an accelerator."""

    name: str
    memory: float
    bandwidth: float
    flops: float
    """Dense, bf16."""


QWEN3_32B = Decoder("Qwen3-32B", 32.8e9, layers=64, kv_heads=8, head_dim=128)
H100 = Gpu("H100 80 GB", 80e9, 3.35e12, 989e12)
H200 = Gpu("H200 141 GB", 141e9, 4.8e12, 989e12)
USED = 0.9
"""Share of its memory a server takes: vLLM's default."""
OVERHEAD = 3e9
"""Assumed bytes per GPU for activations and graphs."""
WRITE_SHARE, READ_SHARE = 0.5, 0.4
"""Assumed shares of the bandwidth bound and of the data sheet's FLOP/s that a server reaches."""


@dataclass(frozen=True)
class Server:
    """One replica of the model: so many GPUs that share it."""

    gpu: Gpu
    gpus: int
    weight_bytes: float
    """Per parameter: 2 for bf16, 1 for fp8."""
    model: Decoder = QWEN3_32B

    @property
    def kv_room(self) -> float:
        """Bytes left for keys and values in one replica; negative where the model does not fit."""
        weights = self.model.parameters * self.weight_bytes
        return self.gpus * (self.gpu.memory * USED - OVERHEAD) - weights

    def in_flight(self, tokens: float) -> int:
        """Sequences of so many tokens that one replica holds at once."""
        return max(0, int(self.kv_room // (self.model.kv_per_token * tokens)))

    def written_s(self, tokens: float) -> float:
        """Tokens per second and GPU at the bandwidth bound: a step reads all weights and all KV."""
        rows = self.in_flight(tokens)
        read = self.model.parameters * self.weight_bytes + rows * self.model.kv_per_token * tokens
        return rows / (read / (self.gpus * self.gpu.bandwidth)) / self.gpus

    @property
    def read_s(self) -> float:
        """Tokens per second and GPU at the compute bound: 2 FLOP per parameter."""
        return self.gpu.flops / (2 * self.model.parameters)


SERVERS = (
    ("H100, bf16", Server(H100, 1, 2)),
    ("2 × H100, bf16", Server(H100, 2, 2)),
    ("4 × H100, bf16", Server(H100, 4, 2)),
    ("H100, fp8 weights", Server(H100, 1, 1)),
    ("H200, bf16", Server(H200, 1, 2)),
)
CHOSEN, SMALLEST = SERVERS[1], SERVERS[3]


def config(uncertainty: bool = False) -> Config:
    """The defaults of a run, cut by entropy as the paper does; with U, PURE probes every step."""
    tree = {
        "gear": {"breakpoint": "difference"},
        "pure": {"measure_uncertainty": uncertainty},
        "run": "runs/paper",
        "problems": {"path": "problems.jsonl", "held_out": 0.0},
        "teacher": {"model": "teacher"},
        "sampling": {"n": TRACES, "max_new_tokens": 16_384},
    }
    return parse(tree)


def stages(uncertainty: bool = False) -> list[Cost]:
    """Tokens of each part, counted at most."""
    problems = [Problem(str(i), "", "") for i in range(PROBLEMS)]
    return costs(config(uncertainty), problems, Assumed(TRACE_TOKENS, PROMPT_TOKENS))


def ended_by_target(found: list[Cost]) -> list[Cost]:
    """The same where `ACCEPTED` of the repairs pass and `gear.target` ends each problem."""
    gear = config().gear
    assert gear.target is not None
    # A problem ends with the first round that brings it there, of all its paths.
    needed = gear.target / ACCEPTED / gear.paths
    drawn = next((n for n in rounds(gear.candidates) if n >= needed), gear.candidates)
    share = drawn / gear.candidates
    hinted = PROBLEMS * 0.3 * gear.hinted_samples
    repairs = PROBLEMS * 0.1 * gear.paths * gear.candidates
    scored = (share * repairs + hinted) / (repairs + hinted)
    shares = {"repair": share, "score": scored, "locate": share, "guide": share}
    return [
        Cost(c.part, c.read * shares.get(c.part, 1), c.written * shares.get(c.part, 1))
        for c in found
    ]


def with_prefix_cache(found: list[Cost], uncertainty: bool = False) -> list[Cost]:
    """The same where the n traces of a prompt read it once, and a probe reads only itself."""
    whole = PROMPT_TOKENS + TRACE_TOKENS
    steps = TRACE_TOKENS / STEP_TOKENS
    per_probe = whole * (1 + steps / 2)
    cached = {
        "sample": 1 / TRACES,
        "hinted traces": 1 / config().gear.hinted_samples,
        "repair": 1 / config().gear.candidates,
        "score": (whole + steps * PROBE_TOKENS) / per_probe if uncertainty else 1,
    }
    return [Cost(c.part, c.read * cached.get(c.part, 1), c.written) for c in found]


def total(found: list[Cost]) -> Cost:
    """All parts together."""
    return Cost("in all", sum(c.read for c in found), sum(c.written for c in found))


def hours(cost: Cost, gpus: int, written_s: float, read_s: float) -> float:
    """Time of so many tokens on so many GPUs, at speeds per GPU."""
    return (cost.written / written_s + cost.read / read_s) / gpus / 3600


def lines() -> Iterator[str]:
    """The whole estimate."""
    yield from token_lines()
    yield ""
    yield from memory_lines()
    yield ""
    yield from hour_lines()
    yield ""
    yield from disk_lines()


def token_lines() -> Iterator[str]:
    """Tokens by stage, three ways of counting."""
    most = stages()
    ended = ended_by_target(most)
    cached = with_prefix_cache(ended)
    yield f"Tokens in billions: {PROBLEMS:,} problems × {TRACES} traces × {TRACE_TOKENS:,} tokens"
    yield f"{'':<14}{'at most':^19}{'ended by target':^19}{'and prefix cache':^19}"
    yield f"{'':<14}" + f"{'written':>9}{'read':>10}" * 3
    for rows in zip(
        (*most, total(most)), (*ended, total(ended)), (*cached, total(cached)), strict=True
    ):
        yield _token_row(rows[0].part, rows)
    probed = stages(uncertainty=True)
    probed_ended = ended_by_target(probed)
    ways = (probed, probed_ended, with_prefix_cache(probed_ended, uncertainty=True))
    yield _token_row("score with U", [next(c for c in way if c.part == "score") for way in ways])


def _token_row(name: str, ways: Iterable[Cost]) -> str:
    return f"{name:<14}" + "".join(f"{c.written / 1e9:>9.3f}{c.read / 1e9:>10.3f}" for c in ways)


def memory_lines() -> Iterator[str]:
    """Keys and values, and what fits."""
    m, whole = QWEN3_32B, PROMPT_TOKENS + TRACE_TOKENS
    yield (
        f"{m.name}: 2 × {m.layers} layers × {m.kv_heads} KV heads × {m.head_dim} × {m.kv_bytes} B "
        f"= {m.kv_per_token / 1024:.0f} KiB per token, {m.kv_per_token * whole / 1e9:.2f} GB per "
        f"sequence of {whole:,} tokens"
    )
    yield (
        f"{'one replica':<20}{'room for KV':>13}{'sequences':>11}{'per GPU':>9}"
        f"{'written/s per GPU: bound':>26}{'assumed':>9}"
    )
    for name, server in SERVERS:
        rows, bound = server.in_flight(whole), server.written_s(whole)
        yield (
            f"{name:<20}{server.kv_room / 1e9:>10.1f} GB{rows:>11}{rows / server.gpus:>9.1f}"
            f"{bound:>26,.0f}{bound * WRITE_SHARE:>9,.0f}"
        )


def hour_lines() -> Iterator[str]:
    """Hours and the driver's load by number of GPUs."""
    whole = PROMPT_TOKENS + TRACE_TOKENS
    ended = ended_by_target(stages())
    plain, cached = total(ended), total(with_prefix_cache(ended))
    yield "Hours, and cores the driver needs"
    yield (
        f"{'GPUs':>6}  {'replicas of':<17}{'hours':>8}{'with cache':>12}{'in flight':>11}"
        f"{'traces/s':>10}{'cores, seeds':>14}{'32 at once':>12}"
    )
    one, many = TRACES_S.values()
    for gpus in FLEETS:
        name, server = CHOSEN if gpus >= CHOSEN[1].gpus else SMALLEST
        written_s, read_s = server.written_s(whole) * WRITE_SHARE, server.read_s * READ_SHARE
        traces_s = gpus * written_s / TRACE_TOKENS
        rows = gpus // server.gpus * server.in_flight(whole)
        slow, fast = (hours(c, gpus, written_s, read_s) for c in (plain, cached))
        yield (
            f"{gpus:>6}  {name:<17}{slow:>8,.1f}{fast:>12,.1f}{rows:>11,}"
            f"{traces_s:>10,.1f}{traces_s / one:>14.4f}{traces_s / many:>12.4f}"
        )
    name, server = SMALLEST
    speeds = server.written_s(whole) * WRITE_SHARE, server.read_s * READ_SHARE
    probed = total(ended_by_target(stages(uncertainty=True)))
    yield f"With U, and no cache: {hours(probed, 1, *speeds):,.1f} hours on one GPU"


def disk_lines() -> Iterator[str]:
    """What comes back from scoring, and what is kept."""
    ended = {c.part: c for c in ended_by_target(stages())}
    whole = PROMPT_TOKENS + TRACE_TOKENS
    rest = TRACE_TOKENS - TRACE_TOKENS * config().gear.window / 2
    repairs = ended["repair"].written / rest
    hinted = ended["hinted traces"].written / TRACE_TOKENS
    failed = ended["locate"].read / whole
    scored = repairs + hinted + failed
    yield (
        f"Scored traces: {scored:,.0f}; at {JSON_PER_TOKEN / 1e3:g} kB of JSON per token "
        f"{scored * whole * JSON_PER_TOKEN / 1e12:.2f} TB come back in all"
    )
    stored = PROBLEMS * TRACES + repairs + hinted
    yield (
        f"Stored traces: {stored:,.0f}; at {TRACE_BYTES / 1e3:.0f} kB each "
        f"{stored * TRACE_BYTES / 1e9:,.0f} GB"
    )


def main() -> None:
    """Print the estimate."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    print("\n".join(lines()))


if __name__ == "__main__":
    main()
