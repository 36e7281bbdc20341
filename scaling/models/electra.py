"""Two encoders with one table of embeddings (ELECTRA, Clark et al. 2020, section 3.2)."""

from __future__ import annotations

import jax
from flax import nnx
from jaxtyping import PRNGKeyArray

from scaling.config import ExecutionConfig, ModelConfig
from scaling.models.transformer import Transformer


class Electra(nnx.Module):
    """A discriminator, and the generator that is trained beside it and has no embeddings of its
    own."""

    def __init__(
        self,
        config: ModelConfig,
        generator: ModelConfig,
        key: PRNGKeyArray,
        *,
        precision: str = "float32",
        execution: ExecutionConfig | None = None,
    ) -> None:
        """Draw the parameters.

        Args:
            config: the discriminator.
            generator: a model with embeddings of the discriminator's width.
            key: seeds the parameters; the discriminator's are those that it has alone.
            precision: type that matrix products read.
            execution: scanned or unrolled, with or without rematerialisation.
        """
        self.config = config
        self.discriminator = Transformer(config, key, precision=precision, execution=execution)
        self.generator = Transformer(
            generator, jax.random.fold_in(key, 31), precision=precision, execution=execution,
            own_embedding=False,
        )
