"""Tokenizers that are published without tokenizer.json, as the fast tokenizer with the same ids.

Byte-level BPE in vocab.json and merges.txt, SentencePiece in tokenizer.model, tiktoken's ranks: read by
transformers' own converters, but for SentencePiece's BPE, whose merges transformers 5.23 orders by id
where the slow class (SentencePiece itself) goes by score; what is built here is compared with it.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from opendllm.core.foundation.json_objects import read_json_object
from opendllm.registries.errors import UserError, first_line

CONFIG_FILE = "tokenizer_config.json"
VOCABULARY_FILE = "vocab.json"
MERGES_FILE = "merges.txt"
SENTENCEPIECE_FILE = "tokenizer.model"
_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_FLAGS = ("lstrip", "rstrip", "single_word", "normalized")
_PRE_TOKENIZERS: Mapping[str, str] = MappingProxyType(
    {"Qwen2": "Qwen2Converter", "Qwen3": "Qwen2Converter", "Dream": "Qwen2Converter"}
    | {"GPT2": "GPT2Converter", "CodeGen": "GPT2Converter", "GPTNeoX": "GPT2Converter"}
)
"""How a byte-level BPE cuts texts before merging, which its files don't say: by the class that they name."""
_PATTERNS: Mapping[str, str] = MappingProxyType(
    {
        "qwen": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    }
)
"""The same of tiktoken's files, by the beginning of their names; LLaMA-3's else."""
_PROBES = (
    "x = 1",
    "  two spaces",
    "def f(a):\n    return a\n",
    "\tif é:\n\t\t'世界 🙂'\n\n\n",
    "a  b   c ",
    " a",
    "▁",
)
"""Texts that SentencePiece itself and what is built from its file must read alike."""


def convertible(folder: Path) -> bool:
    """Whether a folder holds files that `convert_tokenizer` reads."""
    return (folder / VOCABULARY_FILE).is_file() or _binary_vocabulary(folder) is not None


def convert_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a folder without tokenizer.json.

    Raises:
        UserError: its class is unknown, a file is missing or damaged, ids don't fit together, or the
            built tokenizer doesn't read texts as SentencePiece does.
    """
    config = read_json_object(folder / CONFIG_FILE, optional=True)
    binary = _binary_vocabulary(folder)
    if (folder / VOCABULARY_FILE).is_file():
        backend = _byte_level(folder, config)
    else:
        assert binary is not None
        backend = _from_binary(binary, config)
    _add_tokens(backend, folder, config)
    named = {**read_json_object(folder / "special_tokens_map.json", optional=True), **config}
    special = {name: _content(named[name]) for name in _NAMED if named.get(name) is not None}
    if binary is not None and binary.suffix == ".model" and "add_bos_token" not in config:
        config = {**config, "add_bos_token": "bos_token" in special}  # the default of LLaMA's slow class
    flags = {name: config[name] for name in ("add_bos_token", "add_eos_token") if name in config}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        chat_template=_chat_template(folder, config),
        clean_up_tokenization_spaces=False,
        **special,
        **flags,
    )


def _binary_vocabulary(folder: Path) -> Path | None:
    candidates = [folder / SENTENCEPIECE_FILE, *sorted(folder.glob("*.tiktoken"))]
    return next((path for path in candidates if path.is_file()), None)


def _byte_level(folder: Path, config: Mapping[str, Any]) -> Tokenizer:
    if not (folder / MERGES_FILE).is_file():
        raise UserError(f"{folder} has {VOCABULARY_FILE} and lacks {MERGES_FILE}: is it complete?")
    named = str(
        config.get("tokenizer_class")
        or read_json_object(folder / "config.json", optional=True).get("model_type")
        or ""
    )
    converter = next(
        (c for family, c in _PRE_TOKENIZERS.items() if named.lower().startswith(family.lower())), None
    )
    if converter is None:
        raise UserError(
            f"{folder}: how tokenizer class {named or '(none named)'!r} cuts texts is not known "
            f"({', '.join(_PRE_TOKENIZERS)} are): convert it to tokenizer.json where it comes from"
        )
    vocabulary = read_json_object(folder / VOCABULARY_FILE, optional=True)
    lines = (folder / MERGES_FILE).read_text(encoding="utf-8").split("\n")
    merges = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
    try:
        built: Tokenizer = getattr(_converters(), converter)(None).converted(vocabulary, merges)
    except Exception as error:  # tokenizers' Rust half knows no other kind
        raise UserError(
            f"{folder / VOCABULARY_FILE} and {MERGES_FILE} don't fit together: {first_line(error)}"
        ) from error
    return built


def _converters() -> ModuleType:
    """transformers' module; as an attribute of the package its name may mean the function in it."""
    return importlib.import_module("transformers.convert_slow_tokenizer")


def _from_binary(path: Path, config: Mapping[str, Any]) -> Tokenizer:
    if path.suffix == ".model":
        sentencepiece = _sentencepiece(path)
        if sentencepiece is not None:
            return _from_sentencepiece(path, sentencepiece, legacy=config.get("legacy", True) is not False)
    from transformers.convert_slow_tokenizer import TikTokenConverter

    pattern = next((p for name, p in _PATTERNS.items() if path.name.startswith(name)), None)
    try:
        converter = TikTokenConverter(str(path), **({} if pattern is None else {"pattern": pattern}))
        built: Tokenizer = converter.converted()
    except Exception as error:  # of tiktoken, or of base64
        raise UserError(f"{path} is neither SentencePiece's nor tiktoken's: {first_line(error)}") from error
    return built


def _sentencepiece(path: Path) -> Any:
    """The model's protocol buffer; None where it is none.

    Raises:
        UserError: the libraries that read it don't work here.
    """
    from transformers.convert_slow_tokenizer import SentencePieceExtractor

    try:
        with warnings.catch_warnings():
            # Its SWIG half warns of itself when it is imported, and crashes where that is an error.
            warnings.simplefilter("ignore", DeprecationWarning)
            importlib.import_module("sentencepiece")
        return SentencePieceExtractor(str(path)).proto
    except (ImportError, TypeError) as error:  # protobuf refuses what an older one compiled by TypeError
        raise UserError(
            f"{path} needs sentencepiece and protobuf, which don't work here ({first_line(error)}): "
            f"pip install 'sentencepiece<0.2.2' protobuf"
        ) from error
    except Exception:  # protobuf's DecodeError: another format
        return None


def _from_sentencepiece(path: Path, proto: Any, legacy: bool) -> Tokenizer:
    """As LLaMA's slow class: `legacy` writes a space before every part, else before the first alone."""
    import sentencepiece
    from tokenizers import pre_tokenizers
    from transformers.convert_slow_tokenizer import generate_merges

    pieces, prefix = proto.pieces, bool(proto.normalizer_spec.add_dummy_prefix)
    unknown = proto.trainer_spec.unk_piece
    own = [AddedToken(p.piece, normalized=False, special=p.type == 3) for p in pieces if p.type in (3, 4)]
    fallback = bool(proto.trainer_spec.byte_fallback)
    if proto.trainer_spec.model_type == 2:
        vocabulary = {piece.piece: number for number, piece in enumerate(pieces)}
        scores = {piece.piece: piece.score for piece in pieces}
        merges = generate_merges(vocabulary, scores, [str(token.content) for token in own])
        model: Any = models.BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=fallback)
    else:
        listed = [(piece.piece, piece.score) for piece in pieces]
        model = models.Unigram(listed, unk_id=proto.trainer_spec.unk_id, byte_fallback=fallback)
    built = Tokenizer(model)
    steps: list[Any] = []
    if proto.normalizer_spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap))
    if legacy and prefix:
        steps.append(normalizers.Prepend("▁"))
    built.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    if prefix and not legacy:
        # Metaspace writes none before what begins with its own character, so "▁" is left to a second one.
        first = pre_tokenizers.Metaspace(" ", prepend_scheme="first", split=False)
        then = pre_tokenizers.Metaspace("▁", prepend_scheme="never", split=False)
        built.pre_tokenizer = pre_tokenizers.Sequence([first, then])
    back = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    built.decoder = decoders.Sequence([*back, decoders.Strip(" ", 1, 0)] if prefix else back)
    built.add_tokens(own)
    slow = sentencepiece.SentencePieceProcessor(model_file=str(path))
    for text in _PROBES:
        if built.encode(text, add_special_tokens=False).ids != slow.encode(text):
            raise UserError(
                f"{path}: what is built from it reads {text!r} otherwise than SentencePiece does, so its ids "
                f"would be wrong: convert it to tokenizer.json where it comes from"
            )
    return built


def _add_tokens(backend: Tokenizer, folder: Path, config: Mapping[str, Any]) -> None:
    """Those that stand beside the vocabulary, each at the id that the files give it."""
    added = {
        str(content): int(number)
        for content, number in read_json_object(folder / "added_tokens.json", optional=True).items()
    }
    flags: dict[str, dict[str, Any]] = {}
    for number, entry in config.get("added_tokens_decoder", {}).items():
        added[entry["content"]] = int(number)
        flags[entry["content"]] = entry
    listed = [config[name] for name in _NAMED if config.get(name) is not None]
    for name in ("additional_special_tokens", "extra_special_tokens"):
        more = config.get(name) or []
        listed += list(more.values() if isinstance(more, Mapping) else more)
    named = {_content(token) for token in listed}
    for content, number in sorted(added.items(), key=lambda item: item[1]):
        entry = flags.get(content, {})
        special = bool(entry.get("special", content in named))
        token = AddedToken(content, special=special, **{name: bool(entry.get(name)) for name in _FLAGS})
        add: Callable[[list[AddedToken]], int] = backend.add_special_tokens if special else backend.add_tokens
        add([token])
        if backend.token_to_id(content) != number:
            raise UserError(
                f"{folder}: token {content!r} would get id {backend.token_to_id(content)}, and its files say "
                f"{number}: are all of them there?"
            )


def _chat_template(folder: Path, config: Mapping[str, Any]) -> str | None:
    path = folder / "chat_template.jinja"
    return path.read_text(encoding="utf-8") if path.is_file() else config.get("chat_template")


def _content(token: Any) -> str:
    return str(token["content"]) if isinstance(token, Mapping) else str(token)
