"""`Hooked`: encoding, hooks and passes over both of TransformerLens's model classes; see `HookedModel`."""

import copy
import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from typing import Any, ClassVar, SupportsIndex, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import ActivationCache
from transformer_lens.hook_points import HookPoint

from emolens.errors import TooLongError, UnsupportedError, did_you_mean, whole_number
from emolens.models import head, support
from emolens.models.batching import Batch, Pass, pad
from emolens.models.conversations import encode_chat
from emolens.models.encoding import encode, labels
from emolens.models.guard import hub_offline, nothing_installed
from emolens.models.multimodal import text_model
from emolens.models.placement import device_of, dtype_of, packing, quantised_as, weights
from emolens.models.texts import Encoding, Text, gate, is_chat

Layer = int | np.integer  # the index of a block
Layers = SupportsIndex | Iterable[SupportsIndex]  # one block or several; see `check_layers`
HookFn = Callable[..., Any]  # TransformerLens's signature: (tensor, hook) -> tensor | None
Runner = Callable[..., Tensor]  # of a Batch, and if need be of its Pass and a key-value cache
HookName = str | tuple[int, str]  # a full name, or (layer, site)
Hook = tuple[HookName, HookFn]
AHooked = TypeVar("AHooked", bound="Hooked")

LIBRARIES = {
    "accelerate",
    "torch",
    "transformer_lens",
    "transformers",
}  # their own hooks on modules change no activation


def listed(layers: Any) -> list[Any]:
    """Layers as a list, whether one is given or several, in a list, range, array or tensor.

    >>> listed(3), listed(range(2))
    ([3], [0, 1])
    """
    plain = layers.tolist() if hasattr(layers, "tolist") else layers
    return list(plain) if isinstance(plain, Iterable) and not isinstance(plain, str) else [plain]


class _Stop(Exception):
    """Ends a forward pass once the deepest block that somebody reads has run."""


def require_finite_weights(hf_model: Any, name: str) -> None:
    """Raise ValueError for a parameter with an infinite or NaN entry, named: whatever it is used in would be NaN.

    >>> require_finite_weights(torch.nn.Linear(2, 2), "a layer")
    >>> broken = torch.nn.Linear(2, 2)
    >>> with torch.no_grad():
    ...     broken.bias[1] = torch.inf
    >>> require_finite_weights(broken, "a layer")
    Traceback (most recent call last):
    ValueError: a layer has weights that are not finite: 1 of the 2 entries of 'bias' (torch.float32)...
    """
    for parameter, weight in weights(hf_model):
        if weight.is_meta or not weight.is_floating_point():
            continue
        values = weight.detach() if weight.element_size() > 1 else weight.detach().float()
        # A sum is finite only if each entry is, and costs a fifth of looking at them; it may overflow, so look then.
        if not values.sum(dtype=torch.float32).isfinite() and (bad := int((~values.isfinite()).sum())):
            raise ValueError(
                f"{name} has weights that are not finite: {bad} of the {weight.numel()} entries of {parameter!r} "
                f"({weight.dtype}). A cast to float16 may have overflowed: load it in bfloat16 or float32, or copy "
                f"the file again"
            )


class Hooked:
    """A hooked language model with its tokenizer.

    `bridge` is the wrapped `TransformerBridge` (TransformerLens 4) or `HookedTransformer` (2 and 3)
    itself, with raw weights (no layer-norm folding, no compatibility mode), so that a vector found
    here means the same in Hugging Face. A layer is the index of a block; its activation is the
    block's output, `blocks.{layer}.hook_resid_post`.

    >>> model.n_layers, model.d_model, model.n_ctx, model.default_layer
    (4, 32, 2048, 3)
    >>> model.forward("she ran .", stop_after=2).shape
    torch.Size([1, 3, 32])
    """

    capabilities: ClassVar[Mapping[str, support.Capability]] = {}

    def __init__(self, bridge: Any, tokenizer: Any = None, name: str | None = None, revision: str = "") -> None:
        self.bridge = bridge
        self.tokenizer = tokenizer if tokenizer is not None else bridge.tokenizer
        self.name = name or bridge.cfg.model_name
        self.revision = revision
        self.quantised = quantised_as(self.hf_model)  # in words, for stamps; "" where the weights are whole
        self.steering: list[Any] = []  # the contexts of `steer` that are open, outermost first
        self.passing: Pass | None = None
        self.lock = threading.RLock()  # held while hooks read a pass, so that another thread's pass is not read as it
        self.verdicts: dict[str, support.Verdict] = {}  # what is known of each capability, see `support`
        self.checking: list[str] = []  # the capabilities that are being checked
        self.bare: support.Bare | None = None
        self._fingerprint: tuple[list[tuple[int, int]], str] | None = None
        self.n_layers: int = bridge.cfg.n_layers
        self.d_model: int = bridge.cfg.d_model
        self.n_ctx: int = bridge.cfg.n_ctx
        # Two thirds of the depth, where the paper reads and steers (section 3 of the paper's methods).
        self.default_layer = min(round(self.n_layers * 2 / 3), self.n_layers - 1)
        missing = [n for n in (self.hook_name(0), self.hook_name(self.n_layers - 1)) if n not in bridge.hook_dict]
        if missing:
            raise ValueError(f"{self.name} offers no hook point {missing[0]}, so its residual stream can't be read")
        self._wrapped = self._modules()

    @classmethod
    def from_hf(
        cls: type[AHooked], hf_model: Any, tokenizer: Any, name: str | None = None, revision: str = ""
    ) -> AHooked:
        """Wrap a Hugging Face causal language model that is already in memory. Touches no network.

        The model's modules are wrapped in place, and of a multimodal model those of its text model; config and
        `tokenizer` stay as they are (TransformerLens would add a BOS token where the model's own tokenizer adds none).

        Raises:
            ValueError: a weight that is not finite, named.
            UnsupportedError: a class that TransformerLens can't wrap.
            ImportError: a class that TransformerLens can't wrap without a package that is not installed.

        >>> from transformers import AutoModelForCausalLM
        >>> random = AutoModelForCausalLM.from_config(model.hf_model.config)
        >>> el.HookedModel.from_hf(random, model.tokenizer, "random")
        HookedModel(random: 4 blocks, d_model 32, torch.float32, TransformerBridge)
        """
        from transformer_lens.model_bridge import TransformerBridge

        hf_model = text_model(hf_model)
        config = hf_model.config
        source = str(config._name_or_path or type(hf_model).__name__)
        require_finite_weights(hf_model, name or source)
        device, dtype = device_of(hf_model), dtype_of(hf_model)
        # TransformerLens loads a tokenizer that adds no BOS a second time, by its name, from the hub if need
        # be; one that says it adds a BOS is taken as it is. The copy is for the bridge's own text methods.
        copied = copy.deepcopy(tokenizer)
        copied.init_kwargs = {**tokenizer.init_kwargs, "name_or_path": source, "add_bos_token": True}
        architectures, computed = config.architectures, support.bare_pass(hf_model.eval())
        try:
            config.architectures = architectures or [type(hf_model).__name__]  # none: it was built in memory
            with nothing_installed(), hub_offline():
                bridge = TransformerBridge.boot_transformers(
                    source, hf_model=hf_model, tokenizer=copied, dtype=dtype,
                    device=str(device), trust_remote_code=False,
                )  # fmt: skip
        except (RuntimeError, ValueError, TypeError, AttributeError, LookupError, NotImplementedError) as error:
            kind, why = type(hf_model).__name__, (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            raise UnsupportedError(
                f"TransformerLens can't wrap {kind} ({name or source}): {why}. Take a model of another family"
            ) from error
        finally:
            config.architectures = architectures
        bridge.cfg.device = str(device)  # of an offloaded embedding TransformerLens takes "meta"
        model = cls(bridge, tokenizer, name or source, revision)
        model.bare = support.Bare(*computed, support.weights_now(model)) if computed else None
        return model

    def __repr__(self) -> str:
        kind = type(self.bridge).__name__
        return (
            f"{type(self).__name__}({self.name}: {self.n_layers} blocks, d_model {self.d_model}, {self.dtype}, {kind})"
        )

    @property
    def device(self) -> torch.device:
        """Where the weights are, or of a model on several devices where it takes its tokens.

        >>> model.device
        device(type='cpu')
        """
        return device_of(self.bridge)

    @property
    def dtype(self) -> torch.dtype:
        """The type that the model computes in; activations are pooled and projected in float32 whatever it is.

        >>> model.dtype
        torch.float32
        """
        return dtype_of(self.bridge)

    @property
    def fingerprint(self) -> str:
        """16 hex digits over the weights, rounded to bfloat16 so that float32 and bfloat16 loads agree.

        Every parameter counts with at most 65,536 evenly spaced entries. It is computed anew when torch has counted
        a change of a weight; a change through `.data`, which torch does not count, is seen by `take_fingerprint`.

        >>> before = model.fingerprint
        >>> with torch.no_grad():
        ...     _ = model.hf_model.lm_head.weight.mul_(2)
        >>> model.fingerprint == before
        False
        >>> with torch.no_grad():
        ...     _ = model.hf_model.lm_head.weight.div_(2)
        >>> model.fingerprint == before
        True
        """
        if self._fingerprint is None or self._fingerprint[0] != self._counted_changes():
            return self.take_fingerprint()
        return self._fingerprint[1]

    def take_fingerprint(self) -> str:
        """`fingerprint` of the weights as they are now, whatever torch has counted: for the keys of caches.

        >>> model.take_fingerprint() == model.fingerprint
        True
        """
        digest = hashlib.sha256()
        for _, weight in chain(weights(self.bridge), packing(self.bridge)):
            flat = weight.detach().flatten()
            sample = flat[:: max(1, flat.numel() // 65536)].cpu()
            packed = not sample.is_floating_point()  # several numbers in each entry, so that no bit may be rounded
            sample = sample.contiguous().view(torch.uint8) if packed else sample.to(torch.bfloat16).view(torch.int16)
            digest.update(str(tuple(weight.shape)).encode() + sample.numpy().tobytes())
        self._fingerprint = self._counted_changes(), digest.hexdigest()[:16]
        return self._fingerprint[1]

    def _counted_changes(self) -> list[tuple[int, int]]:
        weights = self.bridge.parameters()
        return [(weight.data_ptr(), 0 if weight.is_inference() else weight._version) for weight in weights]

    @property
    def is_plain(self) -> bool:
        """Whether what a pass gives comes from the weights alone, so that it may be kept under their fingerprint.

        Not under a steering, with a hook of the user's on the bridge or on a module of torch, with a module that was
        exchanged or given another `forward`, or in training mode.

        >>> model.is_plain
        True
        >>> with model.hooks([((0, "resid_post"), lambda x, hook: x + 1)]):
        ...     model.is_plain
        False
        """
        if self.steering or self._modules() != self._wrapped:
            return False
        everywhere = torch.nn.modules.module
        hooks = [*everywhere._global_forward_hooks.values(), *everywhere._global_forward_pre_hooks.values()]
        for module in self._every_module():
            here = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
            if here and isinstance(module, HookPoint):  # its hooks are the user's, in a function of TransformerLens
                return False
            hooks += here
        owners = [getattr(hook, "__module__", None) or type(hook).__module__ for hook in hooks]
        return all(owner.partition(".")[0] in LIBRARIES for owner in owners)

    def _every_module(self) -> Iterator[torch.nn.Module]:
        """Modules of the bridge and of the model inside it, whose outermost one is none of the bridge's."""
        yield from self.bridge.modules()
        if isinstance(inner := getattr(self.bridge, "original_model", None), torch.nn.Module):
            yield from inner.modules()

    def _modules(self) -> list[tuple[Any, ...]]:
        """What beside weights and hooks decides what each module computes; adapters of peft can be switched off."""
        return [
            (module, module.training, module.__dict__.get("forward"), module.__dict__.get("_disable_adapters"))
            for module in self._every_module()
        ]

    # --- texts -------------------------------------------------------------------------------------

    def encode(self, text: Text) -> Encoding:
        """Token ids of a plain text, a conversation (see `encode_chat`), or ids as they are.

        Raises:
            ValueError: what is no text, an empty one, one longer than the context, an id beyond the vocabulary.

        Example:
            >>> model.encode([5, 7, 9]).ids
            [5, 7, 9]
            >>> model.encode([5, 80])
            Traceback (most recent call last):
            ValueError: token 1 is 80, beyond the vocabulary of tiny-llama (80 tokens, 0 to 79)
        """
        return self._fitting(encode(self.tokenizer, text))

    def check_ids(self, ids: Sequence[int]) -> None:
        """Raise ValueError where a token is not in the model's vocabulary, as those of another tokenizer may be.

        Example:
            >>> model.check_ids([5, 79])
        """
        known = self.bridge.cfg.d_vocab
        if max(ids, default=0) >= known:
            place = next(place for place, token in enumerate(ids) if token >= known)
            size = f"{known} tokens, 0 to {known - 1}"
            raise ValueError(f"token {place} is {ids[place]}, beyond the vocabulary of {self.name} ({size})")

    def _fitting(self, encoding: Encoding) -> Encoding:
        """The encoding, if the model has all of its tokens and room for them."""
        ids = encoding.ids
        self.check_ids(ids)
        if len(ids) > self.n_ctx:
            begins = f" It begins: {self.tokenizer.decode(ids[:12])!r}" if self.tokenizer else ""
            where = f"longer than the context of {self.name} ({self.n_ctx})"
            raise TooLongError(f"a text of {len(ids)} tokens is {where}; split it.{begins}")
        return encoding

    def encode_all(self, texts: Text | Sequence[Text]) -> list[Encoding]:
        """`encode` of each text, from one or several (see `emolens.models.texts.gate`).

        Raises:
            ValueError: as `encode`, with the number of the text, the first being 0; no text at all.

        Example:
            >>> [len(encoding.ids) for encoding in model.encode_all(["she ran !", "calm"])]
            [3, 1]
        """
        encoded = []
        for number, text in enumerate(gate(texts).texts):
            try:
                encoded.append(self.encode(text))
            except ValueError as error:
                raise ValueError(f"text {number}: {error}") from error
        return encoded

    def encode_chat(self, messages: Text, **options: Any) -> Encoding:
        """Token ids of a conversation in the model's chat template, up to where the reply begins; see `Encoding`.

        Args:
            options: of the chat template, such as `enable_thinking=True`. What comes out may be given wherever a text
                is: `el.read(model, model.encode_chat(messages, enable_thinking=True), vectors)`.

        Raises:
            ValueError: as `encode`; what the template refuses; an option that it does not have.

        Example:
            >>> model.encode_chat([{"role": "user", "content": "she ran !"}]).turns
            [Turn(role='user', start=3, end=6)]
        """
        (given,), one = gate(messages)
        if not one or not is_chat(given):
            raise ValueError("encode_chat takes one conversation, a list of messages with 'role' and 'content'")
        return self._fitting(encode_chat(self.tokenizer, given, **options))

    def to_tokens(self, texts: Text | Sequence[Text], padding_side: str = "right") -> Batch:
        """Padded ids and mask, each `batch pos`.

        Example:
            >>> model.to_tokens(["she ran !", "calm"]).mask.sum(dim=1)
            tensor([3, 1])
        """
        return self.batch(self.encode_all(texts), padding_side)

    def batch(self, encoded: Sequence[Encoding], padding_side: str = "right") -> Batch:
        """Padded ids, mask and turns of texts that are encoded already.

        Example:
            >>> model.batch([model.encode("she ran !"), model.encode("calm")]).ids.shape
            torch.Size([2, 3])
        """
        padded = pad([encoding.ids for encoding in encoded], padding_side, self.pad_token_id)
        return padded._replace(turns=tuple(encoding.turns for encoding in encoded)).to(self.device)

    @property
    def pad_token_id(self) -> int:
        """What stands in the padding; 0 where the tokenizer has no token for it. Nobody reads it: the mask hides it.

        Example:
            >>> model.pad_token_id
            0
        """
        pad_id = getattr(self.tokenizer, "pad_token_id", None)
        return 0 if pad_id is None else pad_id

    def token_strings(self, ids: Encoding | Sequence[int]) -> list[str]:
        """The text of each token: of an encoded text the characters that it holds there, of other ids each by itself.

        In an encoded text a character made of several tokens stands at the first of them, and the others have "".

        Example:
            >>> model.token_strings(model.encode("she ran !"))
            ['she', 'ran', '!']
        """
        if isinstance(ids, Encoding):
            return labels(self.tokenizer, ids)
        return [self.tokenizer.decode([token]) for token in ids]

    # --- running -----------------------------------------------------------------------------------

    def check_layer(self, layer: Any) -> int:
        """The index of a block as an int. Raises TypeError for another kind of value, ValueError out of range.

        >>> model.check_layer(4)
        Traceback (most recent call last):
        ValueError: layer 4 is out of range: tiny-llama has 4 blocks, 0 to 3
        """
        index = whole_number(layer, "layer")
        if not 0 <= index < self.n_layers:
            raise ValueError(
                f"layer {index} is out of range: {self.name} has {self.n_layers} blocks, 0 to {self.n_layers - 1}"
            )
        return index

    def not_finite(self, text: int, layer: int) -> ValueError:
        """The error for an activation that is infinite or NaN: in which text, and at the output of which block.

        >>> model.not_finite(3, 2)
        ValueError('text 3: the output of block 2 of tiny-llama is not finite (infinite or NaN, in float32)...
        """
        return ValueError(
            f"text {text}: the output of block {layer} of {self.name} is not finite (infinite or NaN, in "
            f"{str(self.dtype).removeprefix('torch.')}). float16 overflows in many models: load it in bfloat16 or "
            f"float32. Else a weight that was changed or a hook made it so"
        )

    def check_layers(self, layers: Any) -> tuple[int, ...]:
        """The blocks that are meant, as ints: one, several, or None for all of them.

        Raises:
            TypeError: what is no whole number.
            ValueError: none at all, one twice, or one out of range.

        >>> model.check_layers(2), model.check_layers(range(3)), model.check_layers(None)
        ((2,), (0, 1, 2), (0, 1, 2, 3))
        >>> model.check_layers([])
        Traceback (most recent call last):
        ValueError: layers=[]: name each block once, and at least one; None is all 4
        """
        if layers is None:
            return tuple(range(self.n_layers))
        chosen = tuple(self.check_layer(layer) for layer in listed(layers))
        if not chosen or len(set(chosen)) < len(chosen):
            raise ValueError(f"layers={layers!r}: name each block once, and at least one; None is all {self.n_layers}")
        return chosen

    def hook_name(self, layer: int, site: str = "resid_post") -> str:
        """TransformerLens's name of a hook point: site "resid_post", "mlp_out", "attn.hook_z", ...

        >>> model.hook_name(2), model.hook_name(2, "attn.hook_z")
        ('blocks.2.hook_resid_post', 'blocks.2.attn.hook_z')
        """
        return f"blocks.{self.check_layer(layer)}.{site if 'hook_' in site else f'hook_{site}'}"

    def hooks(self, fwd_hooks: Iterable[Hook]) -> Any:
        """Context manager that runs `fn(tensor, hook)` at each named point; leaving it removes them all.

        A name is a full one or `(layer, site)`. Inside, do not rely on `hook.name`: TransformerLens 4
        gives the canonical name there, not the alias that was asked for. What `pool`, `derive` and `scan` give
        inside is kept in no cache.

        >>> clean = model.forward("she ran .")
        >>> with model.hooks([((1, "resid_post"), lambda x, hook: 0 * x)]):
        ...     torch.equal(model.forward("she ran ."), clean)
        False
        """
        named = [(n if isinstance(n, str) else self.hook_name(*n), fn) for n, fn in fwd_hooks]
        known = self.bridge.hook_dict  # TransformerLens collects it anew each time
        for name, fn in named:
            if name not in known:
                raise ValueError(f"{self.name} has no hook point {name!r}{did_you_mean(name, known)}")
            self.bridge.check_hooks_to_add(known[name], name, fn, dir="fwd")
        return Hooks([(known[name], fn) for name, fn in named])

    @contextmanager
    def stopping(self, layer: int, fwd_hooks: Iterable[Hook] = (), grad: bool = False) -> Iterator[Runner]:
        """Yields `run(batch) -> residual`: the output of block `layer`, after which each pass ends.

        No logits are computed. The hooks are installed once for all passes inside the context, which
        with TransformerLens 4 takes as long as thirty tokens of a small model.

        >>> with model.stopping(1) as run:
        ...     [run(model.to_tokens(text)).shape[1] for text in ("she ran .", "he was calm and cold .")]
        [3, 6]
        """
        kept: list[Tensor] = []

        def stop(resid: Tensor, hook: Any) -> None:
            kept.append(resid)
            raise _Stop

        def run(batch: Batch, now: Pass | None = None, past: Any = None) -> Tensor:
            with suppress(_Stop):
                self._run(batch, now, past, grad)
            return kept.pop()

        with self.lock, self.hooks([*fwd_hooks, ((layer, "resid_post"), stop)]):
            yield run

    def _run(self, batch: Batch, now: Pass | None = None, past: Any = None, grad: bool = False) -> Tensor:
        support.require(self, "residual")
        if len(batch.ids) > 1 and not bool(batch.mask.all()):
            support.require(self, "several rows")
        with self.lock, torch.set_grad_enabled(grad), self.passes(now or Pass.of(batch)):
            if past is not None:
                return self.hf_model(batch.ids, past_key_values=past, use_cache=True, logits_to_keep=1).logits
            # The mask is always passed: without it TransformerLens 4 reads a left-padded batch wrongly, in silence.
            extra = {"use_cache": False} if hasattr(self.bridge, "original_model") else {}
            return self.bridge(batch.ids, attention_mask=batch.mask.long(), **extra)

    @contextmanager
    def passes(self, now: Pass) -> Iterator[None]:
        """Tell hooks which texts the model is about to run on.

        >>> with model.passes(Pass.of(model.to_tokens("she ran ."))):
        ...     model.passing.length
        (3,)
        """
        before, self.passing = self.passing, now
        try:
            yield
        finally:
            self.passing = before

    @property
    def hf_model(self) -> Any:
        """The Hugging Face model inside the bridge, or None: with it, keys and values of a prompt can be shared.

        >>> type(model.hf_model).__name__
        'LlamaForCausalLM'
        """
        inner = getattr(self.bridge, "original_model", None)
        return inner if hasattr(inner, "generate") else None

    @property
    def rows(self) -> int:
        """Rows of the steering that is in force: one text is run in each of them (see `steer`).

        >>> with el.steer(model, [vectors["calm"], None], 0.1):
        ...     model.rows
        2
        """
        return max((steering.rows for steering in self.steering), default=1)

    def require_one_row(self, what: str) -> None:
        """Raise ValueError where a steering of several rows would be read as if it were one.

        >>> model.require_one_row("pool")
        """
        if self.rows > 1:
            raise ValueError(
                f"{what} batches its texts itself, so it can't run under a steering of {self.rows} rows; "
                f"steer with one direction at a time, or use run_with_cache, forward, generate or el.measures"
            )

    def forward(
        self, texts: Text | Sequence[Text] | Batch, *, stop_after: int | None = None, fwd_hooks: Iterable[Hook] = ()
    ) -> Float[Tensor, "batch pos width"]:
        """The output of block `stop_after` (`batch pos d_model`), or without it the logits (`batch pos vocab`).

        One text under a steering of several rows gives a batch of those rows.

        >>> model.forward(["she ran .", "he was calm ."]).shape
        torch.Size([2, 4, 80])
        """
        batch = texts if isinstance(texts, Batch) else self.to_tokens(texts)
        if stop_after is None:
            with self.hooks(fwd_hooks):
                out = self._run(batch)
        else:
            with self.stopping(stop_after, fwd_hooks) as run:
                out = run(batch)
        return out.expand(self.rows, -1, -1) if len(out) == 1 else out

    def unembed(self, resid: Float[Tensor, "*axes d_model"]) -> Float[Tensor, "*axes vocab"]:
        """Logits of a residual at the end of the last block: final norm, output matrix, bias, scale, soft cap.

        In bfloat16 a logit of 20 is rounded to an eighth; see `token_logits`.

        >>> resid = model.forward("she ran .", stop_after=3)
        >>> torch.allclose(model.unembed(resid), model.forward("she ran ."), atol=1e-5)
        True
        """
        support.require(self, "lens")
        with torch.set_grad_enabled(resid.requires_grad):
            found = head.logits(self, resid.reshape(-1, 1, self.d_model))
        return found.reshape(*resid.shape[:-1], -1).to(resid.device)

    def token_logits(
        self, resid: Float[Tensor, "*axes d_model"], tokens: Int[Tensor, "token"]
    ) -> Float[Tensor, "*axes token"]:
        """The logits of a few tokens, in float32 whatever the model's dtype.

        >>> model.token_logits(model.forward("she ran .", stop_after=3), torch.tensor([5, 6])).shape
        torch.Size([1, 3, 2])
        """
        support.require(self, "lens")
        with torch.no_grad():
            found = head.of_tokens(self, resid.reshape(-1, 1, self.d_model), tokens)
        return found.reshape(*resid.shape[:-1], -1).to(resid.device)

    def logits(self, texts: Text | Sequence[Text], positions: str | Sequence[int] = "last") -> Float[Tensor, "..."]:
        """Next-token logits at chosen positions only, right-aligned with the text.

        Args:
            positions: "last" gives `batch vocab`; a list of token ranks (0 is the first token, -1 the
                last) gives `batch positions vocab`.

        Raises:
            ValueError: a position outside a text.

        >>> model.logits("she ran .").shape, model.logits("she ran .", [0, -1]).shape
        (torch.Size([1, 80]), torch.Size([1, 2, 80]))
        """
        batch = self.to_tokens(texts)
        resid = self.forward(batch, stop_after=self.n_layers - 1)
        lengths = batch.mask.sum(dim=1, keepdim=True)
        wanted = torch.tensor([-1] if isinstance(positions, str) else list(positions), device=self.device)
        at = torch.where(wanted < 0, lengths + wanted, wanted.expand(len(lengths), -1))
        if (at < 0).any() or (at >= lengths).any():
            raise ValueError(f"positions {positions} reach outside a text of {int(lengths.min())} tokens")
        at = at.expand(len(resid), -1).to(resid.device)
        logits = self.unembed(resid.gather(1, at[..., None].expand(-1, -1, self.d_model)))
        return logits[:, 0] if isinstance(positions, str) else logits

    def run_with_cache(
        self,
        texts: Text | Sequence[Text],
        layers: Layers | None = None,
        sites: Sequence[str] = ("resid_post",),
    ) -> ActivationCache:
        """TransformerLens's cache of the named sites at the named layers (default: all blocks), stored once each.

        The texts are padded on the right, as `to_tokens(texts)` shows. The pass ends after the deepest
        layer and computes no logits. `cache["resid_post", 18]` is `batch pos d_model`.

        >>> model.run_with_cache("she ran .", layers=[2], sites=["mlp_out"])["mlp_out", 2].shape
        torch.Size([1, 3, 32])
        """
        blocks = self.check_layers(layers)
        stored: dict[str, Tensor] = {}

        def keep(name: str) -> HookFn:
            return lambda tensor, hook: stored.__setitem__(name, tensor.detach())

        names = [self.hook_name(layer, site) for layer in blocks for site in sites]
        self.forward(texts, stop_after=max(blocks), fwd_hooks=[(name, keep(name)) for name in names])
        return ActivationCache(stored, self.bridge)


class Hooks:
    """Hook functions at their hook points: on them inside the context, which may be entered again and again.

    TransformerLens's own context looks for the hook points each time that it is entered, which takes as long as
    several tokens of a small model.

    >>> hooks = model.hooks([((1, "resid_post"), lambda x, hook: 0 * x)])
    >>> for _ in range(2):
    ...     with hooks:
    ...         model.is_plain
    False
    False
    >>> model.is_plain
    True
    """

    def __init__(self, at: Sequence[tuple[HookPoint, HookFn]]) -> None:
        self.at = at
        self._added: list[tuple[HookPoint, Any]] = []

    def __enter__(self) -> "Hooks":
        for point, fn in self.at:
            point.add_hook(fn)
            self._added.append((point, point.fwd_hooks[-1]))
        return self

    def __exit__(self, *error: Any) -> None:
        while self._added:
            point, handle = self._added.pop()
            handle.hook.remove()
            point.fwd_hooks = [other for other in point.fwd_hooks if other is not handle]


class Columns:
    """Counts the columns that a hook has seen, to know where in a text the tokens of a cached pass stand.

    >>> columns = Columns(model)
    >>> columns.next(3)[1], columns.next(2)[1]
    (0, 3)
    """

    def __init__(self, model: Hooked) -> None:
        self.model, self.column = model, 0
        self.last: Pass | None = None

    def next(self, width: int) -> tuple[Pass | None, int]:
        """The pass that runs, and the first of the next `width` columns.

        >>> Columns(model).next(3)  # no pass runs
        (None, 0)
        """
        now = self.model.passing
        if now is not self.last:
            self.last, self.column = now, now.start if now else 0
        self.column += width
        return now, self.column - width
