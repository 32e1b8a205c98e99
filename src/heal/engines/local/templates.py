"""Chat templates, rendered where they can be stopped.

A chat template is a program that came with somebody's model. jinja2's sandbox, as transformers sets
it up, keeps it from files and modules, not from looping for ever or from filling the memory. So
transformers renders it in a process of its own, under limits of CPU time and memory, which then
dies alone. In: a template, messages, the names of special tokens. Out: text. Needs POSIX pipes.
"""

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from heal.wording import plural

LIMIT_S = 10
"""CPU seconds for one conversation; an ordinary template takes a thousandth of one."""
MEMORY_BYTES = 1 << 30
"""What rendering may take beyond the interpreter and transformers."""
LONGEST_OUTPUT = 1 << 20
"""Characters a template may write, beyond eight times those it was given."""
_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from heal.engines.local.templates import serve; serve()"
)

Messages = Sequence[Mapping[str, str]]


_WORDS = {"system": "HEAL-SYSTEM-WORDS", "user": "HEAL-USER-WORDS"}


class TemplateError(ValueError):
    """A template refused the conversation, or did too much; the message says which."""


class LostWordsError(TemplateError):
    """A template leaves out what it was given."""


def apply_template(
    tokenizer: Any, messages: Messages, *, add_generation_prompt: bool, template: str | None = None
) -> str:
    """The conversation as the model reads it; `template` None takes the tokenizer's own.

    Raises: TemplateError.
    """
    try:
        chosen = template if template is not None else tokenizer.get_chat_template()
    except ValueError as error:
        raise TemplateError(str(error)) from None
    names = {name: _plain(value) for name, value in tokenizer.special_tokens_map.items()}
    return _process.render(chosen, messages, add_generation_prompt, names)


def require_words(tokenizer: Any, template: str, *, system: bool) -> None:
    """Whether a template renders what it is given: one of a multimodal model may look for parts.

    Raises: TemplateError.
    """
    roles = ("system", "user") if system else ("user",)
    messages = [{"role": role, "content": _WORDS[role]} for role in roles]
    text = apply_template(tokenizer, messages, add_generation_prompt=True, template=template)
    lost = [role for role in roles if _WORDS[role] not in text]
    if lost:
        raise LostWordsError(f"it leaves out what the {lost[-1]} turn says")


def remedy(error: ValueError) -> str:
    """What to do about a template that raised."""
    if "no default" in str(error):
        return "save the one you mean as chat_template.jinja in the model's folder"
    if isinstance(error, LostWordsError) and "user" in str(error):
        return "it may want a list of parts: write a chat_template.jinja that takes plain text"
    return "if it knows no system turn: --set prompts.system=null"


def _plain(value: Any) -> Any:
    return [str(v) for v in value] if isinstance(value, list | tuple) else str(value)


class _Process:
    """The one process that renders; started when it is needed, and again when it has died."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def render(
        self, template: str, messages: Messages, prompt: bool, names: Mapping[str, Any]
    ) -> str:
        asked = json.dumps([LIMIT_S, template, [dict(m) for m in messages], prompt, names])
        given = sum(len(text) for message in messages for text in message.values())
        with self._lock:
            answer = self._ask(asked.encode() + b"\n")
        if "error" in answer:
            raise TemplateError(answer["error"])
        if len(answer["text"]) > 8 * given + LONGEST_OUTPUT:
            length = f"{plural(len(answer['text']), 'character')} for a conversation of {given:,}"
            raise TemplateError(f"it writes {length}")
        return str(answer["text"])

    def _ask(self, line: bytes) -> dict[str, Any]:
        if self._process is None or self._process.poll() is not None:
            self._process = _start()
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(line)
            process.stdin.flush()
        answer = process.stdout.readline()
        if answer.endswith(b"\n"):
            found: dict[str, Any] = json.loads(answer)
            return found
        code = self.close()
        if code == -signal.SIGPROF:
            return {"error": f"it takes longer than {LIMIT_S} s of CPU time"}
        return {"error": f"the process that renders it died (exit code {code})"}

    def close(self) -> int | None:
        """End the process; its exit code."""
        process, self._process = self._process, None
        if process is None:
            return None
        assert process.stdin is not None and process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        code = process.wait()
        process.stdout.close()
        return code


_process = _Process()
atexit.register(_process.close)


def _start() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", _BOOT, json.dumps(sys.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # its own session: Ctrl-C reaches only the parent
        start_new_session=True,
        # one thread: each that a library starts takes address space, which is limited
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )


def serve() -> None:
    """The process's side: render one line's conversation after another until the pipe closes."""
    from transformers.utils.chat_template_utils import render_jinja_template

    outlet = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    _limit_memory()
    for line in sys.stdin.buffer:
        limit_s, *conversation = json.loads(line)
        # not caught: the process dies of it, wherever it is
        signal.setitimer(signal.ITIMER_PROF, limit_s)
        answer = _rendered(render_jinja_template, *conversation)
        signal.setitimer(signal.ITIMER_PROF, 0)
        outlet.write(answer + b"\n")


def _rendered(
    render: Any, template: str, messages: Any, prompt: bool, names: dict[str, Any]
) -> bytes:
    try:
        (text,), _ = render(
            conversations=[messages],
            chat_template=template,
            add_generation_prompt=prompt,
            **names,
        )
        return json.dumps({"text": text}).encode()
    except MemoryError:
        return json.dumps({"error": f"it takes more than {MEMORY_BYTES >> 20} MiB"}).encode()
    except RecursionError:
        return json.dumps({"error": "it calls itself without end"}).encode()
    except Exception as error:
        return json.dumps({"error": f"{error}" or type(error).__name__}).encode()


def _limit_memory() -> None:
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource
        from pathlib import Path

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
