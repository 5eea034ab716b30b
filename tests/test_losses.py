"""The fused Dirichlet-Multinomial loss against scipy, float64 and itself on other paths."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import digamma, gammaln
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from zoobot import losses, losses_cpu, losses_torch
from zoobot.losses import (
    CustomMultiQuestionLoss,
    dirichlet_multinomial_nll,
    get_dirichlet_loss_func,
    get_dirichlet_neg_log_prob,
)

ROOT = Path(__file__).resolve().parents[1]
ONE_CAMPAIGN = (3, 2, 2, 3, 5, 3, 3, 3, 6, 4)
UNION = ONE_CAMPAIGN * 3  # enough questions for the path that looks for the questions asked
SIZES = pytest.mark.parametrize("sizes", [ONE_CAMPAIGN, UNION], ids=["campaign", "union"])


def make_batch(sizes, batch_size=64, seed=0, max_votes=40, asked_frac=0.3):
    rng = np.random.default_rng(seed)
    asked = np.repeat(rng.random((batch_size, len(sizes))) < asked_frac, sizes, axis=1)
    counts = rng.integers(0, max_votes, asked.shape) * (rng.random(asked.shape) < 0.7) * asked
    x = 1 + 100 * rng.random(asked.shape, dtype=np.float32)
    return torch.from_numpy(x), torch.from_numpy(counts)


def reference(x, counts, sizes):
    """Loss (B, Q) and its gradient summed over questions (B, A), by scipy in float64."""
    x, n = np.asarray(x, np.float64), np.asarray(counts, np.float64)
    starts = np.cumsum((0, *sizes[:-1]))
    x_sum, n_sum = np.add.reduceat(x, starts, axis=1), np.add.reduceat(n, starts, axis=1)
    answers = gammaln(x + n) - gammaln(x) - gammaln(n + 1)
    totals = gammaln(x_sum + n_sum) - gammaln(x_sum) - gammaln(n_sum + 1)
    gradient = np.repeat(digamma(x_sum + n_sum) - digamma(x_sum), sizes, axis=1)
    gradient -= digamma(x + n) - digamma(x)
    return totals - np.add.reduceat(answers, starts, axis=1), gradient


def loss_and_gradient(x, counts, sizes):
    x = x.detach().clone().requires_grad_()
    loss = dirichlet_multinomial_nll(x, counts, sizes)
    loss.sum().backward()
    return loss.detach(), x.grad


def votes_file():
    folder = os.environ.get("ZOOBOT_TEST_DATA", ROOT.parent / "shared" / "data")
    return Path(folder) / "decals_votes.csv"


def head_output(shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 1 + 100 * torch.sigmoid(2 * torch.randn(shape, generator=generator))


@SIZES
def test_loss_and_gradient_agree_with_scipy(sizes):
    x, counts = make_batch(sizes)
    loss, gradient = loss_and_gradient(x, counts, sizes)
    expected_loss, expected_gradient = reference(x, counts, sizes)
    assert loss.dtype == torch.float32
    np.testing.assert_allclose(loss, expected_loss, atol=1e-4, rtol=0)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-5, atol=1e-8)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=24).map(tuple),
    batch_size=st.integers(0, 5),
    max_votes=st.sampled_from([1, 3, 60]),
    scale=st.sampled_from([0.01, 1.0, 100.0, 1e4]),
    seed=st.integers(0, 1000),
)
def test_any_tree_agrees_with_scipy(sizes, batch_size, max_votes, scale, seed):
    x, counts = make_batch(sizes, batch_size, seed, max_votes, asked_frac=0.6)
    x = x / 101 * scale + 1e-3
    loss, gradient = loss_and_gradient(x, counts, sizes)
    assert loss.shape == (batch_size, len(sizes))
    if batch_size:
        expected_loss, expected_gradient = reference(x, counts, sizes)
        np.testing.assert_allclose(loss, expected_loss, atol=1e-4, rtol=1e-6)
        np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-5, atol=2e-6)


def test_real_votes_agree_with_float64():
    if not votes_file().exists():
        pytest.skip(f"no real votes at {votes_file()}: set ZOOBOT_TEST_DATA to their folder")
    votes = pd.read_csv(votes_file(), index_col="id_str")
    questions = votes.columns.str.partition("_").get_level_values(0)
    sizes = tuple(questions.value_counts(sort=False))
    assert list(questions) == list(np.repeat(questions.unique(), sizes))
    counts, x = torch.tensor(votes.to_numpy()), head_output(votes.shape)
    loss, gradient = loss_and_gradient(x, counts, sizes)
    expected_loss, expected_gradient = reference(x, counts, sizes)
    np.testing.assert_allclose(loss, expected_loss, atol=1e-4, rtol=0)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-5, atol=1e-8)


@SIZES
def test_gradcheck_in_float64(sizes):
    x, counts = make_batch(sizes, batch_size=3)
    x = x.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: dirichlet_multinomial_nll(x, counts, sizes), x)


@SIZES
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_votes_give_exactly_zero_loss_and_gradient(sizes, dtype):
    x, counts = make_batch(sizes, asked_frac=0.5)
    loss, gradient = loss_and_gradient(x.to(dtype), counts, sizes)
    totals = np.add.reduceat(counts.numpy(), np.cumsum((0, *sizes[:-1])), axis=1)
    unasked = torch.from_numpy(totals == 0)
    assert unasked.any()
    assert (loss[unasked] == 0).all()
    assert (gradient[unasked.repeat_interleave(torch.tensor(sizes), 1)] == 0).all()


def assert_near_in_float32(found, expected):
    """The errors that float32 throughout may have, with fewer than 40 votes an answer."""
    largest = np.abs(expected[1]).max()
    np.testing.assert_allclose(found[0], expected[0], atol=1.5e-4, rtol=0)
    np.testing.assert_allclose(found[1], expected[1], atol=5e-7 * largest, rtol=0)


@SIZES
def test_float32_without_float64_agrees_with_scipy(sizes):
    x, counts = make_batch(sizes)
    loss, gradient, _ = losses_torch.evaluate(x, counts, sizes, True)
    assert_near_in_float32((loss, gradient), reference(x, counts, sizes))
    assert torch.equal(losses_torch.evaluate(x, counts, sizes, False)[0], loss)


@pytest.mark.parametrize("max_votes", [1, 20, 1e3, 1e6])
@pytest.mark.parametrize("x_range", [(1e-6, 1e-3), (1e-3, 1), (1, 101), (100, 1e3), (1e4, 1e6)])
def test_terms_in_float32_have_no_cancellation(x_range, max_votes):
    rng = np.random.default_rng(0)
    x = np.exp(rng.uniform(*np.log(x_range), 2000)).astype(np.float32)
    n = np.floor(np.exp(rng.uniform(0, np.log(max_votes), 2000))).astype(np.float32)
    n[::7] += 0.5
    f, g = losses_torch._terms32(torch.from_numpy(x), torch.from_numpy(n), True)
    x, n = x.astype(np.float64), n.astype(np.float64)
    size = 10 + x * np.log1p(n / x) + n * np.log1p(x / n) + 4 * np.log1p(n)
    error = np.abs(f.numpy() - (gammaln(x + n) - gammaln(x) - gammaln(n + 1)))
    assert (error / size).max() < 3e-7
    np.testing.assert_allclose(g, digamma(x + n) - digamma(x), rtol=5e-7)


@SIZES
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
def test_in_float32_galaxies_do_not_touch_each_other_and_no_votes_give_zero(sizes, value):
    x, counts = make_batch(sizes, asked_frac=0.5)
    clean = losses_torch.evaluate(x, counts, sizes, True)
    totals = losses_torch._sum_answers(counts, losses_torch.question_tensors(sizes, x)[0])
    unasked = totals == 0
    assert unasked.any()
    assert not clean[0][unasked].any()
    assert not clean[1][unasked.repeat_interleave(torch.tensor(sizes), 1)].any()
    spoilt = x.clone()
    spoilt[5] = value
    loss, gradient, _ = losses_torch.evaluate(spoilt, counts, sizes, True)
    others = torch.arange(len(x)) != 5
    assert not loss[5].isfinite().all()
    assert torch.equal(loss[others], clean[0][others])
    assert torch.equal(gradient[others], clean[1][others])


class SeenTypes(TorchDispatchMode):
    """Notes the types of all tensors that operations make."""

    def __init__(self):
        super().__init__()
        self.types = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.types.add(tensor.dtype)
        return result


@pytest.mark.parametrize("votes", [torch.int64, torch.float32])
def test_on_other_devices_float32_stays_float32(votes):
    losses_torch._question_tensors.cache_clear()
    x = torch.ones(4, 5, device="meta", requires_grad=True)  # stands for a device without float64
    with SeenTypes() as seen:
        loss = dirichlet_multinomial_nll(x, torch.ones(4, 5, dtype=votes, device="meta"), (2, 3))
        loss.sum().backward()
    assert torch.float32 in seen.types
    assert torch.float64 not in seen.types


@SIZES
def test_fractions_of_votes_count(sizes):
    x, counts = make_batch(sizes)
    counts = counts * 0.75
    loss, gradient = loss_and_gradient(x, counts, sizes)
    expected_loss, expected_gradient = reference(x, counts, sizes)
    np.testing.assert_allclose(loss, expected_loss, atol=1e-4, rtol=0)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-5, atol=1e-8)


@SIZES
def test_cpu_paths_agree(sizes):
    x, counts = make_batch(sizes)
    loss, gradient = losses_cpu._evaluate_voted(x.numpy(), counts.numpy(), sizes, True)
    found, compact, _, cells = losses_cpu._evaluate_asked(x.numpy(), counts.numpy(), sizes, True)
    scattered = np.zeros(x.shape, np.float32)
    scattered.ravel()[cells] = compact
    np.testing.assert_allclose(found, loss, atol=1e-6, rtol=1e-6)
    np.testing.assert_allclose(scattered, gradient, rtol=1e-6, atol=1e-8)


@SIZES
def test_negative_or_missing_votes_give_no_finite_loss(sizes):
    for wrong in (-1.0, float("nan")):
        x, counts = make_batch(sizes, asked_frac=1.0)
        counts = counts.float()
        counts[3] = wrong
        loss, _ = loss_and_gradient(x, counts, sizes)
        assert not loss[3].isfinite().any()
        assert loss[4:].isfinite().all()


@SIZES
def test_batches_above_the_chunk_size_equal_their_parts(sizes, monkeypatch):
    x, counts = make_batch(sizes, batch_size=50)
    whole = loss_and_gradient(x, counts, sizes)
    monkeypatch.setattr(losses_cpu, "GALAXIES_AT_A_TIME", 16)
    monkeypatch.setattr(losses_cpu, "CELLS_AT_A_TIME", 100)
    losses_cpu._union_tables.cache_clear()
    parts = loss_and_gradient(x, counts, sizes)
    losses_cpu._union_tables.cache_clear()
    torch.testing.assert_close(parts, whole)


@SIZES
def test_weights_on_galaxies_and_questions_scale_the_gradient(sizes):
    x, counts = make_batch(sizes)
    weights = torch.rand(len(x), len(sizes), generator=torch.Generator().manual_seed(1))
    x.requires_grad_()
    (dirichlet_multinomial_nll(x, counts, sizes) * weights).sum().backward()
    expected = reference(x.detach(), counts, sizes)[1] * np.repeat(weights.numpy(), sizes, axis=1)
    np.testing.assert_allclose(x.grad, expected, rtol=1e-5, atol=1e-7)


@SIZES
def test_votes_of_any_dtype_and_layout_give_the_same_loss(sizes):
    x, counts = make_batch(sizes)
    expected = loss_and_gradient(x, counts, sizes)
    for dtype in (torch.uint8, torch.int16, torch.int32, torch.float32, torch.bfloat16):
        torch.testing.assert_close(loss_and_gradient(x, counts.to(dtype), sizes), expected)
    strided = x.t().contiguous().t(), counts.t().contiguous().t()
    torch.testing.assert_close(loss_and_gradient(*strided, sizes), expected)


@SIZES
def test_bfloat16_autocast_stays_near_float64(sizes):
    _, counts = make_batch(sizes)
    logits = 2 * torch.randn(counts.shape, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = dirichlet_multinomial_nll(1 + 100 * logits.float().sigmoid(), counts, sizes)
    expected, _ = reference(1 + 100 * logits.double().sigmoid(), counts, sizes)
    assert loss.dtype == torch.float32
    np.testing.assert_allclose(loss, expected, atol=0.05, rtol=0)


@SIZES
def test_half_precision_concentrations_are_computed_in_float32(sizes):
    x, counts = make_batch(sizes)
    x = x.bfloat16().requires_grad_()
    loss = dirichlet_multinomial_nll(x, counts, sizes)
    loss.sum().backward()
    assert (loss.dtype, x.grad.dtype) == (torch.float32, torch.bfloat16)
    torch.testing.assert_close(loss, dirichlet_multinomial_nll(x.detach().float(), counts, sizes))


@SIZES
def test_hundred_thousand_votes_stay_exact(sizes):
    x, counts = make_batch(sizes, max_votes=100_000)
    loss, gradient = loss_and_gradient(x, counts, sizes)
    expected_loss, expected_gradient = reference(x, counts, sizes)
    np.testing.assert_allclose(loss, expected_loss, atol=1e-4, rtol=1e-6)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-5, atol=1e-7)


@SIZES
def test_nan_concentrations_spoil_only_their_own_galaxy(sizes):
    x, counts = make_batch(sizes, asked_frac=1.0)
    clean, _ = loss_and_gradient(x, counts, sizes)
    x[5] = float("nan")
    loss, gradient = loss_and_gradient(x, counts, sizes)
    others = torch.arange(len(x)) != 5
    assert loss[5].isnan().any()
    assert gradient[others].isfinite().all()
    torch.testing.assert_close(loss[others], clean[others])


@SIZES
def test_without_gradients_the_loss_is_the_same(sizes):
    x, counts = make_batch(sizes)
    expected, _ = loss_and_gradient(x, counts, sizes)
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            loss = dirichlet_multinomial_nll(x, counts, sizes)
        assert not loss.requires_grad
        assert torch.equal(loss, expected)


@SIZES
def test_empty_batches_and_batches_without_votes_work(sizes):
    for batch_size in (0, 4):
        x = torch.ones(batch_size, sum(sizes))
        loss, gradient = loss_and_gradient(x, torch.zeros_like(x, dtype=torch.int64), sizes)
        assert loss.shape == (batch_size, len(sizes))
        assert gradient.shape == x.shape
        assert not loss.any()
        assert not gradient.any()


def test_torch_compile_gives_the_eager_loss():
    if shutil.which("g++") is None:
        pytest.skip("torch.compile needs a C++ compiler")
    sizes = (3, 2)
    x, counts = make_batch(sizes, asked_frac=0.7)
    compiled = torch.compile(
        lambda x: dirichlet_multinomial_nll(x, counts, sizes), fullgraph=True, dynamic=False
    )
    expected_loss, expected_gradient = loss_and_gradient(x, counts, sizes)
    x.requires_grad_()
    loss = compiled(x)
    loss.sum().backward()
    assert_near_in_float32(
        (loss.detach(), x.grad), (expected_loss.numpy(), expected_gradient.numpy())
    )


def test_the_gpu_path_can_be_traced_without_a_gpu():
    with FakeTensorMode():
        x, counts = torch.ones(4, 5, device="cuda"), torch.ones(4, 5, device="cuda")
        loss = dirichlet_multinomial_nll(x, counts, (2, 3))
        trained = dirichlet_multinomial_nll(x.requires_grad_(), counts, (2, 3))
    assert (loss.shape, loss.dtype, loss.device.type) == ((4, 2), torch.float32, "cuda")
    assert (trained.shape, trained.requires_grad) == ((4, 2), True)


KERNEL_IN_INTERPRETER = """
import torch
from zoobot import losses_torch, losses_triton

torch.manual_seed(0)
sizes = (3, 1, 4, 2, 2, 3, 5)  # 84 questions of 12 galaxies: not a multiple of a program's 32
x, counts = 1 + 100 * torch.rand(12, 20), torch.randint(0, 20, (12, 20))
counts[:, 4:8] = 0
wanted = losses_torch.evaluate(x.double(), counts, sizes, True)
for votes in (torch.int64, torch.uint8, torch.float32):
    loss, gradient = losses_triton.launch(x, counts.to(votes), sizes, True)
    torch.testing.assert_close(loss.double(), wanted[0], atol=1e-4, rtol=0)
    torch.testing.assert_close(gradient.double(), wanted[1], atol=1e-6, rtol=0)
assert not loss[:, 2].any()
assert not gradient[:, 4:8].any()
assert torch.equal(losses_triton.evaluate(x, counts, sizes, False)[0], loss)
x[5] = float("nan")
spoilt = losses_triton.launch(x, counts, sizes, True)
others = torch.arange(len(x)) != 5
assert spoilt[0][5].isnan().any()
assert torch.equal(spoilt[0][others], loss[others])
assert torch.equal(spoilt[1][others], gradient[others])
losses_triton.launch(x[:0], counts[:0], sizes, True)
"""

KERNEL_FOR_CARDS = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from zoobot import losses_triton

floats = {f"{name}_start": "*fp32" for name in ("x", "counts", "places", "loss", "gradient")}
numbers = ("num_slots", "num_answers", "num_questions")
constants = {"largest_question": 8, "block_size": 32, "need_grad": True}
for card, votes in ((75, "*i64"), (90, "*fp32")):
    signature = {
        **floats, "counts_start": votes, "places_start": "*i64",
        **dict.fromkeys(numbers, "i32"), **dict.fromkeys(constants, "constexpr"),
    }
    source = ASTSource(losses_triton._kernel, signature, constexprs=constants)
    target = GPUTarget("cuda", card, 32)
    assert triton.compile(source, target=target, options={"num_warps": 1}).asm["cubin"]
"""


@pytest.mark.parametrize(
    ("code", "interpret"),
    [(KERNEL_IN_INTERPRETER, "1"), (KERNEL_FOR_CARDS, "0")],
    ids=["interpreted", "compiled"],
)
def test_the_kernel_for_gpus(code, interpret, tmp_path):
    pytest.importorskip("triton")
    changes = {
        "PYTHONPATH": str(ROOT),
        "TRITON_INTERPRET": interpret,
        "TRITON_CACHE_DIR": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**os.environ, **changes},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("failure", ["raises", "is wrong"])
def test_a_kernel_that_fails_is_replaced_and_told(failure, monkeypatch):
    losses_triton = pytest.importorskip("zoobot.losses_triton")
    x, counts = make_batch(ONE_CAMPAIGN)

    def launch(x, counts, sizes, need_grad):
        if failure == "raises":
            raise RuntimeError("no compiler\nlong story")
        return tuple(t * 1.01 for t in losses_torch.evaluate(x, counts, sizes, need_grad)[:2])

    monkeypatch.setattr(losses_triton, "launch", launch)
    losses_triton._is_right.cache_clear()
    reason = "no compiler" if failure == "raises" else "off by"
    with pytest.warns(UserWarning, match=rf"does not work on cpu \(.*{reason}"):
        loss, gradient, _ = losses_triton.evaluate(x, counts, ONE_CAMPAIGN, True)
    losses_triton._is_right.cache_clear()
    expected = losses_torch.evaluate(x, counts, ONE_CAMPAIGN, True)
    assert torch.equal(loss, expected[0])
    assert torch.equal(gradient, expected[1])


def test_documented_fronts_equal_the_core():
    pairs = {"smooth": ["_yes", "_no"], "bar": ["_strong", "_weak", "_no"]}
    x, counts = make_batch((2, 3), asked_frac=0.7)
    expected = dirichlet_multinomial_nll(x, counts, (2, 3))
    names = ["smooth_yes", "smooth_no", "bar_strong", "bar_weak", "bar_no"]
    columns = dict(zip(names, counts.unbind(1), strict=True))
    loss = get_dirichlet_loss_func(pairs)
    assert torch.equal(loss(x, counts), expected)
    assert torch.equal(loss(x, columns), expected)
    assert torch.equal(loss(x, {**columns, "id_str": ["a"]}), expected)
    torch.testing.assert_close(get_dirichlet_neg_log_prob(x[:, 2:], counts[:, 2:]), expected[:, 1])
    summed = CustomMultiQuestionLoss(pairs, get_dirichlet_neg_log_prob, sum_over_questions=True)
    torch.testing.assert_close(summed(x, columns), expected.sum(1))
    own = CustomMultiQuestionLoss(pairs, lambda a, n: get_dirichlet_neg_log_prob(a, n))
    torch.testing.assert_close(own(x, columns), expected)


def test_careful_names_the_galaxy_whose_loss_is_not_finite():
    x, counts = make_batch((2, 3), asked_frac=1.0)
    x[7] = float("nan")
    with pytest.raises(ValueError, match=r"galaxies \[7\]"):
        CustomMultiQuestionLoss({"a": "xy", "b": "xyz"}, careful=True)(x, counts)


def test_misuse_names_the_value_and_the_cure():
    x, counts = make_batch((2, 3))
    with pytest.raises(ValueError, match="same shape"):
        dirichlet_multinomial_nll(x, counts[:, :4], (2, 3))
    with pytest.raises(ValueError, match="add up to 6, but there are 5 answers"):
        dirichlet_multinomial_nll(x, counts, (2, 4))
    with pytest.raises(ValueError, match="pass a floating tensor"):
        dirichlet_multinomial_nll(counts, counts, (2, 3))
    with pytest.raises(ValueError, match=r"labels lack 5 .*'a_x'"):
        get_dirichlet_loss_func({"a": ["_x", "_y"], "b": ["_1", "_2", "_3"]})(x, {})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@SIZES
def test_cuda_agrees_with_scipy_without_host_synchronisation(sizes):
    x, counts = make_batch(sizes)
    expected_loss, expected_gradient = reference(x, counts, sizes)
    x, counts = x.cuda().requires_grad_(), counts.cuda()
    dirichlet_multinomial_nll(x, counts, sizes)  # fills the caches
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss = dirichlet_multinomial_nll(x, counts, sizes)
        loss.sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert_near_in_float32((loss.detach().cpu(), x.grad.cpu()), (expected_loss, expected_gradient))


def test_benchmark_runs(tmp_path):
    out = tmp_path / "loss.json"
    subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "bench_loss.py", "--smoke", "--out", out],
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
    )
    result = json.loads(out.read_text())
    assert result["machine"]["versions"]["torch"] == torch.__version__
    assert result["cases"][0]["forward_backward"]["ratio"] > 0


def test_a_loss_first_asked_for_in_inference_can_be_trained_with_afterwards():
    losses_torch._question_tensors.cache_clear()
    concentrations, counts = torch.rand(4, 5) + 1, torch.randint(0, 9, (4, 5))
    with torch.inference_mode():
        expected = losses.dirichlet_multinomial_nll(concentrations, counts, (2, 3))
    trained = concentrations.clone().requires_grad_()
    found = losses.dirichlet_multinomial_nll(trained, counts, (2, 3))
    found.sum().backward()
    assert torch.equal(found.detach(), expected)
    assert torch.isfinite(trained.grad).all()
