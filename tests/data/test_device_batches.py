import threading

import pytest
import torch
from fake_gpu import GPU, Seen, Stream, fake_gpu, plain, seen

from zoobot.data import device_batches
from zoobot.data.device_batches import on_device, to_device, to_host
from zoobot.data.views.cpu import GalaxyView
from zoobot.data.views.device import DeviceView


@pytest.fixture(autouse=True)
def _no_stream_is_known():
    device_batches.stream_of.cache_clear()
    yield
    device_batches.stream_of.cache_clear()


@pytest.fixture
def gpu(monkeypatch):
    with fake_gpu(monkeypatch) as gpu:
        yield gpu


def batches(num=4, is_on_gpu=False):
    for number in range(num):
        image = torch.full((2, 3, 4, 4), 10 * number, dtype=torch.uint8)
        yield {
            "image": seen(image, is_on_gpu),
            "labels": seen(torch.full((2, 1), number), is_on_gpu),
            "id_str": [f"g{2 * number}", f"g{2 * number + 1}"],
        }


def use(batch):
    """What a step reads of a batch, on the current stream."""
    return [plain(batch[key] + 0).sum().item() for key in ("image", "labels")]


@pytest.mark.parametrize("is_on_gpu", [False, True])
def test_batches_come_in_order_and_once_they_are_there(gpu, is_on_gpu):
    got = []
    for batch in on_device(batches(is_on_gpu=is_on_gpu), GPU):
        got.append((*use(batch), batch["id_str"][0]))
    assert got == [(pytest.approx(960 * n / 255), 2 * n, f"g{2 * n}") for n in range(4)]


def test_the_next_batch_is_made_on_another_stream_before_one_is_used(gpu):
    asked_for = []

    def loader():
        for number, batch in enumerate(batches()):
            asked_for.append(number)
            yield batch

    asked_before = []
    for batch in on_device(loader(), GPU):
        asked_before.append(len(asked_for))
        assert batch["image"].memory.maker is not gpu.current
    assert asked_before == [2, 3, 4, 4]


def test_batches_on_the_host_are_copied_while_the_gpu_works(gpu):
    gpu.current.work()
    (batch,) = on_device(batches(1), GPU)
    assert gpu.current not in batch["image"].memory.maker.clock


def test_every_epoch_takes_the_same_stream(gpu):
    epochs = [[*on_device(batches(), GPU)] for _ in range(3)]
    assert len({batch["image"].memory.maker for epoch in epochs for batch in epoch}) == 1


def test_views_are_made_aside_and_then_handed_over(gpu):
    divided = DeviceView(GalaxyView({"output_size": 16}), 20)
    images = torch.randint(256, (2, 3, 20, 20), dtype=torch.uint8)
    batch = {"image": images, **divided.draw(0, 0, [0, 1])}
    wanted = to_device(batch, torch.device("cpu"))["image"]
    batch = {k: seen(v) if torch.is_tensor(v) else v for k, v in batch.items()}
    (got,) = on_device([batch], GPU)
    assert got["image"].memory.maker is not gpu.current
    assert torch.equal(plain(got["image"] + 0), wanted)


def test_a_batch_without_images_comes_as_it_is():
    batch = {"id_str": ["g0"], "errors": {0: "missing"}}
    assert to_device(batch, torch.device("cpu")) == batch


def test_a_copy_to_the_host_is_read_once_it_is_there_by_any_thread(gpu):
    copying = [to_host(seen(torch.tensor([n]), True) * 2) for n in range(3)]
    got = []
    thread = threading.Thread(target=lambda: got.extend(wait().numpy().item() for wait in copying))
    thread.start()
    thread.join()
    assert got == [0, 2, 4]


def test_a_copy_to_the_host_holds_up_neither_the_host_nor_the_stream(gpu):
    values = seen(torch.zeros(3), True)
    before = dict(gpu.host.clock)
    wait = to_host(values)
    assert gpu.host.clock == before
    assert wait().memory.maker is not gpu.current


def test_on_a_cpu_nothing_is_copied_to_the_host():
    values = torch.zeros(3)
    assert to_host(values)() is values


def run_without(monkeypatch, owner, name, is_on_gpu):
    """Batches to the fake GPU and back, where one thing is forgotten."""
    with fake_gpu(monkeypatch), monkeypatch.context() as patch:
        patch.setattr(owner, name, lambda *_: None)
        for batch in on_device(batches(is_on_gpu=is_on_gpu), GPU):
            use(batch)
            to_host(batch["labels"])().numpy()
        del batch


@pytest.mark.parametrize(
    ("owner", "name", "is_on_gpu", "fault"),
    [
        (Stream, "wait_event", False, "read before"),
        (Stream, "wait_stream", True, "read before"),
        (Seen, "record_stream", False, "freed while"),
        (Seen, "record_stream", True, "freed while"),
    ],
)
def test_the_fake_notices_what_is_forgotten(monkeypatch, owner, name, is_on_gpu, fault):
    with pytest.raises(AssertionError, match=fault):
        run_without(monkeypatch, owner, name, is_on_gpu)


def test_the_fake_notices_a_copy_that_nobody_waits_for(monkeypatch):
    with pytest.raises(AssertionError, match="read before"), fake_gpu(monkeypatch):
        seen(torch.zeros(3), True).to("cpu", non_blocking=True).numpy()
