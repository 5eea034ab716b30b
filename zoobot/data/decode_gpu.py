"""Decode JPEGs on a GPU: workers only read files, and a thread has the GPU decode a batch ahead.

This is for views that are left to the device. An image that is no RGB JPEG, or not as large as
fitted images, is decoded by the workers, as without a GPU.

The GPU's decoder and libjpeg round differently: pixels may differ by a few of 255 levels.
"""

import io
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.pool import ThreadPool

import numpy as np
import torch

from zoobot.data.dataset import CatalogDataset
from zoobot.data.device_batches import stream_of
from zoobot.data.file_kinds import ends_well
from zoobot.data.images import ImageSource, open_rgb_jpeg, read_pixels
from zoobot.system import distributed
from zoobot.system.errors import UserError, one_line

DECODE = ("auto", "cpu", "gpu")
NUM_TIMED = 128  # images

Decode = Callable[[Sequence[bytes], torch.device], Sequence[torch.Tensor]]


def decode_jpegs(jpegs: Sequence[bytes], device: torch.device) -> Sequence[torch.Tensor]:
    """Decode JPEG files on a GPU: uint8 tensors (3, H, W) there."""
    from torchvision.io import ImageReadMode, decode_jpeg  # here: it takes a second

    encoded = [torch.frombuffer(bytearray(jpeg), dtype=torch.uint8) for jpeg in jpegs]
    return decode_jpeg(encoded, mode=ImageReadMode.RGB, device=device)


class GpuDecoder:
    """Has a GPU decode the JPEGs that workers leave to it.

    Args:
        side_px: of fitted images.
        device: the GPU.
        decode: see ``decode_jpegs``.
    """

    def __init__(self, side_px: int, device: torch.device, decode: Decode = decode_jpegs):
        self._side_px = side_px
        self._device = device
        self._decode = decode

    def jpeg(self, source: ImageSource) -> bytes | None:
        """The file of an image that is left to the GPU; None if a worker is to decode it."""
        found = open_rgb_jpeg(source)
        if found is None:
            return None
        content, header = found
        is_fitted = header.size == (self._side_px, self._side_px)
        return content if is_fitted and ends_well(io.BytesIO(content), header) else None

    def ahead(self, batches: Iterable[dict]) -> Iterator[dict]:
        """Batches made whole by ``put_together``, the next one while one is used."""
        is_gpu = self._device.type == "cuda"
        stream = stream_of(self._device, "decoding") if is_gpu else None
        making = None
        with ThreadPool(1) as pool:
            for batch in batches:
                next_one = pool.apply_async(self._on_stream, (batch, stream))
                if making is not None:
                    yield self._taken_over(making.get())
                making = next_one
            if making is not None:
                yield self._taken_over(making.get())

    def _on_stream(self, batch: dict, stream: torch.cuda.Stream | None) -> dict:
        with torch.cuda.stream(stream):  # None: no other stream
            whole = self.put_together(batch)
        if stream is not None:
            stream.synchronize()  # this thread waits, and no other
        return whole

    def _taken_over(self, batch: dict) -> dict:
        """A batch of the thread's, whose memory is not used anew while this thread uses it."""
        image = batch.get("image")
        if image is not None and image.is_cuda:
            image.record_stream(torch.cuda.current_stream(self._device))
        return batch

    def put_together(self, batch: dict) -> dict:
        """The batch, all its images on the GPU in the order of their places.

        Raises:
            ImageError: for a JPEG that the CPU can't decode either.
        """
        jpegs = batch["jpegs"]  # place in the batch -> file
        if not jpegs:
            return batch
        try:
            decoded = self._decode([*jpegs.values()], self._device)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:  # one of them is damaged: the CPU tells which
            names = [f"id_str {batch['id_str'][place]!r}" for place in jpegs]
            pixels = [read_pixels(x, name=n) for x, n in zip(jpegs.values(), names, strict=True)]
            decoded = [torch.from_numpy(x).permute(2, 0, 1).to(self._device) for x in pixels]
        images = dict(zip(jpegs, decoded, strict=True))
        if len(batch["places_decoded"]):
            others = batch["image"].to(self._device)
            images |= dict(zip(batch["places_decoded"], others, strict=True))
        whole = torch.stack([images[place] for place in sorted(images)])
        return batch | {"image": whole, "jpegs": {}}


def choose_decoder(
    dataset: CatalogDataset, device: torch.device, num_workers: int, decode: Decode = decode_jpegs
) -> str:
    """Have a GPU decode a dataset's JPEGs, if ``dataset.decode`` asks for it.

    ``gpu``: so; ``cpu``: workers decode all; ``auto``: as is faster, when measured now; in a
    deterministic run workers do. All processes of a run call it together.

    Returns:
        What to tell the user of it; may be empty.

    Raises:
        ValueError: it is to be on a GPU, and there is none, or views are made on the CPU, or the
            run is deterministic.
    """
    how = dataset.decode
    if how not in DECODE:
        raise UserError(f"decode={how!r}: use one of {', '.join(DECODE)}")
    if how == "gpu" and device.type != "cuda":
        raise UserError("--decode gpu needs a GPU: use --decode auto or cpu")
    if how == "gpu" and not dataset.is_only_decoded:
        raise UserError("--decode gpu needs views that the device makes: not --augment cpu")
    is_deterministic = torch.are_deterministic_algorithms_enabled()
    if how == "gpu" and is_deterministic:
        raise UserError(
            "--decode gpu: in a deterministic run the CPU decodes, as another GPU may round "
            "otherwise: use --decode cpu"
        )
    if how == "cpu" or device.type != "cuda" or is_deterministic or not dataset.is_only_decoded:
        return ""
    is_8bit = dataset.fitted_dtype == torch.uint8
    if dataset.in_memory is not None or dataset.fitted_shape[-1] != 3 or not is_8bit:
        told = "decode: on the CPU, as images are grey, of bands, or kept in memory"
        return told if how == "gpu" else ""
    decoder = GpuDecoder(dataset.transform.fitted_px, device, decode)
    if how == "gpu":
        dataset.decoder = decoder
        return "decode: JPEGs on the GPU"
    try:
        on_cpu, on_gpu = _rates(dataset, decoder, decode, device)
    except (ImportError, RuntimeError) as error:  # torchvision without nvJPEG, or without decoders
        warnings.warn(f"decode: on the CPU, as the GPU can't: {one_line(str(error))}", stacklevel=2)
        on_cpu, on_gpu = 0.0, 0.0
    on_cpu *= max(1, num_workers)
    if all(distributed.gather(on_gpu > on_cpu)):
        dataset.decoder = decoder
    where = "CPU" if dataset.decoder is None else "GPU"
    told = f"{on_cpu:,.0f} a second by {num_workers} workers, {on_gpu:,.0f} by the GPU"
    return f"decode: on the {where} ({told})" if on_gpu else ""


def _rates(
    dataset: CatalogDataset, decoder: GpuDecoder, decode: Decode, device: torch.device
) -> tuple[float, float]:
    """JPEGs a second that a core and the GPU decode; zeros if there are none to be left to it."""
    some = np.linspace(0, len(dataset) - 1, min(NUM_TIMED, len(dataset))).astype(int).tolist()
    found = (decoder.jpeg(dataset.galaxies.source(galaxy)) for galaxy in some)
    jpegs = [jpeg for jpeg in found if jpeg is not None]
    if not jpegs:
        return 0.0, 0.0
    on_cpu = _seconds(lambda: [read_pixels(jpeg) for jpeg in jpegs])
    # One number is read, so that the GPU is waited for; pixels are wanted there, not on the host.
    on_gpu = _seconds(lambda: torch.stack([*decode(jpegs, device)])[0, 0, 0, 0].item())
    return len(jpegs) / on_cpu, len(jpegs) / on_gpu


def _seconds(work: Callable[[], object]) -> float:
    """How long it takes, once it has been done before."""
    work()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
