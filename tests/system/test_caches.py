import os
import stat
import tempfile
from pathlib import Path

import pytest
import torch

from zoobot.models import speed
from zoobot.models.tree import ZoobotTree
from zoobot.system import caches


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv(caches.COMPILED, "")  # so that it is put back
    monkeypatch.delenv(caches.COMPILED)
    return tmp_path / "cache" / "zoobot"


def chosen():
    caches.keep_compiled_privately()
    return Path(os.environ[caches.COMPILED])


def mode_of(folder):
    return stat.S_IMODE(folder.stat().st_mode)


def test_what_is_compiled_is_kept_in_a_folder_of_the_user_alone(home):
    assert chosen() == home / "compiled"
    assert mode_of(home / "compiled") == 0o700
    assert chosen() == home / "compiled"


def test_a_folder_that_others_could_write_to_is_closed_to_them(home):
    (home / "compiled").mkdir(parents=True)
    (home / "compiled").chmod(0o777)
    assert mode_of(chosen()) == 0o700


def test_a_folder_that_the_user_has_set_is_left(home, tmp_path, monkeypatch):
    monkeypatch.setenv(caches.COMPILED, str(tmp_path))
    assert chosen() == tmp_path
    assert not home.exists()


def test_the_choice_that_torch_makes_as_it_is_imported_is_replaced(home, monkeypatch):
    monkeypatch.setenv(caches.COMPILED, str(Path(tempfile.gettempdir(), "torchinductor_somebody")))
    assert chosen() == home / "compiled"


@pytest.mark.parametrize("fault", ["another user's", "a link", "a file", "no home"])
def test_a_folder_that_is_not_private_is_not_used(home, tmp_path, monkeypatch, fault):
    folder = home / "compiled"
    home.mkdir(parents=True)
    if fault == "another user's":
        monkeypatch.setattr(os, "getuid", lambda: 12345)
    elif fault == "a link":
        folder.symlink_to(tmp_path)
    elif fault == "a file":
        folder.write_text("")
    else:
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr(Path, "home", no_home)
    found = chosen()
    assert found.name.startswith("zoobot-compiled-")
    assert mode_of(found) == 0o700


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o755])
def test_a_folder_that_others_can_put_another_in_the_place_of_is_not_used(home, mode):
    home.mkdir(parents=True)
    home.parent.chmod(mode)
    is_open = mode == 0o777
    assert chosen().name.startswith("zoobot-compiled-") == is_open


def test_a_tree_that_is_compiled_as_it_is_made_is_kept_there_too(home, tree):
    ZoobotTree(schema=tree, architecture_name="test_resnet", compile_encoder=True)
    assert os.environ[caches.COMPILED] == str(home / "compiled")


def test_so_is_a_model_that_the_user_has_compiled(home, tree):
    model = ZoobotTree(schema=tree, architecture_name="test_resnet")
    model.encoder.compile()
    told = speed.set_up(model, torch.device("cpu"), torch.float32, "auto", 1, None, None)
    assert told == "; compiled as it was given"
    assert os.environ[caches.COMPILED] == str(home / "compiled")


def no_home():
    raise RuntimeError("Could not determine home directory.")
