"""Where a run begins: from drawn parameters, or from those of a trained model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from scaling.config.base import Config, Count, FilePath, LayerIndex, Problem
from scaling.config.explain import format_value
from scaling.config.model import ModelConfig


class InitialModel(Config):
    """Base of the ways in which a run begins. `kind` follows from the key that is given, and need
    not be given."""

    kind: str

    @property
    def path(self) -> Path | None:
        """Folder of the trained model; None if the parameters are drawn."""
        return None

    @property
    def taken_layers(self) -> tuple[int, ...] | None:
        """The layer of the trained model that each layer begins from; None for all in order."""
        return None

    @property
    def source(self) -> dict[str, Any] | None:
        """What identifies the trained model by content, once it is known; None if the parameters
        are drawn."""
        return None


class Draw(InitialModel):
    """Parameters drawn from the run's seed."""

    kind: Literal["draw"] = "draw"


class _Trained(InitialModel):
    """A trained model, whose parameters are copied. Optimizer, schedule and data begin anew, at
    step 0: this is fine-tuning, not a resumption."""

    layers: tuple[LayerIndex, ...] | None = None
    """Layers of the trained model to copy, counted from 0, one for each layer of this model
    (DistilBERT: every second one, Sanh et al. 2019, section 3); of an encoder-decoder those of the
    decoder. By default all, in order."""

    @property
    def path(self) -> Path:
        path: Path = getattr(self, self.key)
        return path

    @property
    def key(self) -> str:
        """The key that gives the path."""
        return self.kind.removeprefix("from_")

    @property
    def taken_layers(self) -> tuple[int, ...] | None:
        return self.layers


class FromRun(_Trained):
    """The final model of a finished run."""

    kind: Literal["from_run"] = "from_run"
    run: FilePath
    """Folder of a finished run, or its identity if it is in the folder of runs. Its tokenizer has
    to be that of the data, which is checked if its store is still there. The path is not part of a
    run's identity; the identity and the last step of that run are."""
    run_id: str | None = None
    """Identity of that run; by default read from its folder."""
    step: Count | None = None
    """Last step of that run; by default read from its record."""

    @property
    def source(self) -> dict[str, Any]:
        return {"run_id": self.run_id, "step": self.step}


class FromCheckpoint(_Trained):
    """The model of a run at one of its checkpoints."""

    kind: Literal["from_checkpoint"] = "from_checkpoint"
    checkpoint: FilePath
    """A checkpoint: RUN/checkpoints/STEP. The path is not part of a run's identity; the identity of
    that run and the step are."""
    run_id: str | None = None
    """Identity of the run that saved it; by default read from its folder."""
    step: Count | None = None
    """Step of the checkpoint; by default that of the path."""

    @property
    def source(self) -> dict[str, Any]:
        return {"run_id": self.run_id, "step": self.step}


class FromHuggingFace(_Trained):
    """A model in Hugging Face's format."""

    kind: Literal["from_hf"] = "from_hf"
    hf: FilePath
    """Folder with config.json and safetensors, of a class that scaling.interop reads. Its tokenizer
    is not compared with that of the data. The path is not part of a run's identity; the SHA-256 of
    the files is."""
    sha256: str | None = None
    """SHA-256 of config.json and the weights; by default computed from them."""

    @property
    def source(self) -> dict[str, Any]:
        return {"sha256": self.sha256}


_KEYS = ("run", "checkpoint", "hf")
_EXPECTED = "draw, {run: FOLDER}, {checkpoint: FOLDER} or {hf: FOLDER}"


def _with_kind(content: Any) -> Any:
    """The content with the kind that follows from its keys."""
    if content == "draw":
        return {"kind": "draw"}
    if isinstance(content, Config) or (isinstance(content, dict) and "kind" in content):
        return content
    if not isinstance(content, dict):
        raise ValueError(f"{_EXPECTED} is expected, not {format_value(content)}")
    given = [key for key in _KEYS if key in content]
    if len(given) != 1:
        found = " and ".join(given) if given else "none of them"
        raise ValueError(f"one of {_EXPECTED} is expected, and it has {found}; keep one")
    return {"kind": f"from_{given[0]}"} | content


Init = Annotated[
    Annotated[Draw | FromRun | FromCheckpoint | FromHuggingFace, Field(discriminator="kind")],
    BeforeValidator(_with_kind, json_schema_input_type=(
        Literal["draw"] | Draw | FromRun | FromCheckpoint | FromHuggingFace)),
]
"""Where a run begins; the kind is that of the key that is given."""

NOT_IN_IDENTITY: dict[str, Any] = {"kind": True} | dict.fromkeys(_KEYS, True)
"""Keys that no loss depends on: the paths. The final model of a run is also its last checkpoint, so
both have the same content."""


def init_problems(init: InitialModel, model: ModelConfig) -> Iterator[Problem]:
    """Whether the layers to copy are as many as those of the model."""
    if init.taken_layers is None:
        return
    count = len(init.taken_layers)
    if model.share_layers != "none":
        yield "init.layers", (f"all layers of this model share parameters (share_layers: "
                              f"{model.share_layers}); leave it out")
    elif count != model.n_layers:
        yield "init.layers", (f"lists {count} layers, and the model has {model.n_layers}; list one "
                              "for each layer of the model")
