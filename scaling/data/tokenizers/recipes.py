"""What is done to a text before it is cut into pieces, and how the pieces become text again: for
each kind of vocabulary the content of its tokenizer.json, but for the special tokens."""

from __future__ import annotations

from typing import Any

from scaling.data.tokenizers.base import BYTES, METASPACE
from scaling.data.tokenizers.subwords import GPT2_CUTS

BYTE_PIECES = tuple(f"<0x{byte:02X}>" for byte in range(BYTES))
"""What a Unigram vocabulary writes for the bytes of a character that it has no piece for."""

_CUTS = "|".join(cut.replace("_", METASPACE) for cut in (
    r"_?[\p{L}\p{M}]+", r"_?\p{N}+", r"_?[^\s_\p{L}\p{M}\p{N}]+", "_+(?=_)", "_", r"\s+"))
"""Letters, digits, other characters and white space apart, the last of some spaces with what
follows."""


def wordpiece_definition(vocab: dict[str, int], unk: str, lowercase: bool) -> dict[str, Any]:
    """BERT's WordPiece (Devlin et al. 2019, section 3.2, and their tokenization.py): control
    characters out, a space around Chinese characters, lower case and no accents if `lowercase`,
    cut at white space and around punctuation; then the longest piece first, from the left."""
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
        "pre_tokenizer": GPT2_CUTS,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True,
                    "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None,
                  "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": vocab, "merges": merges},
    }


def unigram_definition(vocab: list[list[Any]], unk: int | None) -> dict[str, Any]:
    """A unigram language model of pieces (Kudo 2018, section 3.2) of the NFKC form, with spaces
    written as SentencePiece writes them and one in front of the text (Kudo and Richardson 2018),
    cut as GPT-2 cuts. A decoded text is the NFKC form of the encoded one, save that U+2581 becomes
    a space."""
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
