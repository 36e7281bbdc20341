"""`scaling models`: published model shapes and their cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scaling.cli.options import JsonSwitch
from scaling.console import out, print_json, print_table

if TYPE_CHECKING:
    from scaling.accounting.params import ParameterCounts
    from scaling.config import ModelConfig
    from scaling.config.presets import Family, PublishedSize
    from scaling.laws import Allocation
    from scaling.laws.published import Published

DATA_VOCABULARY = 32_000
"""Vocabulary size assumed if a preset takes it from the data and none is given."""

_MAX_SIZES_SHOWN = 10
_LOG10_FLOPS = (6.0, 36.0)
"""log10 of the compute budgets that are searched for the one of a size."""


def models(
    name: Annotated[str | None, typer.Argument(
        metavar="[FAMILY[/SIZE]]", help="A family, such as gpt3, or one of its sizes, such as "
                                        "gpt3/6.7B; by default all families.",
        show_default=False)] = None,
    context: Annotated[int | None, typer.Option(
        metavar="TOKENS", min=1, help="Sequence length in tokens; by default the published one.",
        show_default=False)] = None,
    vocab: Annotated[int | None, typer.Option(
        "--vocab-size", metavar="TOKENS", min=1, show_default=False,
        help="Vocabulary size; by default the published one, or "
             f"{DATA_VOCABULARY} if it depends on the data.")] = None,
    json_output: JsonSwitch = False,
) -> None:
    """List published model shapes, or the parameters, FLOPs, memory and tokens of one of them.

    Example: `scaling models`

    Example: `scaling models gpt3`

    Example: `scaling models gpt3/6.7B --context 4096`

    Example: `scaling models sweep/124M --vocab-size 50257 --json`

    A configuration uses a shape by its name, `model: {preset: gpt3/6.7B}`; other keys override
    those of the preset. Counting does not create the model.
    """
    from scaling.config.presets import family_named, presets

    if name is None:
        families = list(presets().values())
        print_json([_listed(family) for family in families]) if json_output else _list(families)
        return
    changes = {key: value for key, value in (("context", context), ("vocab_size", vocab))
               if value is not None}
    family = family_named(name.partition("/")[0])
    if name == family.name:
        rows = [_row(preset, changes, published)
                for preset, published in zip(family.presets, family.sizes.values(), strict=True)]
        print_json({**_listed(family), "sizes": rows}) if json_output else (
            _print_family(family, rows))
        return
    description = _description(name, changes, family)
    print_json(description) if json_output else _print_model(description)


def _model(preset: str, changes: dict[str, Any]) -> ModelConfig:
    """The model of a preset, with DATA_VOCABULARY if the preset has no vocabulary size."""
    from scaling.config.zoo import preset_config

    model = preset_config(preset, **changes)
    if model.vocab_size is None:
        model = preset_config(preset, **changes, vocab_size=DATA_VOCABULARY)
    return model


def _listed(family: Family) -> dict[str, Any]:
    mode = _model(family.presets[0], {}).mode
    return {"family": family.name, "title": family.title, "mode": mode,
            "sizes": list(family.sizes), "source": family.source, "certainty": family.certainty}


def _list(families: Sequence[Family]) -> None:
    listed = [_listed(family) for family in families]
    columns = ("family", "title", "mode", "sizes", "source")
    print_table("", columns, [
        (row["family"], row["title"], row["mode"], _shortened(row["sizes"]), row["source"])
        for row in listed], left=columns)


def _shortened(sizes: Sequence[str]) -> str:
    if len(sizes) <= _MAX_SIZES_SHOWN:
        return ", ".join(sizes)
    return f"{', '.join(sizes[:3])} ... {sizes[-1]} ({len(sizes)} sizes)"


def _row(preset: str, changes: dict[str, Any], published: PublishedSize) -> dict[str, Any]:
    """Shape, parameters and published values of a size."""
    from dataclasses import asdict

    from scaling.accounting.params import count_parameters

    model = _model(preset, changes)
    parameters = count_parameters(model)
    return {
        "preset": preset, "layers": model.n_layers, "encoder_layers": model.n_encoder_layers,
        "d_model": model.d_model, "n_heads": model.n_heads, "d_head": model.head_width,
        "d_ff": model.ff_width, "vocab_size": model.vocabulary, "context": model.context,
        "params_total": parameters.total, "params_non_embedding": parameters.non_embedding,
        "params_active": parameters.active, "published": asdict(published),
    }


def _print_family(family: Family, rows: Sequence[dict[str, Any]]) -> None:
    columns = ("preset", "layers", "width", "heads", "d_ff", "vocabulary", "parameters",
               "non-embedding", "published", "tokens", "batch", "learning rate")
    cells = []
    for row in rows:
        published = row["published"]
        cells.append((
            row["preset"], str(row["layers"]), str(row["d_model"]),
            f"{row['n_heads']} x {row['d_head']}", str(row["d_ff"]), f"{row['vocab_size']:,}",
            f"{row['params_total']:,}", f"{row['params_non_embedding']:,}",
            *(_words(published[key]) for key in ("params", "tokens", "batch_tokens")),
            "-" if published["learning_rate"] is None else f"{published['learning_rate']:g}",
        ))
    print_table(f"{family.title}: {family.source}", columns, cells)
    out.print(family.certainty, markup=False)


def _description(preset: str, changes: dict[str, Any], family: Family) -> dict[str, Any]:
    """Shape, parameters, FLOPs, memory and compute-optimal tokens of a size, as plain data."""
    from scaling.accounting.conventions import flops_by_convention
    from scaling.accounting.memory import training_memory
    from scaling.accounting.params import count_parameters
    from scaling.config.presets import PublishedSize

    model = _model(preset, changes)
    published = family.sizes.get(preset.partition("/")[2], PublishedSize())
    parameters = count_parameters(model)
    return {
        **_row(preset, changes, published),
        "title": family.title, "source": family.source, "certainty": family.certainty,
        "model": model.model_dump(mode="json"),
        "parameters": parameters.parts,
        "flops_per_token": flops_by_convention(model),
        "memory": training_memory(model, sequences=1),
        "compute_optimal": [_optimal(parameters, row) for row in _allocations(parameters)],
    }


def _allocations(parameters: ParameterCounts) -> Iterator[Allocation]:
    """For each published law, in its own count of N: the compute budget at which this size is
    optimal, and the tokens. Of experts, those that process a token count.
    """
    from scaling.laws.allocation.allocate import allocate, reference_laws

    idle = parameters.total - parameters.active
    for law in reference_laws():
        is_total = law.convention["n"] == "total"
        n = (parameters.total if is_total else parameters.non_embedding) - idle
        def best_size(c: float, law: Published = law) -> float | None:
            return allocate(law, c).n

        c = _compute_of(n, best_size)
        if c is not None:
            yield allocate(law, c)


def _compute_of(n: float, best_size: Callable[[float], float | None]) -> float | None:
    """Training FLOPs at which N* = n, by root finding in the logarithm: N* grows with the budget.
    None if it is outside _LOG10_FLOPS."""
    from scipy.optimize import brentq

    def excess(log10_c: float) -> float:
        # A budget for less than one parameter has no optimal size.
        return (best_size(10**log10_c) or 0.0) / n - 1

    low, high = _LOG10_FLOPS
    if not excess(low) < 0 < excess(high):
        return None
    return float(10 ** brentq(excess, low, high, xtol=1e-12))


def _optimal(parameters: ParameterCounts, row: Allocation) -> dict[str, Any]:
    assert row.n is not None
    assert row.d is not None
    return {"law": row.source, "n_counts": row.counting, "n": row.n, "tokens": row.d,
            "tokens_per_parameter": row.d / row.n, "flops": row.c, "loss": row.loss}


def _print_model(found: dict[str, Any]) -> None:
    from scaling.accounting.conventions import CONVENTIONS

    total = found["params_total"]
    out.print(f"{found['preset']}: {found['title']} ({found['source']})\n", markup=False)
    print_table("", ("shape", ""), list(_shape(found)))
    out.print()
    print_table("", ("parameters", "", "share"), [
        *((part, f"{count:,}", f"{count / total:.1%}")
          for part, count in found["parameters"].items()),
        ("total", f"{total:,}", ""),
        ("non-embedding", f"{found['params_non_embedding']:,}", ""),
        *([("active for a token", f"{found['params_active']:,}", "")]
          if found["params_active"] != total else []),
    ])
    out.print()
    print_table("", ("convention", "training FLOPs per token", "counted as"), [
        (name, f"{flops:.4g}", CONVENTIONS[name].description)
        for name, flops in found["flops_per_token"].items()], left=("counted as",))
    if found["model"]["mode"] == "encoder-decoder":
        out.print("Per token of the decoder sequence, including its share of the encoder.")
    memory = found["memory"]
    out.print()
    print_table("", ("memory for training", "GB"), [
        *((part, f"{size / 1e9:,.2f}") for part, size in memory.items()),
        ("total", f"{sum(memory.values()) / 1e9:,.2f}")])
    out.print("On one device without sharding: AdamW, float32, the activations of one sequence, no "
              "rematerialisation.\n")
    print_table("", ("law", "N", "tokens", "tokens/N", "FLOPs", "loss", "N counts"), [
        (row["law"], _words(row["n"]), _words(row["tokens"]),
         f"{row['tokens_per_parameter']:.3g}", f"{row['flops']:.3g}",
         "-" if row["loss"] is None else f"{row['loss']:.4g}", row["n_counts"])
        for row in found["compute_optimal"]])
    out.print("Tokens at which this size is compute-optimal under the law; the laws are for dense "
              "decoders, with losses on their own corpora.\n", markup=False)
    out.print(found["certainty"], markup=False)


def _shape(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Rows of the table of a model's shape."""
    m = found["model"]
    has_both = m["mode"] == "encoder-decoder"
    yield "mode", m["mode"]
    yield "layers", (f"{m['n_encoder_layers'] or m['n_layers']} + {m['n_layers']}" if has_both
                     else str(m["n_layers"]))
    yield "width", str(m["d_model"])
    yield "heads", f"{m['n_heads']} x {found['d_head']}"
    if m["n_kv_heads"]:
        yield "key-value heads", str(m["n_kv_heads"])
    yield "feed-forward", f"{found['d_ff']}, {m['activation']}"
    if m["experts"]:
        yield "experts", (f"{m['experts']['count']}, top {m['experts']['top_k']}, in one layer of "
                          f"{m['experts']['every']}")
    if m["d_embedding"]:
        yield "embedding width", str(m["d_embedding"])
    yield "vocabulary", f"{m['vocab_size']:,}, {'tied' if m['tied_head'] else 'untied'}"
    yield "context", (f"{m['source_context'] or m['context']} + {m['context']}" if has_both
                      else str(m["context"]))
    yield "positions", m["positions"]
    yield "norm", f"{m['norm']}, {m['norm_place']}"
    if m["attention_pattern"] != "global":
        yield "attention pattern", f"{m['attention_pattern']}, window {m['window']}"
    published = found["published"]
    for key, label in (("params", "published parameters"), ("tokens", "published tokens"),
                       ("batch_tokens", "published batch in tokens")):
        if published[key] is not None:
            yield label, _words(published[key])
    if published["learning_rate"] is not None:
        yield "published learning rate", f"{published['learning_rate']:g}"


def _words(value: float | None) -> str:
    from scaling.config.presets.sweep import format_count

    return "-" if value is None else format_count(value)
