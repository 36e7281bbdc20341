"""Definitions of trained tokenizers: normaliser, pre-tokenizer, model and decoder of each kind, as
in a tokenizer.json, without the special tokens."""

from __future__ import annotations

from typing import Any

from scaling.data.tokenizers.base import BYTES, METASPACE
from scaling.data.tokenizers.subwords import GPT2_PRE_TOKENIZER

BYTE_PIECES = tuple(f"<0x{byte:02X}>" for byte in range(BYTES))
"""Byte-fallback pieces of a Unigram vocabulary, for characters without a piece."""

_CUTS = "|".join(cut.replace("_", METASPACE) for cut in (
    r"_?[\p{L}\p{M}]+", r"_?\p{N}+", r"_?[^\s_\p{L}\p{M}\p{N}]+", "_+(?=_)", "_", r"\s+"))
"""Regex of the pre-tokenizer: separates letters, digits, other characters and whitespace; the last
of several spaces stays with what follows it."""


def wordpiece_definition(vocab: dict[str, int], unk: str, lowercase: bool) -> dict[str, Any]:
    """BERT's WordPiece (Devlin et al. 2019, section 3.2, and their tokenization.py).

    Control characters are removed, Chinese characters surrounded by spaces, and letters lower-cased
    without accents if `lowercase`; the text is split at whitespace and around punctuation, and each
    word into pieces by greedy longest match from the left.
    """
    return {
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
                       "strip_accents": None, "lowercase": lowercase},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {"type": "WordPiece", "unk_token": unk, "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": vocab},
    }


def bpe_definition(vocab: dict[str, int], merges: list[list[str]]) -> dict[str, Any]:
    """Byte-level byte-pair encoding (Sennrich et al. 2016; Radford et al. 2019, section 2.2)."""
    return {
        "pre_tokenizer": GPT2_PRE_TOKENIZER,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True,
                    "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None,
                  "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": vocab, "merges": merges},
    }


def unigram_definition(vocab: list[list[Any]], unk: int | None) -> dict[str, Any]:
    """A unigram language model of pieces (Kudo 2018, section 3.2).

    Text is in NFKC form, with spaces as U+2581 and one prepended, as in SentencePiece (Kudo and
    Richardson 2018), and pre-tokenized as in GPT-2. A decoded text is the NFKC form of the
    encoded one, except that U+2581 becomes a space.
    """
    return {
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "NFKC"}, {"type": "Prepend", "prepend": METASPACE},
            {"type": "Replace", "pattern": {"String": " "}, "content": METASPACE}]},
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": _CUTS}, "behavior": "Isolated",
                          "invert": False},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": METASPACE}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "Unigram", "unk_id": unk, "byte_fallback": True, "vocab": vocab},
    }
