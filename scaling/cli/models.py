"""`scaling models`: published shapes, and what each of them costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from scaling.cli.terminal import out, print_json, print_table

if TYPE_CHECKING:
    from scaling.accounting.params import Parameters
    from scaling.config import ModelConfig
    from scaling.config.presets import Family, Published
    from scaling.laws import Allocation

DATA_VOCABULARY = 32_000
"""Stands for a vocabulary that is the data's, where none is given."""

_SIZES_SHOWN = 10
_LOG10_FLOPS = (6.0, 40.0)
"""Budgets among which that of a size is sought."""


def models(
    name: Annotated[str | None, typer.Argument(
        metavar="[FAMILY[/SIZE]]", help="A family, such as gpt3, or one of its sizes, such as "
                                        "gpt3/6.7B; without, all families.",
        show_default=False)] = None,
    context: Annotated[int | None, typer.Option(
        metavar="TOKENS", min=1, help="Tokens in a sequence, in place of the published number.",
        show_default=False)] = None,
    vocab: Annotated[int | None, typer.Option(
        metavar="ENTRIES", min=1, help="Entries of the vocabulary, in place of the published "
                                       f"number, or of {DATA_VOCABULARY} where it is the data's.",
        show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List published shapes, or say what one of them costs: parameters, FLOPs, memory, tokens.

    Example: `scaling models`

    Example: `scaling models gpt3`

    Example: `scaling models gpt3/6.7B --context 4096`

    Example: `scaling models sweep/124M --vocab 50257 --json`

    A configuration takes a shape by its name, `model: {preset: gpt3/6.7B}`, and every key given
    beside it stands in place of the preset's. Nothing of a model is made to count it.
    """
    from scaling.config.presets import family_named, presets

    if name is None:
        families = list(presets().values())
        print_json([_listed(family) for family in families]) if as_json else _list(families)
        return
    changes = {key: value for key, value in (("context", context), ("vocab_size", vocab))
               if value is not None}
    family = family_named(name.partition("/")[0])
    if name == family.name:
        rows = [_row(preset, changes, said)
                for preset, said in zip(family.presets, family.sizes.values(), strict=True)]
        print_json({**_listed(family), "sizes": rows}) if as_json else _print_family(family, rows)
        return
    found = _described(name, changes, family)
    print_json(found) if as_json else _print_model(found)


def _model(preset: str, changes: dict[str, Any]) -> ModelConfig:
    """The preset's model with a vocabulary, whatever it is."""
    from scaling.config.presets import preset_config

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
    _print_words(("family", "title", "mode", "sizes", "source"), [
        (said["family"], said["title"], said["mode"], _few(said["sizes"]), said["source"])
        for said in listed])


def _few(sizes: Sequence[str]) -> str:
    if len(sizes) <= _SIZES_SHOWN:
        return ", ".join(sizes)
    return f"{', '.join(sizes[:3])} ... {sizes[-1]} ({len(sizes)} sizes)"


def _row(preset: str, changes: dict[str, Any], said: Published) -> dict[str, Any]:
    """A size's shape, its parameters, and what was published of it."""
    from dataclasses import asdict

    from scaling.accounting.params import count_parameters

    model = _model(preset, changes)
    parameters = count_parameters(model)
    return {
        "preset": preset, "layers": model.n_layers, "encoder_layers": model.n_encoder_layers,
        "d_model": model.d_model, "n_heads": model.n_heads, "d_head": model.head_width,
        "d_ff": model.ff_width, "vocab_size": model.vocabulary, "context": model.context,
        "params_total": parameters.total, "params_non_embedding": parameters.non_embedding,
        "params_active": parameters.active, "published": asdict(said),
    }


def _print_family(family: Family, rows: Sequence[dict[str, Any]]) -> None:
    columns = ("preset", "layers", "width", "heads", "d_ff", "vocabulary", "parameters",
               "non-embedding", "published", "tokens", "batch", "learning rate")
    cells = []
    for row in rows:
        said = row["published"]
        cells.append((
            row["preset"], str(row["layers"]), str(row["d_model"]),
            f"{row['n_heads']} x {row['d_head']}", str(row["d_ff"]), f"{row['vocab_size']:,}",
            f"{row['params_total']:,}", f"{row['params_non_embedding']:,}",
            *(_words(said[key]) for key in ("params", "tokens", "batch_tokens")),
            "-" if said["learning_rate"] is None else f"{said['learning_rate']:g}",
        ))
    print_table(f"{family.title}: {family.source}", columns, cells)
    out.print(family.certainty, markup=False)


def _described(preset: str, changes: dict[str, Any], family: Family) -> dict[str, Any]:
    """All that is known of a size, as plain data."""
    from scaling.accounting.conventions import flops_by_convention
    from scaling.accounting.memory import training_memory
    from scaling.accounting.params import count_parameters
    from scaling.config.presets import Published

    model = _model(preset, changes)
    said = family.sizes.get(preset.partition("/")[2], Published())
    parameters = count_parameters(model)
    return {
        **_row(preset, changes, said),
        "title": family.title, "source": family.source, "certainty": family.certainty,
        "model": model.model_dump(mode="json"),
        "parameters": parameters.parts,
        "flops_per_token": flops_by_convention(model),
        "memory": training_memory(model, sequences=1),
        "compute_optimal": [_spent(parameters, row) for row in _allocations(parameters)],
    }


def _allocations(parameters: Parameters) -> Iterator[Allocation]:
    """What the published laws give this size, each in its own count of N: the compute budget at
    which it is the best size, and the tokens. Of experts those count that a token passes through.
    """
    from scaling.laws.planning.allocate import allocate, side_by_side

    idle = parameters.total - parameters.active
    for law in side_by_side():
        whole = law.convention["n"] == "total"
        n = (parameters.total if whole else parameters.non_embedding) - idle
        c = _compute_of(n, lambda c, law=law: allocate(law, c).n)
        if c is not None:
            yield allocate(law, c)


def _compute_of(n: float, best_size: Callable[[float], float | None]) -> float | None:
    """Training FLOPs at which N* is n, by bisection in the logarithm: N* grows with the budget.
    None where it is beyond _LOG10_FLOPS."""
    from scipy.optimize import brentq

    def above(log10_c: float) -> float:
        return (best_size(10**log10_c) or float("nan")) / n - 1

    low, high = _LOG10_FLOPS
    if not above(low) < 0 < above(high):
        return None
    return float(10 ** brentq(above, low, high, xtol=1e-12))


def _spent(parameters: Parameters, row: Allocation) -> dict[str, Any]:
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
        *([("that a token passes through", f"{found['params_active']:,}", "")]
          if found["params_active"] != total else []),
    ])
    out.print()
    _print_words(("training FLOPs per token", "", "counted as"), [
        (name, f"{flops:.4g}", CONVENTIONS[name].description)
        for name, flops in found["flops_per_token"].items()])
    if found["model"]["mode"] == "encoder-decoder":
        out.print("Per token of the decoder's sequence, with its share of the encoder's work.")
    memory = found["memory"]
    out.print()
    print_table("", ("memory for training", "GB"), [
        *((part, f"{size / 1e9:,.2f}") for part, size in memory.items()),
        ("total", f"{sum(memory.values()) / 1e9:,.2f}")])
    out.print("On one device that holds it all: AdamW, float32, the activations of one sequence, "
              "nothing rematerialised.\n")
    print_table("", ("law", "N", "tokens", "tokens/N", "FLOPs", "loss", "N counts"), [
        (row["law"], _words(row["n"]), _words(row["tokens"]),
         f"{row['tokens_per_parameter']:.3g}", f"{row['flops']:.3g}",
         "-" if row["loss"] is None else f"{row['loss']:.4g}", row["n_counts"])
        for row in found["compute_optimal"]])
    out.print("Tokens are those at which this size is the law's best for its FLOPs; the laws are "
              "of dense decoders, with losses on their own corpora.\n", markup=False)
    out.print(found["certainty"], markup=False)


def _shape(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What a reader asks first of a model, in words."""
    m = found["model"]
    both = m["mode"] == "encoder-decoder"
    yield "mode", m["mode"]
    yield "layers", (f"{m['n_encoder_layers'] or m['n_layers']} + {m['n_layers']}" if both
                     else str(m["n_layers"]))
    yield "width", str(m["d_model"])
    yield "heads", f"{m['n_heads']} x {found['d_head']}"
    if m["n_kv_heads"]:
        yield "heads of keys and values", str(m["n_kv_heads"])
    yield "feed-forward", f"{found['d_ff']}, {m['activation']}"
    if m["experts"]:
        yield "experts", (f"{m['experts']['count']}, top {m['experts']['top_k']}, in one layer of "
                          f"{m['experts']['every']}")
    if m["d_embedding"]:
        yield "width of embeddings", str(m["d_embedding"])
    yield "vocabulary", f"{m['vocab_size']:,}, {'tied' if m['tied_head'] else 'untied'}"
    yield "context", (f"{m['source_context'] or m['context']} + {m['context']}" if both
                      else str(m["context"]))
    yield "positions", m["positions"]
    yield "norm", f"{m['norm']}, {m['norm_place']}"
    if m["banded"] != "none":
        yield "banded layers", f"{m['banded']}, window {m['window']}"
    said = found["published"]
    for key, words in (("params", "published parameters"), ("tokens", "published tokens"),
                       ("batch_tokens", "published batch in tokens")):
        if said[key] is not None:
            yield words, _words(said[key])
    if said["learning_rate"] is not None:
        yield "published learning rate", f"{said['learning_rate']:g}"


def _print_words(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table of words: every column to the left."""
    table = Table(box=None, pad_edge=False)
    for name in columns:
        table.add_column(name, no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    out.print(table)


def _words(value: float | None) -> str:
    from scaling.config.presets.sweep import in_words

    return "-" if value is None else in_words(value)
