"""Write the goldens: for each class a tiny model's weights and inputs, and the logits that
`transformers` computes from them.

    python -m tests.goldens.make [CLASS ...]

It needs torch and transformers; `tests/interop/test_goldens.py`, which reads what is written here,
needs neither. A model that we do not agree with is not written.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from scaling.interop import from_hf
from tests.parity.harness import (
    Case,
    batch_for,
    check_logits,
    made,
    our_outputs_jit,
    their_outputs,
)

FOLDER = Path(__file__).parent
LARGEST = 60_000
"""Bytes of a golden: they are in git."""
MODULES = ("test_encoders", "test_decoders", "test_encoder_decoders")


def cases() -> dict[str, Case]:
    """The first case of every class in the live comparison."""
    first: dict[str, Case] = {}
    for module in MODULES:
        if not (FOLDER.parent / "parity" / f"{module}.py").exists():
            continue
        for case in importlib.import_module(f"tests.parity.{module}").CASES.values():
            first.setdefault(case.architecture, case)
    return first


def content(case: Case) -> dict[str, Any]:
    """What a golden holds."""
    model = made(case)
    batch = batch_for(case, model)
    outputs = their_outputs(case, model, batch)
    got = our_outputs_jit(from_hf(model)[0], batch, tuple(outputs))
    check_logits(got, batch, outputs)
    arrays = {f"batch/{name}": value for name, value in batch._asdict().items()
              if value is not None}
    arrays |= {f"weights/{name}": tensor.numpy() for name, tensor in model.state_dict().items()}
    arrays |= {f"logits/{kind}": logits.detach().numpy() for kind, logits in outputs.items()}
    arrays["architecture"] = np.array(case.architecture)
    arrays["settings"] = np.array(json.dumps(model.config.to_dict()))
    return arrays


def main(wanted: list[str]) -> None:
    """Write the goldens of these classes, or of all."""
    for architecture, case in cases().items():
        if wanted and architecture not in wanted:
            continue
        path = FOLDER / f"{architecture}.npz"
        np.savez_compressed(path, **content(case))
        size = path.stat().st_size
        print(f"{path.name}: {size} bytes")
        if size > LARGEST:
            path.unlink()
            sys.exit(f"{path.name}: {size} bytes, where {LARGEST} are allowed; make the case "
                     "smaller")


if __name__ == "__main__":
    main(sys.argv[1:])
