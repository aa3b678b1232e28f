"""The reward `classifier`: probabilities, raw scores of reward models, and models without a trained head."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from rlalign.errors import UserError  # noqa: E402
from rlalign.registry import REWARDS  # noqa: E402

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film", "a", "the"]
TEXTS = ["good film", "bad", "a the film good bad", ""]


def run(folder, **params):
    return REWARDS.get("classifier")(prompts=[""] * 4, completions=TEXTS, model=str(folder), **params)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("words")
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    return transformers.BertTokenizer(str(folder / "vocab.txt"), model_max_length=32)


def bert(folder, tokenizer, model_class="BertForSequenceClassification", **settings):
    """Write a BERT with a large head, and return its logits of each text alone."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=32, **settings,
    )  # fmt: skip
    model = getattr(transformers, model_class)(config).eval()
    if model_class == "BertForSequenceClassification":
        torch.nn.init.normal_(model.classifier.weight, std=50.0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return alone(model, tokenizer) if model_class == "BertForSequenceClassification" else None


def alone(model, tokenizer):
    with torch.no_grad():
        return torch.cat([model(**tokenizer([t], return_tensors="pt")).logits for t in TEXTS]).double()


def test_one_output_is_a_raw_score_unless_a_probability_is_asked_for(tokenizer, tmp_path) -> None:
    logits = bert(tmp_path, tokenizer, num_labels=1)[:, 0]
    assert logits.abs().max() > 1  # a sigmoid would change it
    assert run(tmp_path) == pytest.approx(logits.tolist(), abs=1e-5)
    assert run(tmp_path, score="probability") == pytest.approx(logits.sigmoid().tolist(), abs=1e-5)


@pytest.mark.parametrize(
    ("problem_type", "expected"),
    [
        (None, lambda z: z.softmax(1)),
        ("single_label_classification", lambda z: z.softmax(1)),
        ("multi_label_classification", lambda z: z.sigmoid()),
        ("regression", lambda z: z),
    ],
)
def test_several_outputs(tokenizer, tmp_path, problem_type, expected) -> None:
    logits = bert(tmp_path, tokenizer, num_labels=3, problem_type=problem_type)
    for label in range(3):
        values = run(tmp_path, label=str(label))
        assert values == pytest.approx(expected(logits)[:, label].tolist(), abs=1e-5)
    assert run(tmp_path, label="2", score="raw") == pytest.approx(logits[:, 2].tolist(), abs=1e-5)


def test_a_decoder_without_padding_scores_each_text_alone(tokenizer, tmp_path) -> None:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(WORDS), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_labels=1, bos_token_id=None, eos_token_id=3, pad_token_id=None,
    )  # fmt: skip
    model = transformers.LlamaForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path / "padded")
    tokenizer.save_pretrained(tmp_path / "padded")
    expected = alone(model, tokenizer)[:, 0].tolist()
    assert np.ptp(expected) > 1e-3
    assert run(tmp_path / "padded") == pytest.approx(expected, abs=1e-5)
    model.save_pretrained(tmp_path / "bare")
    bare = transformers.AutoTokenizer.from_pretrained(tmp_path / "padded")
    bare.pad_token = None
    bare.save_pretrained(tmp_path / "bare")
    assert run(tmp_path / "bare") == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("model_class", ["BertModel", "BertForMaskedLM"])
def test_a_model_without_a_trained_head_is_refused(tokenizer, tmp_path, model_class) -> None:
    bert(tmp_path, tokenizer, model_class=model_class)
    with pytest.raises(UserError, match=r"expected a trained sequence classifier, got .* without .*classifier\.bias"):
        run(tmp_path)


def test_an_unknown_score_is_named(tokenizer, tmp_path) -> None:
    bert(tmp_path, tokenizer, num_labels=1)
    with pytest.raises(UserError, match=r"unknown score 'probabilty'\. Did you mean 'probability'"):
        run(tmp_path, score="probabilty")
