"""What adding to the outputs of blocks would change: one backward pass for all directions, places and blocks."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from emolens.models import support
from emolens.models.batching import plan
from emolens.models.log_probs import GRADIENT_TOKENS, SharedPrompt, adding
from emolens.models.model import HookedModel

Span = tuple[int, int]
Value = Callable[[Float[Tensor, "text pos d_model"], list[int]], Float[Tensor, "text"]]


@torch.enable_grad()
def slopes_of_added(
    model: HookedModel,
    shared: SharedPrompt,
    rests: Sequence[Sequence[int]],
    places: Sequence[Sequence[Span]],
    layers: Sequence[int],
    value: Value,
) -> tuple[Float[Tensor, "text"], Float[Tensor, "text place layer d_model"]]:
    """The value of each text, and its gradient by what is added to the output of a block at all tokens of a place.

    The product of a gradient with a direction is the slope that `steer(..., where=[span])` has at strength 0.

    Args:
        shared: what all texts begin with.
        rests: what follows; as in `SharedPrompt.run`, the last token is only what comes next.
        places: for each text, spans of ranks [start, end) in the whole text, none of them inside `shared`, but its
            last token.
        value: of the last residuals from the last token of `shared` on, padded on the right, and the texts' numbers.
    """
    model.require_one_row("slopes_of_added")
    support.require(model, "gradients")
    rows = [shared.input(rest) for rest in rests]
    found, slopes = torch.empty(len(rows)), torch.empty(len(rows), len(places[0]), len(layers), model.d_model)
    budget = GRADIENT_TOKENS if len(rows) < 2 or support.works(model, "several rows") else 1
    for numbers in plan([len(row) for row in rows], budget):
        spans = torch.tensor([places[number] for number in numbers], device=model.device)
        added = torch.zeros(*spans.shape[:2], len(layers), model.d_model, device=model.device, requires_grad=True)
        hooks = [((layer, "resid_post"), adding(model, added[:, :, row], spans)) for row, layer in enumerate(layers)]
        with model.stopping(model.n_layers - 1, hooks, grad=True) as run:
            values = value(shared.after(run, [rows[number] for number in numbers]), numbers)
        (gradient,) = torch.autograd.grad(values.sum(), added)
        found[numbers], slopes[numbers] = values.detach().float().cpu(), gradient.float().cpu()
    return found, slopes
