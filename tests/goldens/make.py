"""Write the goldens: for each class a tiny model's weights and inputs, and the logits that
`transformers` computes from them; for some classes a second model that is unlike the first.

    python -m tests.goldens.make [GOLDEN ...]

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
FURTHER = {"T5ForConditionalGeneration-v1.1": "T5_v1.1-narrow"}
"""Goldens beside the first of their class, and their cases."""
MODULES = ("test_encoders", "test_decoders", "test_encoder_decoders")


def cases() -> dict[str, Case]:
    """Of the live comparison the first case of every class, by its name, and further ones."""
    live = {name: case for module in MODULES
            for name, case in importlib.import_module(f"tests.parity.{module}").CASES.items()}
    found: dict[str, Case] = {}
    for case in live.values():
        found.setdefault(case.architecture, case)
    return found | {golden: live[name] for golden, name in FURTHER.items()}


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
    """Write the goldens of these names, or all."""
    for name, case in cases().items():
        if wanted and name not in wanted:
            continue
        path = FOLDER / f"{name}.npz"
        np.savez_compressed(path, **content(case))
        size = path.stat().st_size
        print(f"{path.name}: {size} bytes")
        if size > LARGEST:
            path.unlink()
            sys.exit(f"{path.name}: {size} bytes, where {LARGEST} are allowed; make the case "
                     "smaller")


if __name__ == "__main__":
    main(sys.argv[1:])
