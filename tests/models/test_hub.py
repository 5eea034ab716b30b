import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from small_models import (
    COMMIT,
    IMAGES,
    classifier,
    every_model,
    go_offline,
    put_on_hub,
    resnet,
    write_run,
)

import finetune
import predict
from zoobot.models import encoders
from zoobot.models.finetune import FinetuneableZoobotClassifier, FinetuneableZoobotRegressor
from zoobot.models.hub import is_model, model_file
from zoobot.predictions.files import read_predictions
from zoobot.predictions.models import ZoobotEncoder, load_predictor, view_of
from zoobot.predictions.predict import predict_to_file
from zoobot.runs import checkpoint


def as_json(seen):
    return json.dumps(seen.to_dict())


@pytest.fixture
def hub(tmp_path, monkeypatch):
    go_offline(monkeypatch, tmp_path / "home")
    return tmp_path / "home"


def test_every_model_is_saved_moved_and_loaded_from_the_hub_with_the_same_bits(tree, tmp_path, hub):
    for kind, model in every_model(tree).items():
        model.save_pretrained(tmp_path / "saved")
        name = put_on_hub(tmp_path / "saved", hub, f"someone/{kind}")
        moved = shutil.move(tmp_path / "saved", tmp_path / f"moved-{kind}")
        images = IMAGES[:, : model.channels]
        for source in (name, moved):
            again = type(model).load_from_checkpoint(source)
            assert torch.equal(again(images), model(images))
            assert as_json(again.images_seen) == as_json(model.images_seen)
        features = load_predictor(name, representations=True)(images)
        assert torch.equal(features, model.encoder(images))
    for source in (f"hf_hub:someone/classifier@{COMMIT}", f"local-dir:{tmp_path}/moved-classifier"):
        assert torch.equal(load_predictor(source)(IMAGES), classifier()(IMAGES))
    features = ZoobotEncoder.load_from_checkpoint("hf_hub:someone/classifier")(IMAGES)
    assert torch.equal(features, classifier().encoder(IMAGES))
    named = FinetuneableZoobotClassifier.load_from_name("someone/classifier")
    assert torch.equal(named(IMAGES), classifier()(IMAGES))


def test_the_script_predicts_offline_by_a_name_on_the_hub_as_by_a_runs_folder(
    tmp_path, hub, small_catalog
):
    model = classifier()
    model.save_pretrained(tmp_path / "saved")
    name = put_on_hub(tmp_path / "saved", hub)
    found = []
    for i, source in enumerate((name, write_run(model, tmp_path / "run"))):
        words = ["--checkpoint", source, "--catalog", small_catalog, "--num-workers", 0,
                 "--save-loc", tmp_path / f"{i}.csv", "--device", "cpu"]  # fmt: skip
        predict.main(predict.parse([*map(str, words)]))
        found.append((tmp_path / f"{i}.csv").read_text())
    assert found[0] == found[1]
    assert found[0].startswith("id_str,ring,none")


def test_the_environment_points_to_the_cache(tmp_path):
    classifier().save_pretrained(tmp_path / "saved")
    name = put_on_hub(tmp_path / "saved", tmp_path / "home")
    code = f"from zoobot.models.hub import model_file; print(model_file({name!r}))"
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, **offline}
    )
    assert done.stdout.strip().endswith(f"snapshots/{COMMIT}/model.safetensors")


def test_a_catalog_is_predicted_by_a_name_on_the_hub_as_by_the_model(tmp_path, hub, small_catalog):
    model = classifier()
    model.save_pretrained(tmp_path / "saved")
    name = put_on_hub(tmp_path / "saved", hub)
    options = {"num_workers": 0, "show_progress": False, "device": "cpu"}
    first = predict_to_file(small_catalog, model, tmp_path / "a.csv", **options)
    second = predict_to_file(small_catalog, name, tmp_path / "b.csv", **options)
    assert first.read_text() == second.read_text()
    assert read_predictions(first).columns == ["ring", "none"]
    assert view_of(load_predictor(name)).config.output_size == 32


def test_a_whole_model_gives_its_encoder_to_finetune(tmp_path, hub):
    model = classifier()
    model.save_pretrained(tmp_path / "saved")
    name = put_on_hub(tmp_path / "saved", hub)
    for source in ({"name": name}, {"zoobot_checkpoint_loc": name}):
        again = FinetuneableZoobotRegressor("mass", **source).eval()
        assert torch.equal(again.encoder(IMAGES), model.encoder(IMAGES))
        assert f"loaded from {name}" in again.introduce()
    with pytest.raises(ValueError, match="but hf_hub:someone/galaxies is a whole"):
        FinetuneableZoobotRegressor("mass", name=name, timm_kwargs={"drop_path_rate": 0.1})
    alone = encoders.load_pretrained_zoobot(name).eval()
    assert torch.equal(alone(IMAGES), model.encoder(IMAGES))


def test_a_runs_folder_stands_for_its_best_weights(tmp_path):
    model = classifier()
    write_run(model, tmp_path / "run")
    run = str(tmp_path / "run")
    assert torch.equal(load_predictor(run)(IMAGES), model(IMAGES))
    assert torch.equal(load_predictor(run, representations=True)(IMAGES), model.encoder(IMAGES))
    again = FinetuneableZoobotClassifier(2, zoobot_checkpoint_loc=run).eval()
    assert torch.equal(again.encoder(IMAGES), model.encoder(IMAGES))
    assert is_model(run)
    assert is_model(f"local-dir:{run}")


def test_a_folder_without_a_model_is_told(tmp_path):
    told = "holds no model: neither best.safetensors, .* nor model.safetensors"
    with pytest.raises(ValueError, match=told):
        load_predictor(str(tmp_path))


def test_an_encoder_without_a_head_is_told_from_a_model(tmp_path, hub):
    encoders.save_encoder(resnet(), tmp_path / "encoder")
    name = put_on_hub(tmp_path / "encoder", hub, "someone/encoder")
    for source in (name, f"local-dir:{tmp_path}/encoder", str(tmp_path / "encoder")):
        with pytest.raises(ValueError, match="holds no whole model, .* give it to finetune.py"):
            load_predictor(source)
    assert not is_model(name)
    features = load_predictor(name, representations=True)(IMAGES)
    assert torch.equal(features, resnet().eval()(IMAGES))


def test_a_name_of_timm_is_one_beside_a_folder_of_this_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "resnet18").mkdir()
    (tmp_path / "mine").mkdir()
    assert not is_model("resnet18")
    assert is_model("mine")


def test_a_model_that_is_not_in_the_cache_is_told_with_how_to_work_offline(hub):
    with pytest.raises(ValueError, match="'hf_hub:someone/none' can't be had: .* work offline"):
        model_file("hf_hub:someone/none")


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ("{", "JSONDecodeError"),
        ("[" * 100_000, "nested too deeply"),
        (" " * 2**25, "larger than the limit"),
        ('{"zoobot": []}', "holds no whole model"),
        ("[]", "holds no whole model"),
        (f'{{"zoobot": {"9" * 5000}}}', "can't be read"),
        ('{"zoobot": null}', "holds no whole model"),
    ],
)
def test_a_hostile_config_is_told(tmp_path, config, told):
    classifier().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ValueError, match=told):
        load_predictor(str(tmp_path))


def test_a_strangers_model_meets_the_bounds_of_any_checkpoint(tmp_path, hub):
    classifier().save_pretrained(tmp_path / "saved")
    weights, description = checkpoint.load_model(tmp_path / "saved" / "model.safetensors")
    description["encoder"]["timm_kwargs"] = {"layers": [9000] * 4}
    checkpoint.save_weights(tmp_path / "saved" / "model.safetensors", weights, description)
    name = put_on_hub(tmp_path / "saved", hub)
    with pytest.raises(ValueError, match="a model that can't be built: .* a model much"):
        load_predictor(name)


def test_no_pickle_is_looked_for_in_a_folder(tmp_path):
    classifier().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="holds no model"):
        load_predictor(str(tmp_path))


def test_config_repeats_what_the_weights_file_tells(tmp_path):
    classifier().save_pretrained(tmp_path)
    told = json.loads((tmp_path / "config.json").read_text())["zoobot"]
    described = checkpoint.load_model(tmp_path / "model.safetensors")[1]
    assert {k: v for k, v in described.items() if k != "format_version"} == {
        k: v for k, v in told.items() if k != "version"
    }


def test_finetune_takes_a_runs_folder_or_a_model_on_the_hub_as_its_encoder(tmp_path, hub):
    run = write_run(classifier(), tmp_path / "run")
    classifier().save_pretrained(tmp_path / "saved")
    for source in (str(run), put_on_hub(tmp_path / "saved", hub)):
        words = ["--catalog", "a.csv", "--label-col", "ring", "--encoder", source]
        arguments = finetune.encoder_arguments(finetune.parse(words))
        assert arguments == {"zoobot_checkpoint_loc": source, "fresh_stem": False}
        with pytest.raises(ValueError, match="--from-scratch needs a timm name"):
            finetune.encoder_arguments(finetune.parse([*words, "--from-scratch"]))
