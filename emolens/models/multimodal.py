"""The text model inside a multimodal one: emotions are read from text, and the text model is wrapped more safely."""

from __future__ import annotations

import copy
from typing import Any

import torch


def text_model(hf_model: Any) -> Any:
    """The causal language model inside a Hugging Face model that takes images or sounds too; others as they are.

    It shares the modules, so that no weight is copied: `Gemma3ForConditionalGeneration` gives a `Gemma3ForCausalLM`
    of its language model and its unembedding. A class without such a part (Qwen2.5-VL) is given back as it is.

    >>> text_model(model.hf_model) is model.hf_model
    True
    """
    whole: Any = getattr(hf_model, "config", None)
    if not hasattr(whole, "get_text_config"):
        return hf_model
    config = whole.get_text_config(decoder=True)
    causal = _causal_class(config)
    if config is whole or causal is None or isinstance(hf_model, causal) or whole.is_encoder_decoder:
        return hf_model
    inside = [module for module in hf_model.modules() if type(module) is causal]
    if inside:
        return inside[0]  # BLIP-2 holds a complete language model
    config = copy.deepcopy(config)
    config.architectures = [causal.__name__]
    config._name_or_path = config._name_or_path or whole._name_or_path
    with torch.device("meta"):
        text = causal(config)
    prefix, head = text.base_model_prefix, hf_model.get_output_embeddings()
    bases = [module for module in hf_model.modules() if type(module) is type(getattr(text, prefix))]
    if len(bases) != 1 or head is None:
        return hf_model
    setattr(text, prefix, bases[0])
    text.set_output_embeddings(head)
    offloaded = {id(w) for part in text.modules() if hasattr(part, "_hf_hook") for w in part._parameters.values()}
    if any(tensor.is_meta and id(tensor) not in offloaded for tensor in (*text.parameters(), *text.buffers())):
        return hf_model  # a part of it stands elsewhere
    if hasattr(hf_model, "hf_device_map"):
        text.hf_device_map = hf_model.hf_device_map
    text.generation_config = getattr(hf_model, "generation_config", text.generation_config)
    return text.train(hf_model.training)


def has_text_model(config: Any) -> bool:
    """Whether a configuration that is no causal language model's own has one inside, see `text_model`.

    >>> has_text_model(model.hf_model.config)
    False
    """
    text = config.get_text_config(decoder=True)
    return text is not config and _causal_class(config) is None and _causal_class(text) is not None


def _causal_class(config: Any) -> Any:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    return MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
