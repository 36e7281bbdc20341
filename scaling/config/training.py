"""How a model is trained: data, optimizer, schedule, evaluation, execution."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from scaling.config.base import Config, Count, Fraction, Index, NonNegative, Positive


class DataConfig(Config):
    """Which tokens are read, and how often."""

    store: Path
    """Folder of a token store, as written by `scaling data prepare`. The path is no part of a
    run's identity: the hash of the store's manifest is."""
    epochs: Count = 1
    """How often the training split may be read. A run that needs more tokens than that is refused,
    because repeated data bends a scaling law."""


class AdamW(Config):
    """AdamW (Loshchilov & Hutter 2019), with the gradient clipped by its global norm.

    Weight decay is decoupled, multiplied by the learning rate, and applied to matrices only.
    """

    kind: Literal["adamw"] = "adamw"
    learning_rate: Positive = 3e-3
    """Peak learning rate."""
    b1: Annotated[Fraction, Field(lt=1)] = 0.9
    b2: Annotated[Fraction, Field(lt=1)] = 0.95
    epsilon: Positive = 1e-8
    weight_decay: NonNegative = 0.1
    clip_norm: Positive = 1.0
    """Gradients longer than this are scaled down to it."""


class WarmupStableDecay(Config):
    """Linear warm-up, a constant rate, then a cool-down to zero (Haegele et al. 2024)."""

    kind: Literal["wsd"] = "wsd"
    warmup_steps: Index = 50
    decay_fraction: Annotated[Fraction, Field(gt=0)] = 0.2
    """Share of all steps spent cooling down."""
    decay_shape: Literal["1-sqrt", "linear"] = "1-sqrt"
    """With t going from 0 to 1 over the cool-down: 1 - sqrt(t), or 1 - t."""

    def branch_step(self, steps: int) -> int:
        """Steps of so many that are over when the cool-down begins: until then a run is the same,
        however long it is."""
        return steps - max(1, round(self.decay_fraction * steps))


class Cosine(Config):
    """Linear warm-up, then half a cosine down to a fraction of the peak."""

    kind: Literal["cosine"] = "cosine"
    warmup_steps: Index = 50
    final_fraction: Fraction = 0.1
    """Learning rate at the end, as a fraction of the peak."""


Schedule = Annotated[WarmupStableDecay | Cosine, Field(discriminator="kind")]


class EvaluationConfig(Config):
    """The held-out loss: always measured at the end, and on the way if asked for."""

    sequences: Count = 1024
    """Sequences of the validation split that are scored; the standard error is over them."""
    every_steps: Count | None = None
    """Also evaluate every so many steps; by default only at the end."""


class CheckpointConfig(Config):
    """How much work a crash may cost."""

    every_seconds: NonNegative = 60.0
    """Seconds between checkpoints; 0 saves after every step."""


class LoggingConfig(Config):
    """What is written down on the way."""

    every_steps: Count = 20
    """Steps between lines of metrics.jsonl; each line averages the losses since the last."""


class MeshConfig(Config):
    """How many devices stand along each axis of the mesh."""

    data: Count | None = None
    """Copies of the model, each with its part of the batch; by default as many as the devices
    that the other axes leave."""
    fsdp: Count = 1
    """Devices that divide parameters and optimizer state among them, and the batch too."""
    tensor: Count = 1
    """Devices that divide heads, feed-forward width and vocabulary among them."""


class ExecutionConfig(Config):
    """How the arithmetic is carried out: the loss does not depend on any of it, so none of it is
    part of a run's identity."""

    scan_layers: bool = False
    """Compile one block and loop over the layers (fast compilation of deep models), or unroll
    them (fast steps)."""
    remat: Literal["none", "full", "dots"] = "none"
    """What of a block's activations is computed again in the backward pass instead of being kept:
    nothing, all, or all but matrix products."""
    microbatch_sequences: Count | None = None
    """Sequences that a device works on at once; a divisor of its share of the batch, whose parts'
    gradients are added up. By default the whole share on an accelerator, and on a CPU about as
    many as its cache holds the activations of."""
    mesh: MeshConfig = MeshConfig()
