"""Rewards against a reference: values computed by hand or by the libraries that define them."""

import json
import math

import pytest
from sacrebleu.metrics import CHRF

from rlalign.errors import UserError
from rlalign.registry import REWARDS
from rlalign.rewards import compose
from rlalign.rewards.builtin.overlap import levenshtein


def run(spec, completions, prompts=None, ids=None, **columns):
    total = compose(spec)
    n = len(completions)
    scores = total.score("episode", prompts or ["p"] * n, completions, ids or [[0]] * n, **columns)
    (values,) = scores.components.values()
    return values.tolist()


def test_bleu_of_short_text_uses_existing_orders():
    # 3 of 4 unigrams, 2 of 3 bigrams, 1 of 2 trigrams, no 4-gram (smoothed to 1/2 of 1): the geometric mean
    expected = (3 / 4 * 2 / 3 * 1 / 2 * 1 / 2) ** 0.25
    assert run("bleu", ["the cat sat here"], answer=["the cat sat down"]) == [pytest.approx(expected)]
    assert run("bleu", ["the cat"], answer=["the cat"]) == [pytest.approx(1.0)]
    brevity = math.exp(1 - 4 / 2)
    assert run("bleu", ["the cat"], answer=["the cat sat down"]) == [pytest.approx(brevity)]


def test_bleu_accepts_references_parameter_and_chinese():
    assert run("bleu", ["a b", "c d"], answer=[["x y", "a b"], ["x y"]]) == [pytest.approx(1.0), 0.0]
    assert run("bleu?answer=a b", ["a b", ""]) == [pytest.approx(1.0), 0.0]
    assert run("bleu?tokenize=zh", ["我喜欢电影"], answer=["我喜欢看书"])[0] > 0.3
    with pytest.warns(RuntimeWarning, match="None for a whole batch"):
        assert math.isnan(run("bleu=0", ["a"], answer=[None])[0])
    with pytest.raises(UserError, match="Did you mean 'zh'"):
        run("bleu?tokenize=zhh", ["a"], answer=["a"])


def test_chrf_equals_sacrebleu():
    pair = ("the cat sat", "the cat stood")
    assert run("chrf", [pair[0]], answer=[pair[1]]) == [
        pytest.approx(CHRF().sentence_score(pair[0], [pair[1]]).score / 100)
    ]
    assert run("chrf?word_order=2", [pair[0]], answer=[pair[1]]) == [
        pytest.approx(CHRF(word_order=2).sentence_score(pair[0], [pair[1]]).score / 100)
    ]
    assert run("chrf", ["abc", ""], answer=["abc", "abc"]) == [pytest.approx(1.0), 0.0]


def test_rouge_values():
    # longest common subsequence "the cat down": precision 3/4, recall 3/5
    f = 2 * (3 / 4) * (3 / 5) / (3 / 4 + 3 / 5)
    assert run("rouge", ["the cat lay down"], answer=["the black cat sat down"]) == [pytest.approx(f)]
    assert run("rouge?kind=rouge2", ["a b c"], answer=["a b d"]) == [pytest.approx(1 / 2)]
    assert run("rouge", ["我爱你"], answer=["我爱他"]) == [pytest.approx(2 / 3)]  # each ideograph is a word
    assert run("rouge", ["x y"], answer=[["a b", "x y"]]) == [1.0]
    with pytest.raises(UserError, match="Did you mean 'rougeL'"):
        run("rouge?kind=rougel", ["a"], answer=["a"])


@pytest.mark.parametrize(
    ("a", "b", "edits"),
    [("kitten", "sitting", 3), ("", "abc", 3), ("abc", "", 3), ("", "", 0), ("flaw", "lawn", 2), ("ab", "ba", 2)],
)
def test_levenshtein_and_edit_distance(a, b, edits):
    assert levenshtein(a, b) == edits
    assert run("edit_distance", [f" {a}\n"], answer=[b]) == [pytest.approx(1 - edits / max(len(a), len(b), 1))]


def test_json_valid():
    texts = ['{"a": 1}', " {} \n", "[1]", "1", '{"a": NaN}', '{"a": 1, "a": 2}', "```json\n{}\n```", "", "[" * 100_000]
    assert run("json_valid", texts) == [1, 1, 0, 0, 0, 0, 0, 0, 0]
    assert run("json_valid?kind=any", texts) == [1, 1, 1, 1, 0, 0, 0, 0, 0]
    assert run("json_valid?kind=array", texts) == [0, 0, 1, 0, 0, 0, 0, 0, 0]


def test_json_fields():
    answer = {"who": {"name": "Li"}, "when": 3, "tags": ["a", "b"]}  # four fields
    values = [
        answer,
        {"who": {"name": " Li "}, "when": 3.0, "tags": ["b", "a"]},
        {"who": {"name": "Wu"}, "when": 3, "tags": ["a", "b"]},
        {"when": 3},
        {"when": "3", "tags": ["a", "b", "c"]},
        {},
    ]
    expected = [1, 1, 2 * 3 / 8, 2 / 5, 2 * 2 / 8, 0]
    texts = [json.dumps(x) for x in values] + ["no json"]
    for form in (answer, json.dumps(answer)):
        assert run("json_fields", texts, answer=[form] * 7) == pytest.approx([*expected, 0])
    assert run("json_fields", ['{"a": true}', '{"a": 1}'], answer=[{"a": 1}] * 2) == [0, 1]
    records = [{"who": "Li", "when": 1}, {"who": "Wu", "when": 2}]
    mixed = [{"who": "Li", "when": 2}, {"who": "Wu", "when": 1}]  # equal values, two of them in the wrong record
    assert run("json_fields", [json.dumps(mixed)], answer=[records]) == [1 / 2]
    with pytest.raises(UserError, match="expected an answer in JSON"):
        run("json_fields", ["{}"], answer=["{"])


def test_span_f1_and_iou():
    answer = "Marie Curie | person\nWarsaw | place"
    completions = [
        answer,
        "Warsaw\tPlace\nMarie Curie|PERSON\n\n",
        "Marie Curie | person",
        "Marie | person\nWarsaw | place",
        "Marie Curie | place\nWarsaw | place",
        "Warsaw | place\nWarsaw | place\nnonsense",
        "none",
        "",
    ]
    f1 = [1, 1, 2 / 3, 1 / 2, 1 / 2, 2 / 5, 0, 0]
    iou = [1, 1, 1 / 2, (1 / 2 + 1) / 2, 1 / 2, 1 / 3, 0, 0]
    pairs = [("Marie Curie", "person"), ("Warsaw", "place")]
    for form in (answer, pairs):
        assert run("span_f1", completions, answer=[form] * 8) == pytest.approx(f1)
        assert run("span_iou", completions, answer=[form] * 8) == pytest.approx(iou)
    for name in ("span_f1", "span_iou"):
        assert run(name, ["none", "", "a | b"], answer=["none"] * 3) == [1, 1, 0]
        assert run(name, ["nonsense"], answer=["nonsense | x"]) == [0]
        with pytest.raises(UserError, match="lines of 'text"):
            run(name, ["a | b"], answer=["nonsense"])


def test_span_iou_matching_maximizes_the_sum():
    # greedy matching would assign the first span of the answer to "a b" (1/2) and leave 0 for the second
    assert run("span_iou", ["a b | x\na | x"], answer=["a | x\na b c | x"]) == [pytest.approx((2 / 3 + 1) / 2)]


def test_label_match_and_valid():
    completions = ["positive", " Negative\n", "positive!", "", "maybe"]
    both = "label_match?labels=positive|negative&wrong=-0.25&invalid=-1"
    assert run(both, completions, answer=["positive"] * 5) == [1, -0.25, -1, -1, -1]
    assert run("label_match", completions, answer=["Positive"] * 5) == [1, 0, 0, 0, 0]
    assert run("label_valid?labels=positive|negative", completions) == [1, 1, 0, 0, 0]
    assert run("label_valid", ["a", "a"], labels=[["a", "b"], ["c"]]) == [1, 0]
    with pytest.raises(UserError, match="expected 'labels' as a column"):
        run("label_valid", completions)


def test_math_verify():
    pytest.importorskip("math_verify")
    completions = [r"so it is \boxed{\frac{1}{2}}", "0.5", "the answer is 1/2.", "2", "", "no idea", "🙂" * 9000]
    assert run("math_verify", completions, answer=["0.5"] * 7) == [1, 1, 1, 0, 0, 0, 0]
    assert run("math_verify", ["1234", "1,234"], answer=["1,234", 1234]) == [1, 1]
    long = r"\boxed{1} " + "and so on " * 500 + r"\boxed{2}"  # the answer is at the end
    assert run("math_verify", [long, long], answer=["2", "1"]) == [1, 0]


def test_coverage_and_keyword_order():
    completions = ["The dog ran to the park", "park, dog, ran", "dogs in the park", "", "ran dog park dog ran park"]
    three = "keywords=dog|ran|park"
    assert run(f"coverage?{three}", completions) == pytest.approx([1, 1, 1 / 3, 0, 1])
    assert run(f"keyword_order?{three}", completions) == pytest.approx([1, 2 / 3, 1 / 3, 0, 1])
    assert run(f"coverage?{three}&inflect=true", completions[2:3]) == pytest.approx([2 / 3])
    assert run("coverage", ["New York is big", "York New"], keywords=[["new york"]] * 2) == [1, 0]
    assert run("coverage", ["the dog"], answer=["the dog runs"]) == [pytest.approx(2 / 3)]
    assert run("coverage", ["x"], keywords=[[]]) == run("keyword_order", ["x"], keywords=[[]]) == [1]
    with pytest.raises(UserError, match="expected a column 'keywords'"):
        run("coverage", completions)


def test_keyword_order_finds_longest_sequence():
    assert run("keyword_order?keywords=a|b|c|d", ["d b c a"]) == [pytest.approx(2 / 4)]
    assert run("keyword_order?keywords=a|b|c", ["c a b"]) == [pytest.approx(2 / 3)]
    assert run("keyword_order?keywords=a|b", ["b b a"]) == [1 / 2]  # one keyword counts once


def test_soft_overlong_equals_dapo():
    ids = [[0] * n for n in (0, 48, 49, 56, 64, 65, 500)]
    values = run("soft_overlong?limit=64&buffer=16", ["t"] * 7, ids=ids)
    assert values == [0, 0, -1 / 16, -8 / 16, -1, -1, -1]
    assert run("soft_overlong?limit=100", ["t"], ids=[[0] * 90]) == [-0.5]  # a buffer of 20
    with pytest.raises(UserError, match="expected 1 <= buffer <= limit"):
        run("soft_overlong?limit=4&buffer=9", ["t"])


def test_distinct_n_and_copy_penalty():
    assert run("distinct_n", ["a b a b", "a", "", "好好好"]) == pytest.approx([2 / 3, 0, 0, 1 / 2])
    assert run("distinct_n?ngram=1", ["a b a b"]) == [0.5]
    prompts = ["the quick brown fox jumps over"] * 4
    completions = ["the quick brown fox sits", "The quick, brown fox", "fox brown quick the", "fox"]
    assert run("copy_penalty", completions, prompts=prompts) == pytest.approx([-1 / 2, -1, 0, 0])
    assert run("copy_penalty?ngram=1", ["fox and hound"], prompts=prompts[:1]) == [pytest.approx(-1 / 3)]


def test_missing_package_error_names_extra(monkeypatch):
    import sys

    from rlalign.registry import import_optional

    monkeypatch.setitem(sys.modules, "no_such_package", None)
    with pytest.raises(UserError, match=r"'no_such_package'.*pip install -c constraints.txt -e '.\[rewards\]'"):
        import_optional("no_such_package", "rewards")


REFERENCED = ["bleu", "chrf", "rouge", "edit_distance", "json_fields", "span_f1", "span_iou", "label_match", "coverage"]
STRUCTURED = ("json_fields", "span_f1", "span_iou")
REFERENCED += ["keyword_order", "math_verify", "embedding_f1", "exact_match", "token_match"]


@pytest.mark.parametrize("name", REFERENCED)
@pytest.mark.parametrize("answer", [None, 42, "", "plain", ["a", "b"], [("a", "b")], {"a": 1}, [], 1.5, True])
def test_answer_of_any_type_is_scored_or_rejected(name, answer):
    try:
        values = REWARDS.get(name)(completions=["a", ""], answer=[answer] * 2)
    except UserError:
        # the first three require a format of the answer, the others cannot compare a text with a structure
        assert name in STRUCTURED or answer in ([("a", "b")], {"a": 1})
        assert answer is not None
    else:
        assert all(v is None or 0 <= v <= 1 for v in values)  # false for NaN
        of_lists = (*STRUCTURED, "coverage", "keyword_order")  # an empty list is a value for them
        assert (values[0] is None) == (answer is None or (answer == [] and name not in of_lists))


@pytest.mark.parametrize("name", ["exact_match", "token_match", "edit_distance", "math_verify", "label_match"])
@pytest.mark.parametrize(
    ("answer", "right", "wrong"),
    [
        (5, "5", "6"),
        (5.0, "5", "6"),
        (0.00001, "0.00001", "0.0001"),
        (12345678901234567890, "12345678901234567890", "12345678901234567891"),
        ([5, 6], "6", "7"),
        (["4", None, 5.0], "5", "7"),
    ],
)
def test_typed_answers_are_matched_by_their_text(name, answer, right, wrong):
    value, other = REWARDS.get(name)(completions=[right, wrong], answer=[answer] * 2)
    assert value == 1.0
    assert other < 1.0


@pytest.mark.parametrize(
    ("answer", "texts"), [(True, ["true", "True"]), (5.0, ["5", "5.0"]), (1e-05, ["1e-05", "0.00001"])]
)
def test_an_exact_match_reads_each_usual_notation(answer, texts):
    assert REWARDS.get("exact_match")(completions=texts, answer=[answer] * 2) == [1.0, 1.0]
    assert REWARDS.get("exact_match")(completions=["nan", ""], answer=[float("nan"), None]) == [None, None]


def raising(completions):
    raise UserError("give me something else")


def test_user_error_in_worker_stays_a_user_error():
    with compose(raising) as total, pytest.raises(UserError, match=r"^give me something else$"):
        total.score("episode", ["p"], ["c"], [[1]])


def test_optional_parameters_are_converted():
    assert compose("soft_overlong?limit=9&buffer=3")._guards["soft_overlong"].reward.parameters == {
        "limit": 9,
        "buffer": 3,
    }
    assert REWARDS.get("soft_overlong").range == (-1.0, 0.0)
