"""A GPU of streams that run at any pace, on the CPU: it notices what may be read too early.

Work on a stream comes after earlier work of that stream, and after the work that the stream was
told to wait for; nothing else is promised. A ``Seen`` tensor knows which work made it. Reading it
on a stream that need not come after that work is a fault. So is letting go of it while another
stream than its maker may still be reading it, unless ``record_stream`` has named that stream.
"""

import contextlib
import threading
import weakref

import torch
from torch.overrides import TorchFunctionMode

GPU = torch.device("cuda", 0)
WITHOUT_READING = ("__get__", "__len__", "dim", "is_floating_point", "size")
WAITING = ("item", "tolist", "nonzero", "__bool__")  # the host waits for the GPU


class Stream:
    """A stream; its clock tells which work, of every stream, its next work comes after."""

    def __init__(self, device=None):
        self.clock = {self: 0}

    def work(self):
        self.clock[self] += 1

    def record_event(self):
        return Event(self.clock)

    def wait_event(self, event):
        for stream, time in event.clock.items():
            self.clock[stream] = max(time, self.clock.get(stream, 0))

    def wait_stream(self, other):
        self.wait_event(other.record_event())


class Event:
    def __init__(self, clock):
        self.clock = dict(clock)

    def synchronize(self):
        gpu.host.wait_event(self)


class Gpu:
    """The host, which is a stream here too, the streams that are current, and what went wrong."""

    def __init__(self):
        self.host, self.usual, self.faults, self.num_waits = Stream(), Stream(), set(), 0
        self._of_thread = threading.local()

    @property
    def current(self):
        return vars(self._of_thread).get("stream", self.usual)

    @contextlib.contextmanager
    def on(self, stream):
        before, self._of_thread.stream = self.current, stream
        try:
            yield
        finally:
            self._of_thread.stream = before


gpu = Gpu()


class Memory:
    """Which work of which stream made what a tensor holds, and which streams may use it."""

    def __init__(self, is_on_gpu, maker):
        self.is_on_gpu, self.maker, self.made_at = is_on_gpu, maker, maker.clock[maker]
        self.readers, self.recorded = {maker}, {maker}

    def read(self):
        reader = gpu.current if self.is_on_gpu else gpu.host
        if reader.clock.get(self.maker, 0) < self.made_at:
            gpu.faults.add("read before it need be there")
        self.readers.add(reader)

    def free(self):
        if self.is_on_gpu and self.readers - self.recorded:
            gpu.faults.add("freed while a stream may be reading it")


class Seen(torch.Tensor):
    """A tensor on the host or the GPU, which notes who reads it."""

    @property
    def is_cuda(self):
        return self.memory.is_on_gpu

    @property
    def device(self):
        return GPU if self.is_cuda else torch.device("cpu")

    def record_stream(self, stream):
        self.memory.recorded.add(stream)

    def numpy(self):
        assert not self.is_cuda
        self.memory.read()
        return plain(self).numpy()

    def cpu(self):
        return self.to("cpu")

    def to(self, device, non_blocking=False):
        if torch.device(device).type == self.device.type:
            return self
        self.memory.read()
        gpu.current.work()
        copy = seen(plain(self).clone(), not self.is_cuda, gpu.current)
        if not non_blocking:
            gpu.host.wait_stream(gpu.current)
            gpu.num_waits += 1
        return copy

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        own = [x for x in _flat([*args, *(kwargs or {}).values()]) if isinstance(x, Seen)]
        made = func(*map(plain, args), **{k: plain(v) for k, v in (kwargs or {}).items()})
        if func.__name__ in WITHOUT_READING:
            return made
        for tensor in own:
            tensor.memory.read()
        is_on_gpu = any(tensor.is_cuda for tensor in own)
        gpu.num_waits += is_on_gpu and func.__name__ in WAITING
        stream = gpu.current if is_on_gpu else gpu.host
        stream.work()
        if isinstance(made, tuple | list) and all(map(torch.is_tensor, made)):
            return type(made)(seen(x, is_on_gpu, stream) for x in made)
        return seen(made, is_on_gpu, stream) if torch.is_tensor(made) else made


class _MadeThere(TorchFunctionMode):
    """Functions that make a tensor on a device make it on this GPU."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if kwargs.get("device") != GPU:
            return func(*args, **kwargs)
        del kwargs["device"]
        gpu.current.work()
        return seen(func(*args, **kwargs), True)


def seen(tensor, is_on_gpu=False, stream=None):
    """This tensor on the host or the GPU, made by the latest work of a stream."""
    tensor = plain(tensor).as_subclass(Seen)
    tensor.memory = Memory(is_on_gpu, stream or (gpu.current if is_on_gpu else gpu.host))
    weakref.finalize(tensor, tensor.memory.free).atexit = False
    return tensor


def plain(value):
    """A tensor, or those in a tuple or list, as torch's own."""
    if isinstance(value, tuple | list):
        return type(value)(map(plain, value))
    with torch._C.DisableTorchFunctionSubclass():
        return value.as_subclass(torch.Tensor) if isinstance(value, Seen) else value


def _flat(values):
    for value in values:
        yield from _flat(value) if isinstance(value, tuple | list) else [value]


@contextlib.contextmanager
def fake_gpu(monkeypatch):
    """In this ``with`` block torch has this GPU; AssertionError at its end if there were faults."""
    global gpu
    gpu = Gpu()
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "Stream", Stream)
        patch.setattr(torch.cuda, "stream", gpu.on)
        patch.setattr(torch.cuda, "current_stream", lambda device=None: gpu.current)
        with _MadeThere():
            yield gpu
    assert not gpu.faults, gpu.faults
