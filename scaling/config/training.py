"""Configuration of training: data, optimizer, schedule, evaluation, checkpoints, execution."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from scaling.config.base import (
    Config,
    Count,
    DeviceCount,
    FilePath,
    Fraction,
    NonNegative,
    NonNegativeInt,
    Positive,
    Problem,
    SequenceCount,
    field_error,
)
from scaling.config.kernels import AttentionName, CrossEntropyName


class DataConfig(Config):
    """The token store that training reads, and how often."""

    store: FilePath
    """Folder of a token store, as written by `scaling data prepare`. The path is not part of a
    run's identity; the hash of the store's manifest is."""
    epochs: Count = 1
    """Maximum number of epochs over the training split. A run that needs more tokens is refused,
    because repeated data biases a scaling law."""


LearningRate = Annotated[Positive, Field(ge=1e-37, le=3e38)]
"""A learning rate in the range of float32."""


class AdamW(Config):
    """AdamW (Loshchilov & Hutter 2019) with gradients clipped by their global norm. Weight decay is
    decoupled, multiplied by the learning rate, and not applied to gains and biases."""

    moments: ClassVar[int] = 2
    """Arrays of optimizer state per parameter."""

    kind: Literal["adamw"] = "adamw"
    learning_rate: LearningRate = 3e-3
    """Peak learning rate, in the range of float32."""
    b1: Annotated[Fraction, Field(lt=1)] = 0.9
    """Decay rate of the first moment."""
    b2: Annotated[Fraction, Field(lt=1)] = 0.95
    """Decay rate of the second moment."""
    epsilon: Positive = 1e-8
    """Added to the denominator of the update."""
    weight_decay: NonNegative = 0.1
    """Weight decay coefficient, which is multiplied by the learning rate."""
    clip_norm: Positive = 1.0
    """Largest global norm of the gradients; larger gradients are scaled down to it."""


class Lion(Config):
    """Lion (Chen et al. 2023, arXiv 2302.06675) with gradients clipped by their global norm: the
    update is the sign of an interpolation between momentum and gradient. Weight decay is decoupled,
    multiplied by the learning rate, and not applied to gains and biases. The learning rate is 3 to
    10 times smaller than that of AdamW, and the weight decay as many times larger (section 5)."""

    moments: ClassVar[int] = 1
    """Arrays of optimizer state per parameter."""

    kind: Literal["lion"]
    learning_rate: LearningRate = 3e-4
    """Peak learning rate, in the range of float32."""
    b1: Annotated[Fraction, Field(lt=1)] = 0.9
    """Weight of the momentum in the interpolation."""
    b2: Annotated[Fraction, Field(lt=1)] = 0.99
    """Decay rate of the momentum."""
    weight_decay: NonNegative = 1.0
    """Weight decay coefficient, which is multiplied by the learning rate."""
    clip_norm: Positive = 1.0
    """Largest global norm of the gradients; larger gradients are scaled down to it."""


def _adamw_by_default(content: Any) -> Any:
    if isinstance(content, dict) and "kind" not in content:
        return {"kind": "adamw"} | content
    return content


Optimizer = Annotated[
    Annotated[AdamW | Lion, Field(discriminator="kind")], BeforeValidator(_adamw_by_default)]
"""An optimizer; AdamW if it has no kind."""


_ROUNDING = 1e-9  # tolerance on the sum of two fractions


class _Warmup(Config):
    """Length of the linear warm-up at the start of a run."""

    warmup_steps: NonNegativeInt = 50
    """Steps of linear warm-up to the peak learning rate; or give `warmup`."""
    warmup: Annotated[Fraction, Field(lt=1)] | None = None
    """Warm-up as a fraction of all steps of the run, instead of `warmup_steps`. It never extends
    into the cool-down, however short the run is. Runs of different lengths then warm up for
    different numbers of steps, and share no trunk."""

    @model_validator(mode="before")
    @classmethod
    def _warmup_or_steps(cls, content: Any) -> Any:
        if isinstance(content, dict) and content.get("warmup") is not None and (
                content.get("warmup_steps") is not None):
            raise field_error("warmup", "and warmup_steps both set the warm-up, as a fraction of "
                              "the run and in steps; keep one of them")
        return content

    @model_serializer(mode="wrap")
    def _serialize_one(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = handler(self)
        if self.warmup is not None:
            del content["warmup_steps"]
        return content

    def warmup_steps_of(self, steps: int) -> int:
        """Warm-up steps of a run of the given number of steps. A fraction is rounded to the nearest
        step and ends before the cool-down."""
        if self.warmup is None:
            return self.warmup_steps
        return max(0, min(round(self.warmup * steps), self.max_warmup(steps)))

    def max_warmup(self, steps: int) -> int:
        """Largest number of warm-up steps in a run of the given number of steps."""
        raise NotImplementedError

    def decay_steps_of(self, steps: int) -> int:
        """Steps over which the learning rate decays, in a run of the given number of steps: all
        after the warm-up, unless the rate is constant in between."""
        return steps - self.warmup_steps_of(steps)

    def resolved(self, steps: int) -> Self:
        """The schedule of a run of the given number of steps, with the warm-up in steps."""
        if self.warmup is None:
            return self
        return self.model_copy(update={"warmup_steps": self.warmup_steps_of(steps), "warmup": None})


class WarmupStableDecay(_Warmup):
    """Warmup-stable-decay: linear warm-up, a constant rate, then a cool-down to zero (Haegele et
    al. 2024)."""

    kind: Literal["wsd"] = "wsd"
    decay_fraction: Annotated[Fraction, Field(gt=0)] = 0.2
    """Cool-down as a fraction of all steps."""
    decay_shape: Literal["1-sqrt", "linear"] = "1-sqrt"
    """Factor on the peak rate as t goes from 0 to 1 over the cool-down: 1 - sqrt(t), or 1 - t
    (linear)."""

    def checks(self) -> Iterable[Iterator[Problem]]:
        yield self._shares()

    def _shares(self) -> Iterator[Problem]:
        if self.warmup is not None and self.warmup + self.decay_fraction > 1 + _ROUNDING:
            yield "warmup", (f"{self.warmup:g} of the run, with a cool-down over the last "
                             f"{self.decay_fraction:g} of it (decay_fraction), adds up to more "
                             "than the whole run; lower one of them")

    def branch_step(self, steps: int) -> int:
        """Step at which the cool-down of a run of the given number of steps begins. Until then the
        run does not depend on its length."""
        return steps - max(1, round(self.decay_fraction * steps))

    def max_warmup(self, steps: int) -> int:
        return self.branch_step(steps)

    def decay_steps_of(self, steps: int) -> int:
        return steps - self.branch_step(steps)


class Cosine(_Warmup):
    """Linear warm-up, then half a cosine down to a fraction of the peak learning rate."""

    kind: Literal["cosine"] = "cosine"
    final_fraction: Fraction = 0.1
    """Final learning rate, as a fraction of the peak."""

    def max_warmup(self, steps: int) -> int:
        return steps - 1  # one step is left for the decay


Schedule = Annotated[WarmupStableDecay | Cosine, Field(discriminator="kind")]


class EvaluationConfig(Config):
    """Evaluation of the held-out loss, which is always measured at the end of a run."""

    sequences: SequenceCount = 1024
    """Number of sequences of the validation split; the standard error of the loss is over them."""
    every_steps: Count | None = None
    """Steps between evaluations during training; by default only the final one."""


class CheckpointConfig(Config):
    """How often the training state is saved, which bounds the work that a crash loses."""

    every_seconds: NonNegative = 60.0
    """Seconds between checkpoints; 0 saves after every step."""


class LoggingConfig(Config):
    """How often training metrics are written."""

    every_steps: Count = 20
    """Steps between lines of metrics.jsonl; each line has the mean loss since the previous one."""


class MeshConfig(Config):
    """Number of devices along each axis of the device mesh."""

    data: DeviceCount | None = None
    """Data-parallel size: copies of the model, each with its part of the batch; by default the
    number of devices divided by fsdp x tensor."""
    fsdp: DeviceCount = 1
    """Fully-sharded size: devices that divide parameters, optimizer state and the batch."""
    tensor: DeviceCount = 1
    """Tensor-parallel size: devices that divide heads, feed-forward width and vocabulary."""


class ExecutionConfig(Config):
    """How the computation is executed. The loss does not depend on it, so it is not part of a run's
    identity."""

    scan_layers: bool = False
    """Whether one block is compiled and scanned over the layers (fast compilation of deep models)
    instead of unrolled (fast steps)."""
    remat: Literal["none", "full", "dots"] = "none"
    """Activations of a block that are recomputed in the backward pass instead of stored: none, all
    (full), or all but the outputs of matrix products (dots)."""
    attention: AttentionName = "plain"
    """Attention kernel: plain computes all logits at once; blocked computes them for one block of
    keys at a time, so that its memory does not grow with the square of the length. Blocked supports
    neither dropout of attention weights nor positions: transformer_xl."""
    cross_entropy: CrossEntropyName = "plain"
    """Kernel of the loss over the vocabulary: plain computes all logits at once, blocked those of
    some predictions at a time."""
    microbatch_sequences: SequenceCount | None = None
    """Sequences in a microbatch on each device, a divisor of the device's share of the batch;
    gradients are accumulated over microbatches. By default the whole share on an accelerator, and
    on a CPU about as many sequences as have activations that fit in its cache."""
    mesh: MeshConfig = MeshConfig()
    """Device mesh that the run is distributed over."""
