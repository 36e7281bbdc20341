"""`scaling models`: the list, a family, and the cost of one size."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from scaling.cli.main import app
from scaling.config.presets import presets
from scaling.errors import UserError
from tests.conftest import assert_refused

PF_DAY = 1e15 * 24 * 3600


@pytest.fixture
def shown(capsys):
    """Standard output of the command."""

    def run(*words: object) -> str:
        app(["models", *map(str, words)], standalone_mode=False)
        return str(capsys.readouterr().out)

    return run


@pytest.fixture
def found(shown):
    """The JSON of the command."""
    return lambda *words: json.loads(shown(*words, "--json"))


def test_all_families_are_listed(shown, found):
    lines = shown().splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(presets())
    gpt3 = next(line for line in lines if line.startswith("gpt3 "))
    for word in ("GPT-3", "decoder-only", "6.7B", "175B", "arXiv 2005.14165"):
        assert word in gpt3
    chinchilla = next(line for line in lines if line.startswith("chinchilla "))
    assert "(51 sizes)" in chinchilla
    listed = {family["family"]: family for family in found()}
    assert len(listed["chinchilla"]["sizes"]) == 51
    assert listed["t5"]["mode"] == "encoder-decoder"


def test_a_family_has_one_row_for_each_size(shown, found):
    text = shown("gpt3")
    rows = {line.split()[0]: line.split() for line in text.splitlines() if line.startswith("gpt3/")}
    assert len(rows) == 8
    assert rows["gpt3/1.3B"][1:6] == ["24", "2048", "16", "x", "128"]
    assert "1,315,723,264" in rows["gpt3/1.3B"]
    assert rows["gpt3/175B"][-4:] == ["175B", "300B", "3.2M", "6e-05"]
    assert "the printed table are inconsistent" in text
    sizes = found("gpt3")["sizes"]
    assert sizes[-1]["published"] == {"params": 175e9, "tokens": 300e9, "batch_tokens": 3.2e6,
                                      "learning_rate": 6e-5}


def test_parts_add_up_and_laws_are_inverted(found):
    model = found("gpt3/6.7B")
    assert sum(model["parameters"].values()) == model["params_total"] == 6_658_404_352
    # 12 L d^2, and 12 L s d on top of 6 (N + V d), by hand.
    kaplan, head = 12 * 32 * 4096**2, 50257 * 4096
    flops = model["flops_per_token"]
    assert flops["kaplan"] == 6 * kaplan
    assert flops["pearce_song"] == 6 * (kaplan + head) + 12 * 2048 * 4096 * 32
    state = [model["memory"][part] for part in ("parameters", "gradients", "moments")]
    assert sum(state) == 16 * model["params_total"]
    assert model["memory"]["activations"] > 0
    laws = {law["law"]: law for law in model["compute_optimal"]}
    budget = PF_DAY * (model["params_non_embedding"] / 1.3e9) ** (1 / 0.73)
    assert laws["Kaplan 2020"]["flops"] == pytest.approx(budget, rel=1e-6)
    assert laws["Kaplan 2020"]["tokens"] == pytest.approx(
        budget / (6 * model["params_non_embedding"]), rel=1e-6)
    for law in laws.values():
        assert law["flops"] == pytest.approx(6 * law["n"] * law["tokens"])
        assert law["n"] == pytest.approx(
            model["params_non_embedding" if law["n_counts"] == "non-embedding" else "params_total"])


def rows_of(text):
    """The lines of two columns: the first words, and what follows after two spaces or more."""
    found = {}
    for line in text.splitlines():
        first, _, rest = line.strip().partition("  ")
        found.setdefault(first, rest.split("  ")[0].strip() or rest.strip())
    return found


def test_the_shape_of_a_size_is_the_published_one(shown):
    """Table 2.1 of the GPT-3 paper; the T5 paper, section 3.1.1 and its released checkpoints."""
    rows = rows_of(shown("gpt3/6.7B"))
    expected = {
        "mode": "decoder-only", "layers": "32", "width": "4096", "heads": "32 x 128",
        "context": "2048", "positions": "learned", "published parameters": "6.7B",
        "published tokens": "300B", "published batch in tokens": "2M",
        "published learning rate": "0.00012"}
    assert {key: rows[key][: len(value)] for key, value in expected.items()} == expected
    assert rows["feed-forward"].startswith("16384, ")
    assert rows["vocabulary"] == "50,257, tied"
    # 12 L d^2 weights; biases and norms add a thousandth at most.
    assert 0 < int(rows["non-embedding"].replace(",", "")) / (12 * 32 * 4096**2) - 1 < 1e-3
    both = rows_of(shown("t5/base"))
    assert (both["mode"], both["layers"], both["width"], both["heads"]) == (
        "encoder-decoder", "12 + 12", "768", "12 x 64")
    assert both["context"] == "512 + 114"  # what span corruption leaves of 512 tokens


def test_the_parts_and_the_memory_of_a_size_add_up(shown, found):
    text, model = shown("gpt3/6.7B"), found("gpt3/6.7B")
    total = model["params_total"]
    parts = [line.split() for line in text.splitlines() if line.endswith("%")]
    assert parts == [[*part.split(), f"{count:,}", f"{100 * count / total:.1f}%"]
                     for part, count in model["parameters"].items()]
    memory = sum(model["memory"].values())
    lines = [line.split() for line in text.splitlines() if line.startswith("total ")]
    assert lines == [["total", f"{total:,}"], ["total", f"{memory / 1e9:,.2f}"]]


def test_chinchillas_own_law_gives_its_own_tokens(found):
    laws = {law["law"]: law for law in found("chinchilla/70B")["compute_optimal"]}
    # Table 3 of the paper: 67B and 1.5T; trained were 70B on 1.4T.
    assert laws["Hoffmann 2022, approach 1"]["tokens"] == pytest.approx(1.5e12, rel=0.08)
    assert laws["Hoffmann 2022, approach 1"]["tokens_per_parameter"] == pytest.approx(22, abs=1)


def test_laws_count_the_active_experts(found):
    model = found("switch/base")
    laws = {law["law"]: law for law in model["compute_optimal"]}
    assert laws["Hoffmann 2022, approach 1"]["n"] == pytest.approx(model["params_active"])
    assert model["params_active"] < model["params_total"] / 20


@pytest.mark.parametrize("name", ["gpt3/6.7B", "switch/c", "albert/base", "transformer/big",
                                  "sweep/3B", "palm/540B"])
def test_the_text_description_of_a_size(shown, name):
    text = shown(name)
    for word in ("shape", "non-embedding", "kaplan", "activations", "Besiroglu 2024"):
        assert word in text


def test_context_and_vocabulary_can_be_overridden(found):
    short, long = (found("gpt3/6.7B", "--context", length) for length in (1024, 4096))
    added = 12 * 32 * 4096 * (4096 - 1024)
    assert long["flops_per_token"]["pearce_song"] - short["flops_per_token"]["pearce_song"] == added
    assert long["parameters"]["positions"] == 4096 * 4096
    small = found("sweep/1M", "--vocab-size", 500)
    assert small["parameters"]["embedding"] == 500 * small["d_model"]
    assert {row["vocab_size"] for row in found("bert", "--vocab-size", 7)["sizes"]} == {7}


@pytest.mark.parametrize(("name", "words"), [
    ("gpt33", "no such family of models"), ("gpt3/7B", "gpt3/6.7B"), ("bert/", "bert/"),
])
def test_an_unknown_name_is_a_user_error(shown, name, words):
    with pytest.raises(UserError, match=words):
        shown(name)


def test_a_mistake_ends_with_status_2(scaling):
    assert_refused(scaling("models", "gtp3/6.7B"), "no such family of models", "gpt3")


def test_530_billion_parameters_need_no_jax():
    code = ("import sys; from scaling.cli.main import app; "
            "app(['models', 'mt-nlg/530B'], standalone_mode=False); "
            "print(*sorted({'jax', 'flax', 'torch'} & set(sys.modules)), file=sys.stderr)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "529,5" in done.stdout
    assert done.stderr.strip() == ""


def test_help_has_examples(shown, capsys):
    with pytest.raises(SystemExit) as ended:
        app(["models", "--help"])
    assert ended.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "scaling models gpt3/6.7B --context 4096" in text
