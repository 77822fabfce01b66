"""Token ids as text, for checkpoints that have no tokenizer: "5 13" are two tokens."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer, models, pre_tokenizers

from opendllm.core.checkpoints.text_codec import TextCodec, TokenFacts


def spelt(ids: Sequence[int]) -> str:
    """The text of these ids."""
    return " ".join(map(str, ids))


def _codec() -> TextCodec:
    raw = Tokenizer(models.WordLevel({str(token): token for token in range(200)}, unk_token="0"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    return TextCodec(raw, TokenFacts(bos=(), reserved={}))


ID_CODEC = _codec()
