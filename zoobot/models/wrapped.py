"""Modules without what is wrapped around them: torch.compile and data parallelism."""

from torch import nn
from torch.nn.parallel import DistributedDataParallel

COMPILED = "_orig_mod"  # under this name torch.compile keeps the module that it was given


def inside(module: nn.Module) -> nn.Module:
    """The module within torch.compile, DataParallel and DistributedDataParallel, however nested."""
    while (inner := _one_inside(module)) is not module:
        module = inner
    return module


def unwrapped(module: nn.Module) -> nn.Module:
    """As ``inside``, and so are its submodules: parameters then have the names that files tell.

    What torch.compile had wrapped stays compiled, in place, with the options that it had.
    """
    core = _compiled_in_place(module)
    for parent in list(core.modules()):
        for name, child in list(parent.named_children()):
            if inside(child) is not child:
                setattr(parent, name, _compiled_in_place(child))
    return core


def _one_inside(module: nn.Module) -> nn.Module:
    if isinstance(module, nn.DataParallel | DistributedDataParallel):
        return module.module
    children = dict(module.named_children())
    return children[COMPILED] if children.keys() == {COMPILED} else module


def _compiled_in_place(module: nn.Module) -> nn.Module:
    core = inside(module)
    while module is not core:
        inner = _one_inside(module)
        if not isinstance(module, nn.DataParallel | DistributedDataParallel):
            core._compiled_call_impl = module.dynamo_ctx(core._call_impl)  # as core.compile() does
        module = inner
    return core
