"""Time the Dirichlet-Multinomial loss against a plain loop over questions.

    python benchmarks/bench_loss.py
    python benchmarks/bench_loss.py --device cuda --batch-sizes 4096 --out loss_cuda.json

The loop is what users write: ``torch.lgamma``, one question at a time, gradients by autograd. Both
run in turn, one call of each, so that each finds the caches of the other, on the same votes: each
galaxy belongs to one campaign, 80% of whose questions it was asked, with some answers left without
votes. Minima: what the work takes by itself, whatever else runs. With one thread
(``OMP_NUM_THREADS=1``) on a CPU, the clock is that of the processor, which stops while other
programs run; with several, threads wait for each other, the loop's most of all, and on a busy
machine the ratios mean nothing. Freed memory is kept, as the scripts keep it.
"""

import argparse
import json
import os
import time
from pathlib import Path

import torch

from zoobot.losses import dirichlet_multinomial_nll
from zoobot.runs.environment import environment
from zoobot.schemas import get_schema
from zoobot.system.memory import keep_freed_memory

TREES = ("decals_dr5_ortho_schema", "gz_evo_v1_schema", "gz_evo_v2_schema")
ASKED_FRAC, VOTED_FRAC, MAX_VOTES = 0.8, 0.7, 20


def make_batch(schema, batch_size: int, device: str):
    """Concentrations (B, A) float32 in (1, 101) and votes (B, A) int64."""
    generator = torch.Generator().manual_seed(0)
    num_questions, num_answers = len(schema.question_sizes), sum(schema.question_sizes)
    campaigns = list(schema.campaigns.values()) or [list(range(num_questions))]
    member = torch.zeros(len(campaigns), num_questions, dtype=torch.bool)
    for row, questions in zip(member, campaigns, strict=True):
        row[questions] = True
    campaign = torch.randint(len(campaigns), (batch_size,), generator=generator)
    draw = torch.rand(batch_size, num_questions, generator=generator)
    asked = (member[campaign] & (draw < ASKED_FRAC))[:, schema.question_of_answer]
    voted = torch.rand(batch_size, num_answers, generator=generator) < VOTED_FRAC
    counts = torch.randint(1, MAX_VOTES, (batch_size, num_answers), generator=generator)
    concentrations = 1 + 100 * torch.rand(batch_size, num_answers, generator=generator)
    return concentrations.to(device).requires_grad_(), (counts * asked * voted).to(device)


def loop_over_questions(concentrations, counts, question_sizes):
    """The same loss (B, Q), one question at a time."""
    losses = []
    questions = zip(
        concentrations.split(question_sizes, 1), counts.split(question_sizes, 1), strict=True
    )
    for a, votes in questions:
        n = votes.to(a.dtype)
        a_sum, n_sum = a.sum(1), n.sum(1)
        log_coefficient = torch.lgamma(n_sum + 1) - torch.lgamma(n + 1).sum(1)
        log_ratio = (torch.lgamma(a + n) - torch.lgamma(a)).sum(1)
        nll = torch.lgamma(a_sum + n_sum) - torch.lgamma(a_sum) - log_ratio - log_coefficient
        losses.append(torch.where(n_sum == 0, 0, nll))
    return torch.stack(losses, 1)


def time_alternating(functions: dict, repeats: int, device: str) -> dict[str, float]:
    """The fewest milliseconds a call of each function took, one call of each in turn."""
    alone = device == "cpu" and torch.get_num_threads() == 1
    clock = time.thread_time if alone else time.perf_counter
    seconds = {name: [] for name in functions}
    for repeat in range(repeats + 2):  # the first two warm up
        for name, function in functions.items():
            if device == "cuda":
                torch.cuda.synchronize()
            start = clock()
            function()
            if device == "cuda":
                torch.cuda.synchronize()
            if repeat >= 2:
                seconds[name].append(clock() - start)
    return {name: 1e3 * min(values) for name, values in seconds.items()}


def run_case(name: str, batch_size: int, repeats: int, device: str) -> dict:
    """Time one tree at one batch size."""
    schema = get_schema(name)
    sizes = schema.question_sizes
    x, counts = make_batch(schema, batch_size, device)

    def forward(loss):
        with torch.no_grad():
            loss(x, counts, sizes)

    def step(loss):
        x.grad = None
        loss(x, counts, sizes).sum(1).mean().backward()

    losses = {"ours": dirichlet_multinomial_nll, "loop": loop_over_questions}
    case = {
        "tree": name,
        "questions": len(sizes),
        "answers": sum(sizes),
        "batch_size": batch_size,
        "zeros_frac": float((counts == 0).float().mean()),
    }
    for what, work in (("forward", forward), ("forward_backward", step)):
        calls = {who: (lambda work=work, loss=loss: work(loss)) for who, loss in losses.items()}
        ms = time_alternating(calls, repeats, device)
        case[what] = {
            "ours_ms": round(ms["ours"], 4),
            "loop_ms": round(ms["loop"], 4),
            "ratio": round(ms["loop"] / ms["ours"], 2),
        }
    return case


def describe_machine(device: str, load_at_start: float) -> dict:
    """Versions, processor, threads, commit: what the figures depend on."""
    return {
        **environment(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_at_start": round(load_at_start, 2),
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
    }


def bound(device: str) -> str:
    if device == "cuda":
        return "starting the kernels and autograd in Python; on the device, float32 arithmetic"
    return (
        "small batches: about 80 calls on small arrays, 2 to 3 microseconds each; large ones: "
        "float64 arithmetic on the answers with votes (some 15 ns each, loss and gradient), then "
        "finding and indexing them"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[128, 1024, 8192])
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--out", type=Path, default=None, help="JSON file")
    parser.add_argument("--smoke", action="store_true", help="one small case, to see that it runs")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device here: use --device cpu")
    keep_freed_memory()
    trees, batch_sizes, repeats = TREES, args.batch_sizes, args.repeats
    if args.smoke:
        trees, batch_sizes, repeats = TREES[:1], [8], 2
    load = os.getloadavg()[0]
    if load > 0.5 and torch.get_num_threads() > 1:
        print(f"warning: load {load:.1f} before the start: ratios with several threads mislead")
    cases = []
    print(
        "questions/answers  batch  zeros   ours ms (loop ms, ratio):   forward    forward+backward"
    )
    for name in trees:
        for batch_size in batch_sizes:
            case = run_case(name, batch_size, repeats, args.device)
            cases.append(case)
            f, fb = case["forward"], case["forward_backward"]
            print(
                f"{case['questions']:>9}/{case['answers']:<7} {batch_size:>6}  "
                f"{case['zeros_frac']:>4.0%}  "
                f"{f['ours_ms']:8.3f} ({f['loop_ms']:8.3f}, {f['ratio']:5.1f}x)   "
                f"{fb['ours_ms']:8.3f} ({fb['loop_ms']:8.3f}, {fb['ratio']:5.1f}x)",
                flush=True,
            )
    print(f"bound by: {bound(args.device)}")
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        result = {
            "device": args.device,
            "repeats": repeats,
            "machine": describe_machine(args.device, load),
            "bound_by": bound(args.device),
            "cases": cases,
        }
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
