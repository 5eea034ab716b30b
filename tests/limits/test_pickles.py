"""A file of torch.save is read if torch makes nothing large or odd of it."""

import io
import pickle
import zipfile

import pytest
import torch
from hostile_files import refused

from zoobot.limits.pickles import MOST_MEMBERS, check_pickle, check_torch_file
from zoobot.runs import checkpoint
from zoobot.system.errors import UserError


def saved(content=None, **options):
    buffer = io.BytesIO()
    torch.save({"format_version": 1, "model": content}, buffer, **options)
    return buffer.getvalue()


def with_pickle(content):
    """A file of torch.save with another pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/data/0", bytes(16))
    return buffer.getvalue()


class Called:
    """Pickled, a call of something with arguments."""

    def __init__(self, *called):
        self.called = called

    def __reduce__(self):
        return self.called[0], self.called[1:]


def test_what_training_saves_is_accepted(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.rand(4, 3)).sum().backward()
    optimizer.step()
    half = {n: x.bfloat16() for n, x in model.state_dict().items()}
    others = [torch.Size((1, 2)), {"a"}, torch.device("cpu"), torch.float32, None, 10**30, 0.5, "é"]
    states = [model.state_dict(), optimizer.state_dict(), half, list(model.parameters()), others]
    torch.save(states, tmp_path / "a.ckpt")
    with open(tmp_path / "a.ckpt", "rb") as file:
        assert check_torch_file(file) == []
    (tmp_path / "b.ckpt").write_bytes(with_pickle(pickle.dumps({"a": 1}, protocol=2)))
    with open(tmp_path / "b.ckpt", "rb") as file:
        assert check_torch_file(file) == []


def hidden(content):
    return content + b"PK\5\6" + bytes(18)


def two_ends(content):
    """The records of a large archive name another list of members than the last record does."""
    place = content.rindex(b"PK\6\6")
    return content[: place + 48] + (7).to_bytes(8, "little") + content[place + 56 :]


ARCHIVES = {
    "pickle": lambda: pickle.dumps({"format_version": 1}),
    "old": lambda: saved(_use_new_zipfile_serialization=False),
    "cut": lambda: saved()[:-9],
    "comment": lambda: saved() + b"x",
    "hidden": lambda: hidden(saved()),
    "ends": lambda: two_ends(saved()),
    "nothing": lambda: b"",
    "short": lambda: b"PK\3\4",
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_an_archive_that_readers_may_read_in_two_ways_is_refused(tmp_path, name):
    (tmp_path / "a.ckpt").write_bytes(ARCHIVES[name]())
    told = refused(lambda: checkpoint.load_checkpoint(tmp_path / "a.ckpt"), "a.ckpt")
    assert "weights_only" not in told


def test_an_archive_of_too_many_members_is_refused(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a/data.pkl", b"")
    content = bytearray(buffer.getvalue())
    end = content.rindex(b"PK\5\6")
    (tmp_path / "a.ckpt").write_bytes(content)
    assert "pickle" in refused(lambda: checkpoint.load_checkpoint(tmp_path / "a.ckpt"), "a.ckpt")
    content[end + 10 : end + 12] = b"\xff\xfe"
    assert MOST_MEMBERS > 0xFFFE
    (tmp_path / "a.ckpt").write_bytes(content)
    refused(lambda: checkpoint.load_checkpoint(tmp_path / "a.ckpt"), "a.ckpt")


CALLS = {
    "bytearray": (bytearray, 10**9),
    "tensor": (torch.FloatTensor, 10**9),
    "storage": (torch.UntypedStorage, 10**9),
    "counter": (Called, 1),
    "encode": (__import__("_codecs").encode, "a", "hex"),
}


@pytest.mark.parametrize("name", CALLS)
def test_only_classes_of_weights_are_called(cheap, tmp_path, name):
    content = pickle.dumps({"format_version": Called(*CALLS[name])}, protocol=2)
    (tmp_path / "a.ckpt").write_bytes(with_pickle(content))
    told = refused(lambda: checkpoint.load_checkpoint(tmp_path / "a.ckpt"), "a.ckpt")
    assert "not read from files" in told


HEAD = b"\x80\x02]q\0(K\1K\2e0"  # a list, kept in the memory
PICKLES = {
    "copies": HEAD + b"c__builtin__\nset\nh\0\x85R.",
    "ordered": HEAD + b"ccollections\nOrderedDict\nh\0\x85R.",
    "attributes": b"\x80\x02}q\0X\1\0\0\0aK\1s0czoobot.A\nB\n)\x81h\0b.",
    "no class": b"\x80\x02]K\1\x85R.",
    "no value": b"\x80\x02R.",
    "of a class": b"\x80\x02ctorch\nSize\nK\1a.",
    "unfinished": b"\x80\x02K\1",
    "not a step": b"\x80\x02\xff.",
    "another step": b"\x80\x02K\1\x80\x042.",
    "long": b"\x80\x02" + b"N" * 1000 + b"N.",
}


@pytest.mark.parametrize("name", PICKLES)
def test_a_pickle_that_copies_what_it_has_or_is_none_is_refused(cheap, name, monkeypatch):
    monkeypatch.setattr("zoobot.limits.pickles.MAX_STEPS", 1000)
    with pytest.raises(UserError, match="pickle"):
        check_pickle(PICKLES[name], ("zoobot.",))


@pytest.mark.parametrize("deep", [b"]" * 5000 + b"a" * 4999, b"N" + b"\x85" * 5000])
def test_what_is_nested_too_deeply_is_refused_in_a_line(tmp_path, deep):
    keys = [b"X" + len(key).to_bytes(4, "little") + key for key in (b"format_version", b"model")]
    content = b"\x80\x02}(" + keys[0] + b"K\2" + keys[1] + deep + b"u."
    (tmp_path / "a.ckpt").write_bytes(with_pickle(content))
    told = refused(lambda: checkpoint.load_checkpoint(tmp_path / "a.ckpt"), "a.ckpt")
    assert "nested too deeply" in told


def test_a_tensor_has_as_many_values_as_its_file(cheap, tmp_path):
    torch.save({"format_version": 1, "model": torch.zeros(1).expand(10**9)}, tmp_path / "a.ckpt")
    told = refused(lambda: checkpoint.load_checkpoint(tmp_path / "a.ckpt"), "a.ckpt")
    assert "repeated values" in told
    content = saved(torch.zeros(100_000))
    more = (100_000).to_bytes(4, "little"), (100_000_000).to_bytes(4, "little")
    assert content.count(more[0]) >= 2
    (tmp_path / "a.ckpt").write_bytes(content.replace(*more))
    refused(lambda: checkpoint.load_checkpoint(tmp_path / "a.ckpt"), "a.ckpt")
