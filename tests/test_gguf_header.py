"""What a `.gguf` says of itself is read as the library reads it, and damage is refused."""

import random
from pathlib import Path

import gguf
import pytest
from tests.fuzz import write_gguf

from heal.before.gguf_header import read_settings
from heal.before.machine import model_facts
from heal.errors import UserError


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    write_gguf(path)
    return path


def test_every_setting_is_what_the_library_reads(model: Path) -> None:
    theirs = {
        name: field.contents()
        for name, field in gguf.GGUFReader(model).fields.items()
        if not name.startswith("GGUF.") and field.types[0] is not gguf.GGUFValueType.ARRAY
    }
    assert read_settings(model) == theirs
    assert theirs["llama.context_length"] == 256


@pytest.mark.parametrize("thinks", [True, False])
def test_a_models_context_and_thinking_are_told(tmp_path: Path, thinks: bool) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "qwen3")
    writer.add_context_length(40_960)
    writer.add_token_list(["a", "b"])
    writer.add_chat_template("<think>" if thinks else "no")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    found = model_facts(str(tmp_path / "m.gguf"))
    assert (found.context, found.thinks) == (40_960, thinks)


def test_damage_is_refused_or_read_and_never_anything_else(model: Path, tmp_path: Path) -> None:
    content, dice = model.read_bytes(), random.Random(0)
    file, refused = tmp_path / "m.gguf", 0
    for _ in range(400):
        start, length = dice.randrange(200), dice.randrange(1, 12)
        file.write_bytes(content[:start] + dice.randbytes(length) + content[start + length :])
        try:
            read_settings(file)
        except UserError as error:
            assert error.hint == "is this file whole?"
            refused += 1
    assert 100 < refused < 400


@pytest.mark.parametrize("length", [0, 3, 20, 100])
def test_a_file_that_breaks_off_is_refused(model: Path, tmp_path: Path, length: int) -> None:
    (tmp_path / "m.gguf").write_bytes(model.read_bytes()[:length])
    with pytest.raises(UserError, match="its header cannot be read"):
        read_settings(tmp_path / "m.gguf")
