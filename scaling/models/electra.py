"""ELECTRA: a generator and a discriminator with shared embeddings (Clark et al. 2020, section
3.2)."""

from __future__ import annotations

import jax
from flax import nnx
from jaxtyping import PRNGKeyArray

from scaling.config import ExecutionConfig, ModelConfig
from scaling.models.transformer import Transformer


class Electra(nnx.Module):
    """A discriminator, and the generator that is trained with it and uses its embeddings."""

    def __init__(
        self,
        config: ModelConfig,
        generator: ModelConfig,
        key: PRNGKeyArray,
        *,
        precision: str = "float32",
        execution: ExecutionConfig | None = None,
    ) -> None:
        """Initialise the parameters.

        Args:
            config: the discriminator.
            generator: the generator, with embeddings of the discriminator's width.
            key: seeds the parameters; the discriminator's are those of a Transformer with this key.
            precision: type in which matrix products read their operands.
            execution: kernels, scanned or unrolled layers, rematerialisation.
        """
        self.config = config
        self.discriminator = Transformer(config, key, precision=precision, execution=execution)
        self.generator = Transformer(
            generator, jax.random.fold_in(key, 31), precision=precision, execution=execution,
            own_embedding=False,
        )
