"""Runs and samplers whose memory runs out: on an emulated CUDA device, and on the CPU by errors that are raised."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import rlalign
from rlalign.config.schema import TrainConfig
from rlalign.errors import FaultError
from rlalign.policies import memory
from rlalign.policies.factory import load, make_policy
from rlalign.policies.memory import in_parts, is_out_of_memory
from rlalign.policies.options import AdapterOptions, PolicyOptions
from rlalign.policies.sampling import decode_loop
from rlalign.policies.sampling.cuda_graphs import buffer_rows
from rlalign.policies.sampling.decode_loop import DecodeSampler
from rlalign.policies.sampling.fast_decoder import FastDecoder
from rlalign.policies.weight_dtype import float32_copy
from rlalign.training.learner import Learner
from rlalign.training.out_of_memory import MemoryFailure, out_of_memory
from rlalign.training.validation import Validator
from rlalign.types import Sampling

pytestmark = pytest.mark.filterwarnings(
    "ignore:decoding without CUDA graphs",
    "ignore:PyTorch was compiled without cuDNN",
)
CONTEXTS = [[3, 4, 5]] * 5 + [[6, 7]] * 4 + [[8, 9, 10, 11]] * 4


class Ids:
    vocab_size = 20
    eos_id = pad_id = 1


def sample(sampler, contexts=CONTEXTS, seed=0, **settings):
    sampler.policy.begin_rollout()
    settings = {"max_new": 12, "stop_ids": frozenset({1}), "sampling": Sampling(0.9, 12), **settings}
    return sampler.sample(contexts, generator=torch.Generator().manual_seed(seed), **settings)


def same(a, b):
    assert torch.equal(a.tokens, b.tokens)
    assert torch.equal(a.lengths, b.lengths)
    torch.testing.assert_close(a.logprobs, b.logprobs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"), True),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"), True),
        (MemoryError(), True),
        (RuntimeError("expected a tensor"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_errors_for_a_lack_of_memory(error, expected):
    assert is_out_of_memory(error) == expected


@pytest.mark.parametrize(
    ("phase", "flags"),
    [
        ("update", {"--model.gradient-checkpointing", "--rollout.max-new"}),
        ("supervised update", {"--model.gradient-checkpointing", "--rollout.max-new"}),
        ("rollout", {"--rollout.max-new"}),
        ("validation", {"--evaluation.samples"}),
        ("evaluation", {"--evaluation.samples"}),
        ("save", set()),
    ],
)
@pytest.mark.parametrize("lora_r", [0, 4])
def test_the_error_names_what_helps_in_each_phase(phase, flags, lora_r):
    policy = make_policy("tiny", tokenizer=Ids(), options=PolicyOptions(adapter=AdapterOptions.lora(lora_r)))
    config = TrainConfig(model=replace(TrainConfig().model, adapter=AdapterOptions.lora(lora_r)))
    batcher = SimpleNamespace(bytes_per_token=1000)
    text = str(out_of_memory(MemoryFailure(phase, "full"), config, policy, batcher, 10, None))
    adapters = {"--model.adapter.kind"} if lora_r == 0 and phase != "validation" else set()
    assert set(re.findall(r"--[\w.-]+", text)) == flags | adapters
    assert f"out of memory in the {phase} on cpu (full)" in text
    assert ("one sequence of 10 tokens" in text) == (phase in ("update", "supervised update"))


@pytest.mark.parametrize(("free", "words"), [(5000, "about 5 tokens fit"), (50_000, "free now"), (0, "free now")])
def test_the_error_names_what_fits(monkeypatch, free, words):
    monkeypatch.setattr("rlalign.training.out_of_memory.free_bytes", lambda _: free)
    policy, batcher = make_policy("tiny", tokenizer=Ids()), SimpleNamespace(bytes_per_token=1000)
    text = str(out_of_memory(MemoryFailure("update", "full"), TrainConfig(), policy, batcher, 10, None))
    assert words in text
    assert ("tokens fit" in text) == (0 < free < 10_000)


# ---- sampling ----


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("greedy", [False, True])
@pytest.mark.parametrize("most", [1, 2, 5, 12])
def test_a_rollout_in_passes_has_the_same_samples(monkeypatch, fixed, greedy, most):
    policy = make_policy("tiny", tokenizer=Ids())
    limits = [1, 12, 3, 12, 12, 5, 5, 0, 7, 12, 1, 2, 12]
    whole = sample(DecodeSampler(policy, fixed=fixed), max_new=limits, greedy=greedy)
    sampler = DecodeSampler(policy, fixed=fixed)
    one_pass, sizes = sampler._pass, []

    def limited(turn):
        sizes.append(len(turn))
        if len(turn) > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return one_pass(turn)

    monkeypatch.setattr(sampler, "_pass", limited)
    emptied = []
    monkeypatch.setattr(decode_loop, "empty_cache", lambda: emptied.append(len(sizes)))
    same(sample(sampler, max_new=limits, greedy=greedy), whole)
    # after each pass that did not fit, so that the next one finds the memory
    assert emptied == [i + 1 for i, size in enumerate(sizes) if size > most]
    assert max(size for size in sizes if size <= most) <= most < sizes[0] == len(CONTEXTS)
    sizes.clear()
    same(sample(sampler, max_new=limits, greedy=greedy), whole)
    assert max(sizes) <= most  # the next rollout begins with the size that fits


def test_a_row_that_does_not_fit_raises_the_error(monkeypatch):
    sampler = DecodeSampler(make_policy("tiny", tokenizer=Ids()))

    def failing(turn):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(sampler, "_pass", failing)
    with pytest.raises(torch.OutOfMemoryError):
        sample(sampler)


@pytest.mark.parametrize("fixed", [False, True])
def test_a_conversation_goes_on_without_its_cache(monkeypatch, fixed):
    policy = make_policy("tiny", tokenizer=Ids())
    sampler, short = DecodeSampler(policy, fixed=fixed), DecodeSampler(policy, fixed=fixed)
    one_pass = short._pass

    def limited(turn):
        if len(turn) > 6:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return one_pass(turn)

    first, again = (sample(s, cached=[None] * len(CONTEXTS)) for s in (sampler, short))
    assert all(prefix is not None for prefix in first.cached)
    monkeypatch.setattr(short, "_pass", limited)
    contexts = [[*c, *t[:n].tolist(), 7] for c, t, n in zip(CONTEXTS, first.tokens, first.lengths, strict=True)]
    second = sample(sampler, contexts, seed=1, cached=first.cached)
    without = sample(short, contexts, seed=1, cached=again.cached)
    same(second, without)
    assert without.cached == [None] * len(contexts)  # the caller's old entries are of no use and are replaced


@pytest.mark.parametrize("lora", [0, pytest.param(4, marks=pytest.mark.slow)])
def test_a_rollout_is_cut_to_the_free_memory_before_it_begins(cuda, lora):
    policy = make_policy(
        "tiny", tokenizer=Ids(), options=PolicyOptions(adapter=AdapterOptions.lora(lora)), device="cuda"
    )
    contexts = [[3, 4, 5]] * 40 + [[6, 7]] * 30
    whole = sample(DecodeSampler(policy), contexts, max_new=3)
    sampler = DecodeSampler(policy)
    one_pass, sizes = sampler._pass, []
    sampler._pass = lambda turn: (sizes.append(len(turn)), one_pass(turn))[1]
    slots = 128 + 3
    row = slots * policy.fast_decoder.bytes_per_slot + 16 * Ids.vocab_size
    for rows, expected in ((1000, [70]), (45, [32, 32, 6]), (9, [8] * 8 + [6])):
        cuda.free_bytes = round(row * (rows + 0.5) / 0.8)
        sampler.release()
        sizes.clear()
        same(sample(sampler, contexts, max_new=3), whole)
        assert sizes == expected
    cuda.free_bytes = 0
    sampler.release()
    sizes.clear()
    sample(sampler, [[3, 4]] * 3, max_new=3)
    assert sizes == [1] * 3


def test_buffers_have_a_power_of_two_or_a_multiple_of_32_rows():
    assert [buffer_rows(n) for n in (1, 3, 17, 32, 33, 96, 257, 320)] == [1, 4, 32, 32, 64, 96, 288, 320]


@pytest.mark.parametrize("contexts", [[[3, 4, 5]] * 6, CONTEXTS])
def test_contexts_are_read_in_pieces_of_bounded_size(cuda, monkeypatch, contexts):
    from rlalign.policies.sampling import fast_decoder

    policy = make_policy("tiny", tokenizer=Ids(), device="cuda")
    distinct = [list(c) for c in dict.fromkeys(map(tuple, contexts))]
    distinct = distinct * (6 // len(distinct))
    _, expected = policy.prefill(distinct, [1] * len(distinct))
    reads, read_part = [], FastDecoder._read_part

    def recorded(self, part, cache, slots):
        reads.append(len(part))
        return read_part(self, part, cache, slots)

    monkeypatch.setattr(fast_decoder, "_PIECE_TOKENS", 8)
    monkeypatch.setattr(FastDecoder, "_read_part", recorded)
    state, logits = policy.prefill(distinct, [1] * len(distinct))
    assert max(reads) * max(map(len, distinct)) <= 8
    assert sum(reads) == len(distinct) > max(reads)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    tokens = torch.full((len(distinct),), 2, device="cuda")
    after = policy.decode(state, tokens)
    _, again = policy.prefill([[*c, 2] for c in distinct], [1] * len(distinct))
    torch.testing.assert_close(after, again, rtol=1e-4, atol=1e-5)


# ---- training ----

TRAIN = {"env": "reverse", "quiet": True, "evaluation__prompts": 4, "rollout__prompts": 2, "rollout__group_size": 4}


def curves(run):
    # null, of a step without a validation, becomes NaN for approx
    columns = {k: v for k, v in run.metrics.items() if not k.startswith("time/")}
    return {k: [float("nan") if x is None else x for x in values] for k, values in columns.items()}


@pytest.mark.parametrize(
    ("name", "target", "call", "settings"),
    [
        ("rollout", (DecodeSampler, "_pass"), 3, {}),
        ("rollout", (Learner, "prepare"), 3, {}),
        ("update", (Learner, "_backward"), 5, {"learner__minibatches": 2}),
        ("update", (Learner, "_step"), 6, {"learner__minibatches": 2}),
        ("validation", (Validator, "evaluate"), 3, {"evaluation__every": 1}),
    ],
)
@pytest.mark.parametrize("policy", ["gru", "tiny"])
def test_a_run_without_memory_is_saved_and_resumes(monkeypatch, tmp_path, name, target, call, settings, policy):
    """From the call on every allocation fails. With more memory the resumed run equals one that was not stopped."""
    settings = {**TRAIN, "policy": policy, "algorithm": "grpo", "steps": 4, **settings}
    whole = rlalign.train(**settings, output=tmp_path / "whole")
    owner, method = target
    original, calls = getattr(owner, method), 0

    def failing(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls >= call:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nSee documentation")
        return original(*args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(owner, method, failing)
        with pytest.raises(FaultError, match=f"out of memory in the {name} on cpu .*20.00 GiB.*--resume") as caught:
            rlalign.train(**settings, output=tmp_path / "run")
    assert "\n" not in str(caught.value)
    run = rlalign.train(**settings, output=tmp_path / "run", resume=True)
    expected, resumed = curves(whole), curves(run)
    for key, values in expected.items():
        assert resumed[key] == pytest.approx(values, nan_ok=True, rel=1e-3, abs=1e-4), key
    with torch.no_grad():
        for a, b in zip(run.policy.parameters(), whole.policy.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_a_supervised_update_without_memory_halves_and_then_saves(monkeypatch, tmp_path):
    settings = {**TRAIN, "policy": "gru", "algorithm": "grpo", "steps": 3, "supervised__align_interval": 1}
    whole = rlalign.train(**settings, output=tmp_path / "whole")
    backward, largest = Learner._supervised_backward, 1

    def limited(self, demonstrations, rows, weight):
        if (self.micro_batcher.micro_batch or len(rows)) > largest:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return backward(self, demonstrations, rows, weight)

    monkeypatch.setattr(Learner, "_supervised_backward", limited)
    run = rlalign.train(**settings, output=tmp_path / "halved")
    assert run.metrics["supervised/nll"] == pytest.approx(whole.metrics["supervised/nll"], rel=1e-3)
    largest = 0
    with pytest.raises(FaultError, match=r"in the supervised update .*--resume"):
        rlalign.train(**settings, output=tmp_path / "run")
    largest = 8
    run = rlalign.train(**settings, output=tmp_path / "run", resume=True)
    assert run.metrics["step"] == [1, 2, 3]


def test_the_moments_are_those_of_the_optimizer():
    """They are made before the first step, so a lack of memory there leaves parameters and state as they were."""
    from rlalign.training.moments import allocate_moments

    def optimizer():
        torch.manual_seed(0)
        parameters = [torch.nn.Parameter(torch.randn(3, 4)), torch.nn.Parameter(torch.randn(5))]
        return torch.optim.AdamW([{"params": parameters[:1]}, {"params": parameters[1:], "lr": 0.1}], fused=True)

    ours, theirs = optimizer(), optimizer()
    for step in range(3):
        for o in (ours, theirs):
            for group in o.param_groups:
                for p in group["params"]:
                    p.grad = torch.full_like(p, 0.1 * (step + 1))
        allocate_moments(ours)
        ours.step()
        theirs.step()
    for a, b in zip(ours.state.values(), theirs.state.values(), strict=True):
        assert a.keys() == b.keys()
        for key in a:
            assert a[key].dtype == b[key].dtype
            assert torch.equal(a[key], b[key])


@pytest.mark.parametrize("seed", range(4))
def test_memory_that_runs_out_once_anywhere_changes_no_result(monkeypatch, tmp_path, seed):
    """One call of one torch function fails, at a random place of the run."""
    from torch.overrides import TorchFunctionMode

    class FailOnce(TorchFunctionMode):
        def __init__(self, at):
            super().__init__()
            self.at, self.count = at, 0

        def __torch_function__(self, func, types, args=(), kwargs=None):
            self.count += 1
            if self.count == self.at:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return func(*args, **(kwargs or {}))

    settings = {**TRAIN, "policy": "tiny", "algorithm": "ppo", "steps": 2}
    with FailOnce(-1) as counter:
        whole = rlalign.train(**settings, output=tmp_path / "whole")
    with FailOnce(random.Random(seed).randrange(counter.count // 10, counter.count * 9 // 10)):
        try:
            run = rlalign.train(**settings, output=tmp_path / "run")
        except FaultError:
            run = None  # nothing could be retried where it failed
    if run is None:
        run = rlalign.train(**settings, output=tmp_path / "run", resume=(tmp_path / "run" / "checkpoints").exists())
    expected, actual = curves(whole), curves(run)
    for key, values in expected.items():
        assert actual[key] == pytest.approx(values, nan_ok=True, rel=1e-2, abs=1e-3), key


def test_memory_that_runs_out_in_the_last_save_is_freed_and_the_run_saved(monkeypatch, tmp_path):
    from rlalign.training.trainer_state import TrainerState

    save, calls = TrainerState.save, []

    def fail_once(self):
        calls.append(self.step)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return save(self)

    monkeypatch.setattr(TrainerState, "save", fail_once)
    settings = {**TRAIN, "policy": "tiny", "steps": 2, "output": tmp_path / "run"}
    with pytest.raises(FaultError, match="continue with rlalign train --resume"):
        rlalign.train(**settings)
    assert calls == [2, 2]
    assert rlalign.train(**settings, resume=True).comparison is not None


def test_decode_buffers_are_dropped_before_a_micro_batch_is_halved(monkeypatch):
    from rlalign.training.micro_batches import MicroBatcher

    class Owner:
        full = True

        def release(self):
            was, self.full = self.full, False
            return was

    owner = Owner()
    monkeypatch.setattr(memory, "_RELEASABLE", {owner})
    batcher = MicroBatcher(make_policy("gru", tokenizer=Ids()), 0)
    sizes = []

    def fits_two():
        sizes.append(batcher.micro_batch)
        if owner.full or batcher.micro_batch not in (1, 2):
            raise torch.OutOfMemoryError("CUDA out of memory.")

    batcher.within_memory(8, fits_two)
    assert sizes == [0, 0, 4, 2]


def test_parts_of_rows_are_halved_until_they_fit():
    def function(rows):
        if len(rows) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return rows

    parts = in_parts(function, torch.arange(11))
    assert torch.equal(torch.cat(parts), torch.arange(11))
    with pytest.raises(ZeroDivisionError):
        in_parts(lambda rows: 1 / 0, torch.arange(3))


# ---- saving ----


@pytest.mark.parametrize("value", ["none", "model"])
@pytest.mark.parametrize("lora", [0, 4])
def test_saving_allocates_nothing_on_the_device(cuda, tmp_path, lora, value):
    policy = make_policy(
        "tiny", tokenizer=Ids(), options=PolicyOptions(adapter=AdapterOptions.lora(lora), value=value), device="cuda"
    )
    for parameter in policy.trainable().values():
        parameter.data.add_(0.01)
    before = cuda.new_bytes
    policy.save_pretrained(tmp_path / "policy")
    assert cuda.new_bytes == before
    tokens, lengths, mask = torch.tensor([[3, 4, 5]]), torch.tensor([3]), torch.tensor([[False, True, True]])
    saved = load(tmp_path / "policy", tokenizer=Ids())
    expected = policy.score(tokens, lengths, mask, Sampling()).logprobs
    torch.testing.assert_close(saved.score(tokens, lengths, mask, Sampling()).logprobs, expected.cpu())


def test_a_copy_on_the_cpu_keeps_tied_weights_and_shares_nothing():
    lm = torch.nn.ModuleDict({"a": torch.nn.Linear(3, 3), "b": torch.nn.Linear(3, 3)})
    lm["b"].weight = lm["a"].weight
    lm.register_buffer("table", torch.ones(2))
    copied = float32_copy(lm)
    assert copied["b"].weight is copied["a"].weight
    with torch.no_grad():
        copied["a"].weight.zero_()
        copied.table.zero_()
    assert lm["a"].weight.any()
    assert lm.table.all()
