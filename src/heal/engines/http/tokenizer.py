"""The served model's tokenizer, read from a folder here: what renders prompts and reads answers.

In: a folder with a tokenizer (weights are not needed) or a `.gguf` file. Out: `Tokens`, a
fingerprint and the size of the vocabulary. Nothing asks a server to tokenise anything.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from heal.engines.local import loading
from heal.engines.local.tokens import Tokens
from heal.errors import UserError

_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")
_ALL = (*_FILES, "tokenizer_config.json", "chat_template.jinja", "merges.txt")


@dataclass(frozen=True)
class ServedTokenizer:
    """A tokenizer and what is known of the model it belongs to."""

    tokens: Tokens
    fingerprint: str
    vocabulary: int
    """Ids the model knows, rows without a token included where config.json tells."""


def open_tokenizer(model: str) -> ServedTokenizer:
    """Read the tokenizer a `teacher.model` names. Raises: UserError."""
    source = _locate(model)
    declared = loading.declared_of(source.path)
    tokenizer = loading.load_tokenizer(source)
    ends = declared.ends | loading.declared_ids(tokenizer.eos_token_id)
    tokens = Tokens(tokenizer, str(source.path), ends)
    fingerprint = loading.fingerprint(source) if source.gguf else _fingerprint(source.folder)
    return ServedTokenizer(tokens, fingerprint, max(len(tokenizer), declared.rows or 0))


def tokenizer_only(model: str) -> str | None:
    """Fingerprint of a folder that has a tokenizer and no weights; None for anything else."""
    folder = Path(model).expanduser()
    if not any((folder / name).is_file() for name in _FILES):
        return None
    if any(folder.glob("*.safetensors")) or any(folder.glob("pytorch_model*.bin")):
        return None
    return _fingerprint(folder)


def _locate(model: str) -> loading.Source:
    folder = Path(model).expanduser()
    if any((folder / name).is_file() for name in _FILES):
        return loading.Source(folder)
    if folder.is_dir():
        loading.refuse_dangling(folder)
        raise UserError(
            f"{model}: no tokenizer (tokenizer.json) in this folder",
            hint="copy the served model's tokenizer files there; its weights are not needed",
        )
    return loading.locate(model)


def _fingerprint(folder: Path) -> str:
    digest = hashlib.sha256()
    for name in _ALL:
        if (folder / name).is_file():
            digest.update(name.encode())
            digest.update((folder / name).read_bytes())
    return f"tokenizer-{digest.hexdigest()[:16]}"
