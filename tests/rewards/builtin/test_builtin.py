"""Built-in rewards on ordinary, empty, Chinese, emoji and huge texts."""

import numpy as np
import pytest

from rlalign import checks
from rlalign.errors import UserError
from rlalign.registry import REWARDS
from rlalign.rewards import compose
from rlalign.rewards.builtin.similarity import _encoder, cosine

ODD = [
    "",
    " \n\t",
    "你好，世界。你好！",
    "😀😀👍🏽 ok",
    "é" * 3,
    "\x00\ud800",
    "a",
    "word " * 20_000,
    "!!!???",
    "x" * 100_000,
]
LOCAL = [
    *("vader", "embedding_cosine", "length", "too_short", "repetition", "exact_match", "token_match", "regex"),
    *("bleu", "chrf", "rouge", "edit_distance", "json_valid", "span_f1", "span_iou", "label_match", "label_valid"),
    *("coverage", "keyword_order", "soft_overlong", "distinct_n", "copy_penalty", "readability", "embedding_f1"),
]
NEEDED = {"regex": {"pattern": "a+"}, "label_valid": {"labels": "a|b"}, "soft_overlong": {"limit": 64}}


def run(name, completions, prompts=None, ids=None, **columns):
    item = REWARDS.get(name)
    prompts = prompts or ["p"] * len(completions)
    return item(prompts=prompts, completions=completions, completion_ids=ids or [[0]] * len(completions), **columns)


@pytest.mark.parametrize("name", LOCAL)
def test_odd_texts_give_finite_values_in_the_declared_range(name):
    parameters = NEEDED.get(name, {})
    # span rewards raise for a malformed answer, so they get a valid one; completions are arbitrary
    answers = ["42 | number"] * len(ODD) if name.startswith("span_") else ODD[::-1]
    for prompts in (ODD, ODD[::-1]):
        values = run(name, ODD, prompts=prompts, answer=answers, **parameters)
        low, high = REWARDS.get(name).range
        assert len(values) == len(ODD)
        assert all(isinstance(v, float) and low <= v <= high for v in values), values


@pytest.mark.parametrize("name", sorted(REWARDS.built_in))
def test_docstring_has_range_cost_determinism_and_exploit(name):
    text = REWARDS.get(name).__doc__
    assert all(word in text for word in ("Range", "Cost", "Deterministic", "Hacked by")), name


def test_every_built_in_loads_under_its_registered_name():
    for name in REWARDS.built_in:
        assert REWARDS.get(name).name == name


def test_vader_separates_positive_negative_and_neutral():
    good, bad, neutral = run("vader", ["I love this wonderful film", "A terrible, boring mess", "The table"])
    assert good > 0.5
    assert bad < -0.5
    assert neutral == 0.0


def test_vader_reads_only_the_first_characters():
    assert run("vader", ["x " * 5_000 + "wonderful"]) == [0.0]


def test_length():
    ids = [[0] * n for n in (0, 16, 32, 48, 1000)]
    assert run("length", ["t"] * 5, ids=ids) == [-1.0, -0.5, 0.0, -0.5, -1.0]
    assert run("length", ["a b", "你好"], target=2, unit="words") == [0.0, 0.0]
    assert run("length", ["abcd"], target=4, unit="characters") == [0.0]
    for arguments in ({"target": 0}, {"unit": "lines"}):
        with pytest.raises(UserError):
            compose(REWARDS.get("length").using(**arguments)).score("episode", ["p"], ["c"], [[1]])


def test_too_short_counts_words_of_any_script():
    assert run("too_short", ["a b c d", "a b c d e", "", "我很喜欢你"]) == [-1.0, 0.0, -1.0, 0.0]
    assert run("too_short", ["a b"], words=2) == [0.0]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("great great great", -2 / 3),
        ("Great, GREAT! great.", -2 / 3),
        ("so good so good so good", -4 / 6),
        ("好好好好", -3 / 4),
        ("😀😀", -1 / 2),
        ("every word stands here once", 0.0),
        ("one", 0.0),
        ("", 0.0),
    ],
)
def test_repetition(text, value):
    assert run("repetition", [text]) == [pytest.approx(value)]


def test_repetition_of_bigrams_ignores_function_words():
    assert run("repetition", ["the cat and the dog and the end"], ngram=2) == [pytest.approx(-1 / 7)]
    assert run("repetition", ["so good so good so good"], ngram=2) == [pytest.approx(-3 / 5)]


def test_repetition_is_limited_to_its_window():
    text = "a b c d a"
    assert run("repetition", [text], window=3) == [0.0]
    assert run("repetition", [text], window=4) == [pytest.approx(-1 / 5)]
    with pytest.raises(UserError, match=r"window: .*got 0"):
        run("repetition", [text], window=0)


def test_exact_match():
    assert run("exact_match", [" 42\n", "42.", "", "x"], answer=[42, "42", "", None]) == [1.0, 0.0, 1.0, None]
    assert run("exact_match", ["YES"], answer=["yes"]) == [0.0]
    assert run("exact_match", ["YES"], answer=["yes"], ignore_case=True) == [1.0]


def test_token_match():
    answers = ["abcd"] * 5 + ["", None]
    completions = ["abcd", "abxd", "ab", "abcdefgh", "", "", "x"]
    assert run("token_match", completions, answer=answers) == [1.0, 0.75, 0.5, 0.5, 0.0, 1.0, None]


def test_regex():
    assert run("regex", ["room 12", "room"], pattern=r"\d+") == [1.0, 0.0]
    assert run("regex", ["12", "12 "], pattern=r"\d+", full=True) == [1.0, 0.0]


# ---- similarity ----


def test_cosine():
    a, b = np.array([[1.0, 0], [1, 0], [1, 1], [0, 0]]), np.array([[2.0, 0], [-1, 0], [0, 1], [1, 1]])
    np.testing.assert_allclose(cosine(a, b), [1, -1, 2**-0.5, 0])


def test_unbound_embedding_cosine_measures_shared_words():
    same, near, far, empty = run(
        "embedding_cosine",
        ["the red fox", "the red dog", "completely different matter", ""],
        prompts=["The red fox"] * 4,
    )
    assert same == pytest.approx(1.0)
    assert 0.3 < near < 0.95
    assert abs(far) < 0.3
    assert empty == 0.0


def test_unbound_embedding_cosine_has_fixed_value():
    assert run("embedding_cosine", ["red dog"], prompts=["red fox"]) == [pytest.approx(0.6073658, abs=1e-6)]


def test_bound_embedding_cosine_uses_frozen_copy_of_policy_embeddings():
    torch = pytest.importorskip("torch")

    class Letters:
        def encode(self, text):
            return [ord(ch) - ord("a") for ch in text]

    class Policy:
        tokenizer = Letters()
        table = torch.eye(3, requires_grad=True)

        def input_embeddings(self):
            return self.table

    policy = Policy()
    total = compose("embedding_cosine")
    total.bind(policy)
    expected = [1.0, 0.0, 2**-0.5, 0.0]
    arguments = ("episode", ["a"] * 4, ["a", "b", "ab", ""], [[0]] * 4)
    np.testing.assert_allclose(total.score(*arguments).total, expected)
    with torch.no_grad():
        policy.table.fill_(1.0)
    np.testing.assert_allclose(total.score(*arguments).total, expected)


@pytest.fixture(scope="module")
def tiny_models(tmp_path_factory):
    """Return a folder with a sentence encoder and a classifier of a few thousand random weights."""
    torch = pytest.importorskip("torch")
    from transformers import BertConfig, BertForSequenceClassification, BertModel, BertTokenizer

    root = tmp_path_factory.mktemp("models")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film", "a", "the"]
    (root / "vocab.txt").write_text("\n".join(vocabulary))
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    labels = {0: "NEGATIVE", 1: "POSITIVE"}
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(vocabulary), max_position_embeddings=32, id2label=labels, **sizes)
    for name, model in (("encoder", BertModel(config)), ("classifier", BertForSequenceClassification(config))):
        model.save_pretrained(root / name)
        BertTokenizer(str(root / "vocab.txt"), model_max_length=32).save_pretrained(root / name)
    return root


def test_sentence_cosine_ignores_padding_and_is_1_for_equal_texts(tiny_models):
    folder = str(tiny_models / "encoder")
    long = "the good film " * 5
    batched = run("minilm_cosine", ["good film", "bad", long, ""], prompts=["good film"] * 4, folder=folder)
    single = [run("minilm_cosine", [t], prompts=["good film"], folder=folder)[0] for t in ("good film", "bad", long)]
    assert batched[0] == pytest.approx(1.0)
    assert batched[:3] == pytest.approx(single, abs=1e-5)
    assert batched[3] == 0.0
    _encoder.cache_clear()


def test_classifier_returns_probability_of_label(tiny_models):
    folder = str(tiny_models / "classifier")
    texts = ["good film", "bad", "", "the film " * 100]
    positive = run("classifier", texts, model=folder, label="positive")
    negative = run("classifier", texts, model=folder, label="0")
    assert np.add(positive, negative) == pytest.approx(1.0)
    assert len(set(positive)) > 1
    with_prompt = run("classifier", ["film"], prompts=["good "], model=folder, label="positive", with_prompt=True)
    assert with_prompt == pytest.approx(positive[:1], abs=1e-6)
    with pytest.raises(UserError, match=r"no label 'POSITVE'\. Did you mean 'POSITIVE'"):
        run("classifier", texts, model=folder, label="POSITVE")


def test_classifier_passes_conformance_checks(tiny_models):
    reward = REWARDS.get("classifier").using(model=str(tiny_models / "classifier"), label="positive")
    assert all(result.passed for result in checks.check_reward(reward))


def test_classifier_rejects_pickled_weights(tiny_models, tmp_path):
    import shutil

    import torch
    from safetensors.torch import load_file

    from rlalign.errors import RewardError

    folder = tmp_path / "pickled"
    shutil.copytree(tiny_models / "classifier", folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    total = compose(REWARDS.get("classifier").using(model=str(folder)))
    with pytest.raises(RewardError, match="safetensors"):
        total.score("episode", ["p"], ["c"], [[1]])
