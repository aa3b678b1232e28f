"""A teacher behind a URL: equal to the teacher in a folder, batches, retries, refusals."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from rlalign.errors import FaultError, UserError
from rlalign.policies.factory import make_policy
from rlalign.policies.options import PolicyOptions
from rlalign.teachers.endpoint import EndpointSpec, EndpointTeacher
from rlalign.teachers.local import local_teacher
from rlalign.tokenizers import CharTokenizer
from rlalign.types import Sampling
from tests.teachers.teacher_server import TeacherServer, served

TOKENIZER = CharTokenizer("abc>")
TOKENS = torch.tensor([[2, 3, 4, 1, 0], [3, 5, 2, 2, 4], [4, 5, 1, 0, 0]])
LENGTHS = torch.tensor([4, 5, 3])
MASK = torch.tensor([[0, 0, 1, 1, 0], [0, 1, 1, 0, 1], [0, 0, 1, 0, 0]]).bool()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny transformer."""
    path = tmp_path_factory.mktemp("teacher")
    make_policy("tiny", tokenizer=TOKENIZER, options=PolicyOptions(hidden_size=16, layers=1)).save_pretrained(path)
    return path


@pytest.fixture
def server(folder: Path) -> Iterator[TeacherServer]:
    """A server of that transformer."""
    teacher = local_teacher(str(folder), TOKENIZER, torch.device("cpu"), trust_remote_code=False)
    with served(teacher.policy) as running:
        yield running


@pytest.mark.parametrize("form", ["vllm", "echo"])
def test_scores_equal_those_of_the_folder(server: TeacherServer, folder: Path, form: str) -> None:
    server.form = form
    local = local_teacher(str(folder), TOKENIZER, torch.device("cpu"), trust_remote_code=False)
    teacher = EndpointTeacher(f"{server.url}?batch=2&model=big")
    teacher.check(TOKENIZER, [2, 3])
    scores = teacher.reference_logprobs(TOKENS, LENGTHS, MASK, Sampling())
    expected = local.reference_logprobs(TOKENS, LENGTHS, MASK, Sampling())
    assert (scores - expected).abs().max() < 1e-4
    assert expected[MASK].max() < 0
    assert (scores[~MASK] == 0).all()
    assert [len(request["prompt"]) for request in server.requests] == [1, 2, 1]
    assert {request["model"] for request in server.requests} == {"big"}
    assert server.requests[1]["prompt"][0] == [2, 3, 4, 1]  # without padding


def test_temporary_errors_are_retried_and_lasting_ones_raise(server: TeacherServer) -> None:
    waits: list[float] = []
    teacher = EndpointTeacher(f"{server.url}?attempts=3", sleep=waits.append)
    server.script = [503, 429]
    teacher.reference_logprobs(TOKENS, LENGTHS, MASK, Sampling())
    assert waits == [1.0, 2.0]
    server.script = [503, 503, 503]
    with pytest.raises(FaultError, match="HTTP 503 after 3 attempts; use a running server, then resume"):
        teacher.reference_logprobs(TOKENS, LENGTHS, MASK, Sampling())
    server.script = [401]
    with pytest.raises(UserError, match="got HTTP 401; check the URL and the key"):
        teacher.reference_logprobs(TOKENS, LENGTHS, MASK, Sampling())


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"choices": []}, "0 choices for 3 rows"),
        ({"error": "no"}, "none choices for 3 rows"),
        ([1], "got a list"),
        ({"choices": [{"text": "a"}] * 3}, "an answer without them"),
        ({"choices": [{"prompt_logprobs": [None, {}]}] * 3}, "2 positions for 4 ids"),
        ({"choices": [{"prompt_logprobs": [None, {}, {}, {}]}] * 3}, "an answer without them"),
        ({"choices": [{"logprobs": {"token_logprobs": [None, -1.0]}}] * 3}, "1 log-probs for 4 ids"),
        ({"choices": [{"logprobs": {"token_logprobs": [None, 2.0, 2.0, 2.0]}}] * 3}, "numbers that are none"),
    ],
)
def test_an_answer_without_log_probs_is_refused(server: TeacherServer, answer: object, message: str) -> None:
    server.answer = answer
    with pytest.raises(UserError, match=message):
        EndpointTeacher(server.url).reference_logprobs(TOKENS, LENGTHS, MASK, Sampling())


def test_another_vocabulary_is_refused(folder: Path) -> None:
    local = local_teacher(str(folder), TOKENIZER, torch.device("cpu"), trust_remote_code=False)
    with served(local.policy, CharTokenizer("acb>")) as server:
        with pytest.raises(UserError, match="another text for the ids 0 to 5: 'cb>' in place of 'bc>'"):
            EndpointTeacher(server.url).check(TOKENIZER, [2, 3])
        server.detokenizes = False
        with pytest.raises(UserError, match="name its tokenizer with &tokenizer=FOLDER"):
            EndpointTeacher(server.url).check(TOKENIZER, [2, 3])


def test_parameters_of_a_url() -> None:
    assert EndpointSpec.parse("http://h/v1/?seconds=5&key_variable=K") == EndpointSpec(
        "http://h/v1", seconds=5.0, key_variable="K"
    )
    for query, message in (
        ("size=3", "unknown parameter 'size'"),
        ("batch=x", "a number for batch"),
        ("batch=0", "batch"),
    ):
        with pytest.raises(UserError, match=message):
            EndpointSpec.parse(f"http://h/v1?{query}")


def test_only_the_distribution_of_the_model_is_served(server: TeacherServer) -> None:
    with pytest.raises(UserError, match="expected temperature 1"):
        EndpointTeacher(server.url).reference_logprobs(TOKENS, LENGTHS, MASK, Sampling(temperature=0.5))
