"""scaling: train sweeps of Transformers in JAX and turn their losses into scaling laws."""

__version__ = "0.1.0"
