from pathlib import Path

import pytest
import torch
from PIL import Image

from zoobot.data import decode_gpu, loaders
from zoobot.data.catalog import read_catalog
from zoobot.data.dataset import CatalogDataset
from zoobot.data.decode_gpu import GpuDecoder, choose_decoder
from zoobot.data.device_batches import to_device
from zoobot.data.device_cache import DeviceCache
from zoobot.data.images import ImageError
from zoobot.data.views.config import default_view_config
from zoobot.data.views.cpu import GalaxyView
from zoobot.data.views.device import DeviceView
from zoobot.system.errors import UserError

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def decode_here(jpegs, device):
    """Stands for a GPU's decoder; it counts the images it is given."""
    from torchvision.io import decode_jpeg

    decode_here.number += len(jpegs)
    encoded = [torch.frombuffer(bytearray(jpeg), dtype=torch.uint8) for jpeg in jpegs]
    return [decode_jpeg(jpeg) for jpeg in encoded]


@pytest.fixture(autouse=True)
def _count_anew():
    decode_here.number = 0


@pytest.fixture
def frame(small_catalog):
    """60 galaxies, 55 of them JPEGs of 40 px; a PNG, a grey, a smaller and two odd ones."""
    frame = read_catalog(small_catalog)
    for i, path in enumerate(frame["file_loc"]):
        image = Image.open(path)
        image = {1: image.convert("L"), 2: image.resize((30, 30))}.get(i, image)
        image.save(path, format="PNG" if i == 0 else "JPEG")
    for path in frame["file_loc"][3:5]:
        with open(path, "ab") as file:
            file.write(b"junk after the end")
    return frame


def dataset_of(frame, decoder=None, **arguments):
    config = default_view_config()
    config.output_size = 16
    view = DeviceView(GalaxyView(config), 40)
    dataset = CatalogDataset(frame, None, view, seed=1, **arguments)
    dataset.decoder = decoder
    return dataset


def views(loader, epoch=0):
    loader.set_epoch(epoch)
    ready = [to_device(batch, CPU) for batch in loader]
    return {i: x for b in ready for i, x in zip(b["id_str"], b["image"], strict=True)}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_batch_is_the_same_whoever_decodes_its_jpegs(frame, num_workers):
    expected = views(loaders.train_loader(dataset_of(frame), 16))
    left = dataset_of(frame, GpuDecoder(40, CPU, decode_here))
    found = views(loaders.train_loader(left, 16, num_workers=num_workers))
    assert decode_here.number == 60 - 5
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_what_the_gpu_decoded_is_kept_on_it(frame):
    dataset = dataset_of(frame, GpuDecoder(40, CPU, decode_here))
    dataset.on_device = DeviceCache(dataset.fitted_shape, CPU)
    loader = loaders.train_loader(dataset, 16)
    expected = loaders.train_loader(dataset_of(frame), 16)
    for epoch in range(4):
        found, same = views(loader, epoch), views(expected, epoch)
        assert all(torch.equal(found[key], same[key]) for key in same)
    assert decode_here.number < 2.5 * 55


def test_a_jpeg_that_the_gpu_refuses_is_decoded_here_or_named(frame):
    def refuse(jpegs, device):
        raise RuntimeError("nvJPEG: bad stream")

    expected = views(loaders.train_loader(dataset_of(frame), 16))
    left = dataset_of(frame, GpuDecoder(40, CPU, refuse))
    found = views(loaders.train_loader(left, 16))
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    path = Path(frame["file_loc"][9])
    path.write_bytes(path.read_bytes().replace(b"\xff\xdb", b"\xff\xfe"))  # a table is a comment
    with pytest.raises(ImageError, match="g9"):
        views(loaders.train_loader(left, 16))


def test_a_gpu_without_memory_is_no_damaged_image(frame):
    def no_memory(jpegs, device):
        raise torch.OutOfMemoryError

    left = dataset_of(frame, GpuDecoder(40, CPU, no_memory))
    with pytest.raises(torch.OutOfMemoryError):
        views(loaders.train_loader(left, 16))


def test_auto_takes_whoever_is_faster_and_says_so(frame, monkeypatch):
    for rates, decodes in (((100.0, 150.0), False), ((100.0, 900.0), True), ((0.0, 0.0), False)):
        monkeypatch.setattr(decode_gpu, "_rates", lambda *_, rates=rates: rates)
        dataset = dataset_of(frame, decode="auto")
        told = choose_decoder(dataset, GPU, 2)
        assert (dataset.decoder is not None) == decodes
        assert bool(told) == bool(rates[1])
    dataset = dataset_of(frame, decode="auto")
    monkeypatch.setattr(decode_gpu, "_rates", lambda *_: (100.0, 900.0))
    assert choose_decoder(dataset, GPU, 2) == (
        "decode: on the GPU (200 a second by 2 workers, 900 by the GPU)"
    )


def test_rates_are_those_of_jpegs_that_can_be_left(frame):
    decoder = GpuDecoder(40, CPU, decode_here)
    on_core, on_gpu = decode_gpu._rates(dataset_of(frame), decoder, decode_here, CPU)
    assert on_core > 0
    assert on_gpu > 0
    assert decode_here.number == 2 * 55
    assert decode_gpu._rates(dataset_of(frame[:1]), decoder, decode_here, CPU) == (0.0, 0.0)


def test_decoding_on_a_gpu_needs_one_and_views_made_there(frame):
    with pytest.raises(UserError, match="--decode gpu needs a GPU"):
        choose_decoder(dataset_of(frame, decode="gpu"), CPU, 2)
    dataset = dataset_of(frame, decode="gpu")
    dataset.transform = GalaxyView(default_view_config())
    with pytest.raises(UserError, match="--decode gpu needs views that the device makes"):
        choose_decoder(dataset, GPU, 2)
    with pytest.raises(UserError, match="decode='nvjpeg': use one of auto, cpu, gpu"):
        choose_decoder(dataset_of(frame, decode="nvjpeg"), CPU, 2)


def test_in_a_deterministic_run_the_cpu_decodes(frame, monkeypatch):
    monkeypatch.setattr(decode_gpu, "_rates", lambda *_: (100.0, 900.0))
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    dataset = dataset_of(frame, decode="auto")
    assert choose_decoder(dataset, GPU, 2) == ""
    assert dataset.decoder is None
    with pytest.raises(UserError, match="--decode gpu: in a deterministic run the CPU decodes"):
        choose_decoder(dataset_of(frame, decode="gpu"), GPU, 2)


@pytest.mark.parametrize("error", [RuntimeError, ImportError])
def test_auto_takes_the_cpu_where_the_gpu_has_no_decoder_and_warns(frame, error):
    def decode(jpegs, device):
        raise error("no nvJPEG\nin this build")

    dataset = dataset_of(frame, decode="auto")
    with pytest.warns(UserWarning, match="on the CPU, as the GPU can't: no nvJPEG in this build"):
        assert choose_decoder(dataset, GPU, 2, decode) == ""
    assert dataset.decoder is None


def test_nothing_is_measured_or_told_on_a_cpu(frame):
    dataset = dataset_of(frame, decode="auto")
    assert choose_decoder(dataset, CPU, 2) == ""
    assert dataset.decoder is None
