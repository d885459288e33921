"""The models on which `HookedModel` must behave alike: TransformerBridge, in TransformerLens 3 HookedTransformer."""

import pytest
import torch
from tiny import tiny_gemma, tiny_llama, tiny_tokenizer

CONFIG = dict(
    n_layers=4,
    d_model=32,
    n_ctx=128,
    d_head=8,
    n_heads=4,
    d_mlp=64,
    d_vocab=80,
    act_fn="gelu",
    normalization_type="LN",
    seed=0,
)
try:  # gone in TransformerLens 4
    from transformer_lens import HookedTransformer, HookedTransformerConfig
except ImportError:
    HookedTransformer = None


def _from_config():
    """A random model from TransformerLens's own configuration."""
    from emolens.models.model import HookedModel

    if HookedTransformer is not None:
        torch.manual_seed(0)
        bridge = HookedTransformer(HookedTransformerConfig(**CONFIG), tokenizer=None)
    else:
        from transformer_lens.model_bridge import TransformerBridge

        bridge = TransformerBridge.boot_native(CONFIG)
    return HookedModel(bridge, tiny_tokenizer(), "tiny-config")


def _from_hf(build):
    from emolens.models.model import HookedModel

    return HookedModel.from_hf(build(), tiny_tokenizer(bos=True), build.__name__)


MODELS = {"config": _from_config}
if HookedTransformer is None:
    MODELS |= {"llama": lambda: _from_hf(tiny_llama), "gemma": lambda: _from_hf(tiny_gemma)}


@pytest.fixture(params=list(MODELS))
def model(request):
    return MODELS[request.param]()
