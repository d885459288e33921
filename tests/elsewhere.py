"""A device that this machine does not have, played by tensors of the CPU that refuse to be mixed with others.

A block output that a hook gets is one of these: what the hook holds it against must be taken to `x.device` first.
"""

from contextlib import contextmanager

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("xpu:1")


class Elsewhere(Tensor):
    """A tensor that says it is on `DEVICE`."""


def there(value):
    return value.as_subclass(Elsewhere) if isinstance(value, Tensor) else value


def here(value):
    return value.as_subclass(Tensor) if isinstance(value, Elsewhere) else value


class TwoDevices(TorchFunctionMode):
    """Inside, `Elsewhere` tensors and others raise where they meet, as those of two devices do."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        leaves = tree_flatten((args, kwargs))[0]
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        far = [isinstance(tensor, Elsewhere) for tensor in tensors]
        with torch._C.DisableTorchFunctionSubclass():
            if func == Tensor.device.__get__:  # made anew at each look
                return DEVICE if far[0] else func(*args)
            if func in (Tensor.cpu, Tensor.to):
                return self.moved(func, args, kwargs)
            if func in (Tensor.requires_grad_, torch.autograd.grad):  # of these very tensors, not of views of them
                return func(*args, **kwargs)
            if len({one for one, tensor in zip(far, tensors, strict=True) if tensor.dim()}) > 1:
                raise RuntimeError(f"{getattr(func, '__name__', func)}: the tensors are on two devices")
            target = kwargs.get("device")
            if target is not None and torch.device(target) == DEVICE:
                kwargs["device"] = "cpu"
                far.append(True)
            if func in (Tensor.numpy, Tensor.__array__) and any(far):
                raise TypeError("can't convert a tensor of another device to numpy")
            out = func(*tree_map(here, args), **tree_map(here, kwargs))
            return tree_map(there, out) if any(far) else out

    @staticmethod
    def moved(func, args, kwargs):
        wanted = [*args[1:], kwargs.get("device"), kwargs.get("other")]
        devices = [DEVICE if isinstance(one, Elsewhere) else one.device for one in wanted if isinstance(one, Tensor)]
        devices += [torch.device(one) for one in wanted if isinstance(one, (str, torch.device))]
        goes = devices[-1] == DEVICE if devices else func is Tensor.to and isinstance(args[0], Elsewhere)
        cpu = lambda one: torch.device("cpu") if one == DEVICE or one == str(DEVICE) else one  # noqa: E731
        plain = func(*(cpu(here(one)) for one in args), **{key: cpu(here(one)) for key, one in kwargs.items()})
        return there(plain) if goes else plain


@contextmanager
def blocks_elsewhere(model, monkeypatch):
    """The outputs of blocks are on `DEVICE` for whoever hooks them; the embedding and the output are on the CPU."""
    hooks = type(model).hooks

    def moving(self, fwd_hooks):
        def at(function):
            return lambda x, hook: here(function(there(x), hook))

        return hooks(self, [(name, at(function)) for name, function in fwd_hooks])

    def arrive(module, args):  # what accelerate's hooks do
        return tree_map(here, args)

    handles = [part.register_forward_pre_hook(arrive) for part in (model.bridge.ln_final, model.bridge.unembed)]
    with monkeypatch.context() as patch, TwoDevices():
        patch.setattr(type(model), "hooks", moving)
        yield
    for handle in handles:
        handle.remove()
