"""A real HTTP server in a thread that speaks vLLM's dialect over a small model, and can misbehave.

Faults are asked for request by request: `server.fault = lambda number, body: "429"`. With `echoes`
set, whatever it says goes with the authorization it was sent, as some servers and proxies do.
"""

import json
import math
import socket
import struct
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch

from heal.config import LocalEngine as Settings
from heal.engines.base import GenRequest, Probe, Sampling, ScoreRequest
from heal.engines.local import loading
from heal.engines.local.engine import open_local
from heal.engines.local.tokens import byte_alphabet
from heal.engines.scripted import ASSISTANT, ScriptedEngine
from heal.prompts import PROBE

Fault = Callable[[int, dict[str, Any]], str | None]
NONE: Fault = lambda number, body: None  # noqa: E731
CONTEXT = 256


class Model:
    """What stands behind the page: the tiny model, one request at a time."""

    context = CONTEXT

    def __init__(self, folder: Path) -> None:
        self.engine = open_local(str(folder), Settings(rows=64, threads=1))
        self.module = loading.load_module(loading.locate(str(folder)), "float32", "cpu")
        self.lock = threading.Lock()

    def write(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        sampling = Sampling(
            body["temperature"], body["top_p"], body["top_k"], body["min_p"], body["max_tokens"]
        )
        first = body.get("seed", int(time.time_ns()) % 10**9)
        seeds = tuple(first + i for i in range(body["n"]))
        request = GenRequest("r", tuple(body["prompt"]), seeds, sampling)
        with self.lock:
            found = sorted(self.engine.generate([request]), key=lambda g: g.index)
        return [
            {
                "index": g.index,
                "text": self.engine.decode(g.ids.tolist()),
                "token_ids": g.ids.tolist(),
                "finish_reason": str(g.finish),
                "stop_reason": None,
            }
            for g in found
        ]

    def prompt_logprobs(self, ids: list[int], k: int) -> list[Any]:
        """As vLLM gives them: nothing for the first, then the k likeliest and the token itself."""
        with self.lock, torch.inference_mode():
            logits = self.module(input_ids=torch.tensor([ids])).logits[0].double()
        logp = torch.log_softmax(logits, -1)
        places: list[Any] = [None]
        for row, token in zip(logp[:-1], ids[1:], strict=True):
            best = torch.topk(row, min(k, len(row))).indices.tolist() if k else []
            shown = dict.fromkeys([token, *best])
            places.append(
                {
                    str(i): {"logprob": float(row[i]), "rank": 1 + int((row > row[i]).sum())}
                    for i in shown
                }
            )
        return places


class Script:
    """The scripted engine behind the page, with made-up distributions of about its entropies."""

    def __init__(self, engine: ScriptedEngine) -> None:
        self.engine, self.context = engine, engine.capabilities.context

    def write(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        prompt, seeds = tuple(body["prompt"]), (body["seed"],)
        sampling = Sampling(max_new_tokens=body["max_tokens"])
        (found,) = self.engine.generate([GenRequest("r", prompt, seeds, sampling)])
        assert found.error is None, found.error
        return [{"token_ids": found.ids.tolist(), "finish_reason": str(found.finish)}]

    def prompt_logprobs(self, ids: list[int], k: int) -> list[Any]:
        """A text that ends in a probe is scored as the target before it, with that probe."""
        start = ids.index(ASSISTANT) + 1
        text = bytes(i & 255 for i in ids[start:])
        at = text.rfind(f"\n{PROBE}".encode()) if text.endswith(b"}") else -1
        cut = len(ids) if at < 0 else start + at
        probes = () if at < 0 else (Probe(cut - start, tuple(ids[cut:]), 0),)
        asked = ScoreRequest("s", tuple(ids[:start]), tuple(ids[start:cut]), probes)
        (scored,) = self.engine.score([asked])
        values = [*scored.logprob, *(v for probe in scored.probe_logprob for v in probe)]
        entropies = [*scored.entropy_lo, *([1.0] * (len(values) - len(scored.entropy_lo)))]
        places: list[Any] = [{str(i): {"logprob": -1.0}} for i in ids[:start]]
        for token, value, entropy in zip(ids[start:], values, entropies, strict=True):
            rest = min(k - 1, 19 if entropy > 1 else 1)
            share = math.log(max(1e-9, 1 - math.exp(value)) / max(rest, 1))
            others = [i for i in range(rest + 1) if i != token][:rest]
            shown = {token: float(value), **dict.fromkeys(others, share)}
            places.append({str(i): {"logprob": value} for i, value in shown.items()})
        return places


def write_byte_tokenizer(folder: Path) -> Path:
    """The scripted engine's own alphabet as a tokenizer folder."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE(vocab=byte_alphabet(), merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<end>", "<user>", "<assistant>", "<system>"])
    template = (
        "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}<end>{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<end>", chat_template=template
    )
    tokenizer.save_pretrained(folder)
    return folder


class Severable(ThreadingHTTPServer):
    """Serves from the start; `kill` severs what is open, as the death of a process does."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 256

    def __init__(self, port: int, handler: type[BaseHTTPRequestHandler]) -> None:
        self.count, self.open = threading.Lock(), set[Any]()
        super().__init__(("127.0.0.1", port), handler)
        self.port = self.server_address[1]
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def process_request(self, request: Any, client_address: Any) -> None:
        self.open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Severed connections are the point here."""

    def kill(self) -> None:
        self.shutdown()
        self.server_close()
        for connection in tuple(self.open):
            reset(connection)


class Server(Severable):
    """The server, over a small model or a script; `fault` says how it misbehaves."""

    def __init__(self, model: Model | Script, port: int = 0) -> None:
        self.model, self.fault = model, NONE
        self.well = True
        self.echoes = False
        self.authorizations: set[str | None] = set()
        self.served = "tiny"
        self.posts: list[dict[str, Any]] = []
        self.answered: list[dict[str, Any]] = []
        self.under_way = self.most_under_way = 0
        super().__init__(port, Handler)


def reset(connection: socket.socket) -> None:
    """End a connection with a reset, as a killed process does."""
    try:
        linger = struct.pack("ii", 1, 0)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        models = {"data": [{"id": self.server.served, "max_model_len": self.server.model.context}]}
        if not self.server.well:
            self.reply(503, {"error": "engine is dead" + self.echo()})
        elif self.path in ("/health", "/v1/models"):
            self.reply(200, {} if self.path == "/health" else models)
        else:
            self.reply(404, {"detail": "Not Found"})

    def do_POST(self) -> None:
        server = self.server
        server.authorizations.add(self.headers["authorization"])
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with server.count:
            number = len(server.posts)
            server.posts.append(body)
            server.under_way += 1
            server.most_under_way = max(server.most_under_way, server.under_way)
        fault = server.fault(number, body)
        if body["model"] != server.served:
            fault = "404"
        try:
            self.misbehave(fault, body)
        finally:
            with server.count:
                server.under_way -= 1

    def misbehave(self, fault: str | None, body: dict[str, Any]) -> None:
        kind, _, value = (fault or "").partition(":")
        if kind.isdigit():
            moved = {"location": value} if kind.startswith("3") else {"retry-after": value}
            said = "not today" + self.echo()
            self.reply(int(kind), {"error": {"message": said}}, moved if value else {})
        elif kind == "reset":
            reset(self.connection)
            self.close_connection = True
        elif kind == "garbage":
            self.reply(200, json.loads(value.replace("ECHO", self.echo())))
        else:
            choices = self.choices(body)
            if kind == "spoil":
                exec(value, {"choices": choices})
            self.send_json({"choices": choices}, kind)
            if not kind:
                with self.server.count:
                    self.server.answered.append(body)

    def echo(self) -> str:
        return f" for {self.headers['authorization']}" if self.server.echoes else ""

    def choices(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        if "prompt_logprobs" in body:
            assert body["n"] == 1
            places = self.server.model.prompt_logprobs(body["prompt"], body["prompt_logprobs"])
            return [{"index": 0, "prompt_logprobs": places, "token_ids": [1]}]
        return self.server.model.write(body)

    def reply(self, status: int, tree: Any, headers: dict[str, str] | None = None) -> None:
        content = json.dumps(tree).encode()
        self.send_response(status)
        for name, value in {**(headers or {}), "content-length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def send_json(self, tree: Any, kind: str) -> None:
        content = json.dumps(tree).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        if kind == "half":
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            reset(self.connection)
            self.close_connection = True
        elif kind == "drip":
            for byte in content:
                self.wfile.write(bytes([byte]))
                time.sleep(0.05)
        else:
            self.wfile.write(content)
