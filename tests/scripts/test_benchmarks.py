import argparse
import json
import sys

import bench_common
import bench_loader
import bench_predict
import bench_train
import gpu
import pytest
import torch

from zoobot.data import dataset

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
    return gpu.Bench(bench_common.settle(args, {}, {}, bench_common.SMOKE), tmp_path)


def test_loaders_are_timed_beside_the_peer(fake_peer, capsys):
    rows = bench_loader.main(["--smoke", *fake_peer])
    assert len(rows) == 8
    assert all(row["images_per_s"] > 0 for row in rows)
    peer = {row["case"]: row["times_peer"] for row in rows if row["peer_images_per_s"] == 10}
    assert peer == {bench_loader.ALIKE: pytest.approx(rows[0]["images_per_s"] / 10, abs=0.01)}
    assert all("of a worker's" in row["limit"] for row in rows)
    assert sum(row["times_one_label"] is not None for row in rows) == 2
    table = capsys.readouterr().out.splitlines()
    assert table[0].startswith("| case | images per s |")
    assert len(table) == 10


@pytest.mark.parametrize("data", ["files", "raw"])
def test_training_is_timed_end_to_end_and_on_the_device(data):
    (row,) = bench_train.main(["--smoke", "--data", data])
    ratio = row["end_to_end_images_per_s"] / row["on_device_images_per_s"]
    assert row["starvation"] == pytest.approx(ratio, rel=0.02)
    assert row["share_of_matmul"] > 0
    assert "times_peer" in row
    assert row["times_peer"] is None


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


def test_the_gpu_benchmark_runs_on_a_cpu(capsys):
    rows = gpu.main(["--smoke"])
    told = capsys.readouterr().out
    assert told.count("right: ") == len(gpu.CHECKS)
    assert told.count("timed: ") == len(gpu.SPEEDS)
    assert "skipped" not in told
    assert all(row["value"] > 0 for row in rows if "value" in row)


def test_parts_for_which_no_time_is_left_are_skipped_and_named(capsys):
    assert gpu.main(["--smoke", "--minutes", "0"]) == []
    assert capsys.readouterr().out.count("skipped: ") == len(gpu.CHECKS) + len(gpu.SPEEDS)


def test_a_wrong_loss_ends_the_gpu_benchmark_with_a_line(capsys, monkeypatch):
    right = gpu.dirichlet_multinomial_nll
    monkeypatch.setattr(gpu, "dirichlet_multinomial_nll", lambda *a: right(*a) * 1.001)
    with pytest.raises(SystemExit) as stopped:
        gpu.main(["--smoke"])
    assert stopped.value.code == 1
    assert "WRONG: loss: " in capsys.readouterr().out


def test_a_state_without_its_optimizer_is_found(bench, monkeypatch):
    gpu.check_resume(bench)
    monkeypatch.setattr(torch.optim.AdamW, "load_state_dict", lambda *a: None)
    with pytest.raises(gpu.Wrong, match="weights of a resumed run"):
        gpu.check_resume(gpu.Bench(bench.args, bench.folder / "again"))


def test_wrong_views_are_found(bench, monkeypatch):
    right, calls = dataset.warp, []

    def second_call_is_off(*args):
        calls.append(1)
        return right(*args) + 0.002 * (len(calls) - 1)

    monkeypatch.setattr(dataset, "warp", second_call_is_off)
    with pytest.raises(gpu.Wrong, match="device views"):
        gpu.check_views(bench)


@pytest.mark.parametrize("got", [[1.0, float("nan")], [1.0, 2.1], [1.0]])
def test_values_that_differ_are_found(got):
    with pytest.raises(gpu.Wrong, match="thing"):
        gpu.compare("thing", torch.tensor(got), torch.tensor([1.0, 2.0]), 0.01, 0.01)


def test_cases_are_called_in_turn_and_medians_taken():
    figures = {"a": iter([0, 1, 9, 5]), "b": iter([2, 2, 4])}
    calls = []

    def case(name):
        calls.append(name)
        return next(figures[name])

    cases = {name: lambda name=name: case(name) for name in figures}
    assert bench_common.alternate(cases, 3, fresh=["b"]) == {"a": 5, "b": 2}
    assert "".join(calls) == "aababab"
