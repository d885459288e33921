"""`EmotionVectors`: one vector for each emotion and layer, and what is needed to read and steer with them."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, overload

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from emolens.errors import did_you_mean, whole_number
from emolens.files import data_path, write_atomic
from emolens.models.hooked import Layer, Layers
from emolens.models.model import HookedModel
from emolens.vectors import control_vector
from emolens.vectors.direction import (
    Direction,
    check_finite,
    check_same,
    check_stamp,
    fingerprint_of,
    position_of,
    unit,
)
from emolens.vectors.whitening import stack_noise

METHODS = ("raw", "denoised", "whitened")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)  # that vectors are stored in
FORMAT = "emolens-vectors-2"
FORMATS = ("emolens-vectors-1", FORMAT)  # that are read; in the first, every layer has its noise
NO_TENSORS = {"emotions", "layers", "stamp", "noise_layers", "noise_source"}


def check_method(method: str) -> str:
    """`method`, with "cosine" read as the denoised cosine of the paper. Raises ValueError for an unknown one.

    >>> check_method("cosine")
    'denoised'
    """
    method = "denoised" if method == "cosine" else method
    if method not in METHODS:
        raise ValueError(f"method {method!r} is none of {', '.join(METHODS)} (or 'cosine', the denoised one)")
    return method


@dataclass(frozen=True)
class EmotionVectors:
    """Emotion vectors of one model.

    `vectors["calm"]` is a `Direction`, `vectors[["calm", "sad"]]` and `vectors[18]` are the vectors of these emotions
    or of this layer only, `vectors["calm", 18]` is a single one. `"calm" in vectors`, `list(vectors)` and
    `len(vectors)` are about the emotions.

    >>> shipped
    EmotionVectors(171 emotions, layers 18 to 22, smollm2-135m-instruct)
    >>> "calm" in shipped, list(shipped)[:2], shipped["calm", 20].shape
    (True, ['afraid', 'alarmed'], torch.Size([576]))

    Attributes:
        raw: mean activation of an emotion's stories minus the mean over emotions (paper, section 3).
        whitened: directions `W W v / |W v|` whose dot product with a centred text, divided by the text's
            own whitened norm, is the cosine after whitening both with `W = (S + a tr(S)/d)^(-1/2)`.
        neutral_basis: orthonormal principal components of neutral dialogues that explain half of their
            variance; rows of zeros fill up layers that have fewer.
        noise_basis, noise_scale: rows b and scales s, the last one t, of the layers in `noise_layers`, with
            `|W x|^2 = sum (s^2 - t^2) (b x)^2 + t^2 |x|^2`: a triangular factor (see `whitening`), or, made compact,
            eigenvectors of S.
        centre_stories, centre_neutral: mean activation of the packaged stories and of neutral dialogues.
        residual_norm: mean norm of the residual stream over the stories, the unit of steering strength.
        reliability: cosine of each vector between two halves of the topics, for raw, denoised, whitened.
        reliability_null: 2.5 and 97.5 % quantiles of the same cosine between vectors of different emotions.
        stamp: model, fingerprint, dtype, corpus hash, recipe, choices made on the stories, versions.
        noise_layers: the layers whose noise is held; of a large model those around the chosen block and the default
            one. None stands for all.
        noise_source: gives the noise of another layer, from the pooled stories; it is not saved.
    """

    emotions: tuple[str, ...]
    layers: tuple[int, ...]
    raw: Float[Tensor, "emotion layer d_model"]
    whitened: Float[Tensor, "emotion layer d_model"]
    neutral_basis: Float[Tensor, "layer component d_model"]
    noise_basis: Float[Tensor, "kept noise d_model"]
    noise_scale: Float[Tensor, "kept scale"]
    centre_stories: Float[Tensor, "layer d_model"]
    centre_neutral: Float[Tensor, "layer d_model"]
    residual_norm: Float[Tensor, "layer"]
    reliability: Float[Tensor, "method emotion layer"]
    reliability_null: Float[Tensor, "method bound layer"]
    stamp: dict[str, Any]
    noise_layers: tuple[int, ...] | None = None
    noise_source: Callable[[int], tuple[Tensor, Tensor]] | None = None

    def __post_init__(self) -> None:
        if self.noise_layers is None:
            object.__setattr__(self, "noise_layers", self.layers)
        if len(self.noise_layers or ()) != len(self.noise_basis):
            raise ValueError(f"there is noise of {len(self.noise_basis)} layers, not of {self.noise_layers}")

    def __repr__(self) -> str:
        span = f"{self.layers[0]} to {self.layers[-1]}" if len(self.layers) > 1 else str(self.layers[0])
        model = self.stamp.get("model", "model unknown")
        return f"EmotionVectors({len(self.emotions)} emotions, layers {span}, {model})"

    def __len__(self) -> int:
        return len(self.emotions)

    def __iter__(self) -> Iterator[str]:
        return iter(self.emotions)

    def __contains__(self, emotion: object) -> bool:
        if not isinstance(emotion, str):
            raise TypeError(f"{emotion!r} is no name of an emotion; the layers are in vectors.layers")
        return emotion in self.emotions

    # --- indexing ----------------------------------------------------------------------------------

    @overload
    def __getitem__(self, key: str) -> Direction: ...
    @overload
    def __getitem__(self, key: list[str] | Layer) -> "EmotionVectors": ...
    @overload
    def __getitem__(self, key: tuple[str, Layer]) -> Tensor: ...
    def __getitem__(self, key: Any) -> Any:
        """`v["calm"]` is a Direction, `v[["calm", "sad"]]` and `v[18]` are EmotionVectors, `v["calm", 18]` a vector.

        Directions and single vectors are the denoised ones, of length 1.

        Raises:
            ValueError: an emotion or layer that is not there, no emotion, or more than one emotion and one layer.
            TypeError: another kind of key.
        """
        if isinstance(key, str):
            values = unit(self._denoise(self.raw[self.index(key)]))
            norm, centre = self.residual_norm, self.centre_stories
            return Direction(key, self.layers, values, norm, centre, False, self.stamp, ((key, 1.0),))
        if isinstance(key, tuple):
            if len(key) != 2:
                raise ValueError(f"vectors[{key}]: give an emotion and a layer; for several layers vectors.at(18, 20)")
            return self[key[0]].at(key[1])
        if not isinstance(key, Iterable):
            return self.at(key)
        rows = [self.index(name) for name in key]
        if not rows:
            raise ValueError("vectors[[]]: name at least one emotion")
        return replace(
            self,
            emotions=tuple(self.emotions[row] for row in rows),
            raw=self.raw[rows],
            whitened=self.whitened[rows],
            reliability=self.reliability[:, rows],
        )

    def index(self, emotion: str) -> int:
        """Row of an emotion. Raises ValueError with the nearest names, TypeError for what is no name.

        >>> shipped.index("clam")
        Traceback (most recent call last):
        ValueError: no vector for the emotion 'clam' (did you mean calm...)
        """
        if emotion not in self:
            raise ValueError(f"no vector for the emotion {emotion!r}{did_you_mean(emotion, self.emotions)}")
        return self.emotions.index(emotion)

    def at(self, *layers: Layer) -> "EmotionVectors":
        """The same vectors at these layers only, in this order; each is named once.

        >>> shipped.at(20, 18).layers
        (20, 18)
        """
        rows = [position_of(self.layers, layer) for layer in layers]
        if not rows or len(set(rows)) < len(rows):
            raise ValueError(f"at{layers}: name each layer once, and at least one")
        names = ("neutral_basis", "centre_stories", "centre_neutral", "residual_norm")
        per_layer = {name: getattr(self, name)[rows] for name in names}
        held = self._noise_layers
        noisy = [held.index(self.layers[row]) for row in rows if self.layers[row] in held]
        per_layer |= {name: getattr(self, name)[noisy] for name in ("noise_basis", "noise_scale")}
        per_emotion = {name: getattr(self, name)[:, rows] for name in ("raw", "whitened")}
        halves = {name: getattr(self, name)[:, :, rows] for name in ("reliability", "reliability_null")}
        chosen = tuple(self.layers[row] for row in rows)
        kept = tuple(held[place] for place in noisy)
        return replace(self, layers=chosen, noise_layers=kept, **per_layer, **per_emotion, **halves)

    def _denoise(self, x: Float[Tensor, "... layer d_model"]) -> Tensor:
        inside = torch.einsum("...ld,lcd->...lc", x, self.neutral_basis)
        return x - torch.einsum("...lc,lcd->...ld", inside, self.neutral_basis)

    def vectors(self, layer: Layer, method: str = "denoised") -> Float[Tensor, "emotion d_model"]:
        """The vectors of one layer as they were fitted, not normalised.

        >>> shipped.vectors(20, "whitened").shape
        torch.Size([171, 576])
        """
        row, method = position_of(self.layers, layer), check_method(method)
        if method == "whitened":
            return self.whitened[:, row]
        raw = self.raw[:, row]
        basis = self.neutral_basis[row]
        return raw - raw @ basis.T @ basis if method == "denoised" else raw

    def matrix(self, layer: Layer, method: str = "denoised") -> Float[Tensor, "emotion d_model"]:
        """The vectors of one layer, of length 1.

        >>> bool((shipped.matrix(20).norm(dim=1) - 1).abs().max() < 1e-5)
        True
        """
        return unit(self.vectors(layer, method))

    def whitened_norm(self, x: Float[Tensor, "... d_model"], layer: Layer) -> Float[Tensor, "..."]:
        """Norm of centred activations after whitening, `|W x|`.

        Raises:
            ValueError: a layer whose noise is not held and can't be computed here; says where it is and how to get it.

        >>> shipped.whitened_norm(torch.ones(3, 576), 20).shape
        torch.Size([3])
        """
        rows, scale = (part.to(x.device) for part in self._noise(layer))
        squares, rest = scale[:-1] ** 2, scale[-1] ** 2
        total = ((x @ rows.T) ** 2 * (squares - rest)).sum(dim=-1) + rest * (x**2).sum(dim=-1)
        return total.clamp(min=0).sqrt()

    @property
    def _noise_layers(self) -> tuple[int, ...]:
        return self.layers if self.noise_layers is None else self.noise_layers

    def _noise(self, layer: Layer) -> tuple[Float[Tensor, "noise d_model"], Float[Tensor, "scale"]]:
        """The noise of one layer, computed from the pooled stories where it is not held."""
        layer = self.layers[position_of(self.layers, layer)]
        if layer in self._noise_layers:
            row = self._noise_layers.index(layer)
            return self.noise_basis[row], self.noise_scale[row]
        lacking = (
            f"these vectors hold the noise of layers {', '.join(map(str, self._noise_layers)) or 'none'}, not that of "
            f"{layer}, which whitening a text takes"
        )
        if self.noise_source is None:
            raise ValueError(
                f"{lacking}: get it with el.derive(model).at({layer}) or el.refit(model, vectors, [{layer}])"
            )
        try:
            return self.noise_source(layer)
        except OSError as error:
            raise ValueError(
                f"{lacking}, and the pooled stories that it is computed from are gone ({error}): pool them again with "
                f"el.derive(model), or el.refit(model, vectors, [{layer}])"
            ) from error

    def with_noise(self) -> "EmotionVectors":
        """The same, with the noise of every layer held: where many texts are whitened, or before saving for elsewhere.

        Raises:
            ValueError: as `whitened_norm`.

        >>> shipped.at(18, 19).with_noise().noise_layers
        (18, 19)
        """
        if self._noise_layers == self.layers:
            return replace(self, noise_source=None)
        rows, scale = stack_noise([self._noise(layer) for layer in self.layers], self.raw.shape[-1])
        return replace(self, noise_basis=rows, noise_scale=scale, noise_layers=self.layers, noise_source=None)

    def compact(self, noise: int = 64) -> "EmotionVectors":
        """The same with only the `noise` strongest noise directions, the others scaled alike.

        The readout directions stay exact, only a text's own whitened norm becomes approximate.

        Raises:
            ValueError: as `whitened_norm`.

        >>> shipped.compact(8).noise_basis.shape
        torch.Size([5, 8, 576])
        """
        noise, parts = whole_number(noise, "noise", least=1), []
        for layer in self.layers:
            rows, scale = (part.double() for part in self._noise(layer))
            squares = scale**2
            metric = rows.T * (squares[:-1] - squares[-1]) @ rows  # of W W, less what it is outside of the rows
            values, vectors = torch.linalg.eigh(metric)  # the strongest noise is scaled down most
            values = (values + squares[-1]).clamp(min=0)
            first, rest = values[:noise], values[noise:]
            outside = rest.mean() if len(rest) else squares[-1]
            parts.append((vectors[:, :noise].T.float(), torch.cat([first, outside[None]]).sqrt().float()))
        rows, scale = stack_noise(parts, self.raw.shape[-1])
        return replace(self, noise_basis=rows, noise_scale=scale, noise_layers=self.layers, noise_source=None)

    # --- comparing ---------------------------------------------------------------------------------

    def similarity(self, layer: Layer | None = None, method: str = "denoised") -> Float[Tensor, "emotion emotion"]:
        """Cosines between the emotion vectors of one layer (paper, section 6).

        >>> cosine = shipped[["calm", "peaceful", "furious"]].similarity(20)
        >>> bool(cosine[0, 1] > 0.5 > cosine[0, 2])
        True
        """
        vectors = self.matrix(self.default_layer if layer is None else layer, method)
        return vectors @ vectors.T

    def nearest(
        self, emotion: str | Direction, k: int = 5, layer: Layer | None = None, method: str = "denoised"
    ) -> list[tuple[str, float]]:
        """The k emotions of highest cosine with an emotion or a direction; all where there are fewer.

        Raises:
            ValueError: an unknown emotion or layer, a direction of another model, k below 1.

        >>> [name for name, cosine in shipped.nearest("calm", 3)]
        ['peaceful', 'serene', 'relaxed']
        >>> [name for name, cosine in shipped.nearest(shipped["happy"] - shipped["sad"], 1)]
        ['cheerful']
        """
        k, layer = whole_number(k, "k", least=1), self.default_layer if layer is None else layer
        vectors = self.matrix(layer, method)
        if isinstance(emotion, Direction):
            check_same(emotion.stamp, emotion.values.shape[-1], self.stamp, self.raw.shape[-1])
            query, name = unit(emotion.at(layer)), None
            check_finite(query, f"{emotion.name!r} at layer {layer}")
        else:
            query, name = vectors[self.index(emotion)], emotion
        order = (vectors @ query).argsort(descending=True).tolist()
        return [(self.emotions[i], float(vectors[i] @ query)) for i in order if self.emotions[i] != name][:k]

    def cosine_with(self, other: "EmotionVectors", layer: Layer, method: str = "denoised") -> Float[Tensor, "emotion"]:
        """Cosine of each emotion's vector here with the one of `other`, for the emotions that both have.

        `other` may be of another checkpoint of the same architecture, such as a post-trained one.

        Raises:
            ValueError: no emotion in common, an unknown layer, or models of another width or architecture.

        >>> bool((shipped.cosine_with(shipped[["calm", "sad"]], 20) > 0.999).all())
        True
        """
        shared = [name for name in self.emotions if name in other.emotions]
        if not shared:
            raise ValueError(f"no emotion in common: {self.emotions[:3]} ... against {other.emotions[:3]} ...")
        kinds = [(vectors.stamp.get("architecture"), vectors.raw.shape[-1]) for vectors in (self, other)]
        known = None not in (kinds[0][0], kinds[1][0])
        if kinds[0][1] != kinds[1][1] or (known and kinds[0] != kinds[1]):
            raise ValueError(f"vectors of other architectures have no axes in common: {kinds[0]} against {kinds[1]}")
        return (self[shared].matrix(layer, method) * other[shared].matrix(layer, method)).sum(dim=1)

    @property
    def default_layer(self) -> int:
        """The block that the paper reads, two thirds of the depth; the middle one when that is not among the layers.

        >>> shipped.default_layer, shipped.at(18, 19).default_layer
        (20, 19)
        """
        wanted = self.stamp.get("default_layer")
        return wanted if wanted in self.layers else self.layers[len(self.layers) // 2]

    def chosen_layer(self, method: str = "denoised") -> int:
        """The block at which left-out stories were recognised best, chosen on the stories alone.

        Raises:
            ValueError: an unknown method, or vectors for which no layer was chosen (of `fit`, not of `derive`).

        >>> shipped.chosen_layer("whitened") in shipped.layers
        True
        """
        method = check_method(method)
        if "chosen" not in self.stamp:
            raise ValueError(f"no layer was chosen for {self}: name one, or derive the vectors with el.derive(model)")
        return self.stamp["chosen"][method]["layer"]

    def split_half(self, layer: Layer | None = None, method: str = "denoised") -> Float[Tensor, "emotion"]:
        """Reliability: cosine of each emotion's vector between two halves of the topics.

        >>> bool(shipped.split_half(20).median() > 0.5)
        True
        """
        row = position_of(self.layers, self.default_layer if layer is None else layer)
        return self.reliability[METHODS.index(check_method(method)), :, row]

    # --- on disk -----------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise ValueError for a number that is not finite, or a stamp without a fingerprint.

        A reliability alone may be NaN: that of an emotion whose stories cannot be halved.

        >>> shipped.check()
        """
        fingerprint_of(self.stamp)
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Tensor):
                check_finite(value.nan_to_num(0) if f.name.startswith("reliability") else value, f.name)

    def save(self, path: str | Path, dtype: torch.dtype = torch.float32) -> Path:
        """Write safetensors with the stamp as metadata and a checksum; float16 halves the size.

        Raises:
            ValueError: a dtype other than float32, float16 or bfloat16, or vectors that are not finite.

        >>> shipped[20].save("vectors.safetensors", torch.float16).name
        'vectors.safetensors'
        """
        if dtype not in DTYPES:
            raise ValueError(f"dtype={dtype} is none of {', '.join(map(str, DTYPES))}: vectors would be ruined in it")
        self.check()
        tensors, scales = {}, {}
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Tensor):
                # float16 has few exponents: each tensor is stored with its largest entry at 1,000.
                largest = float(value.nan_to_num(0).abs().max()) if value.numel() else 0.0
                scales[f.name] = 1.0 if dtype == torch.float32 else largest / 1000 or 1.0
                tensors[f.name] = (value / scales[f.name]).to(dtype).contiguous()
        named = {name: getattr(self, name) for name in ("emotions", "layers", "noise_layers", "stamp")}
        header = json.dumps(named | {"scales": scales})
        metadata = {"format": FORMAT, "header": header, "sha256": _checksum(header, tensors)}
        return write_atomic(path, save(tensors, metadata))

    @classmethod
    def load(cls, path: str | Path, model: HookedModel | None = None) -> "EmotionVectors":
        """Read vectors and, with `model`, make sure that they are that model's.

        Raises:
            ValueError: a damaged or truncated file, another format, numbers that are not finite, or vectors of
                another model.

        >>> EmotionVectors.load(shipped.at(20).save("v.safetensors")).layers
        (20,)
        """
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        except FileNotFoundError:
            raise
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{path} is damaged or no safetensors file ({error}); derive or copy it again") from error
        if metadata.get("format") not in FORMATS:
            raise ValueError(f"{path} holds no emotion vectors (format {metadata.get('format')!r}, not {FORMAT!r})")
        if metadata.get("sha256") != _checksum(metadata.get("header", ""), tensors):
            raise ValueError(f"{path} is damaged: its checksum does not match; derive or copy it again")
        if lacking := {f.name for f in fields(cls)} - NO_TENSORS - set(tensors):
            raise ValueError(f"{path} is of another version of emolens (no {min(lacking)}); derive the vectors again")
        header = json.loads(metadata["header"])
        values = {name: tensor.float() * header["scales"][name] for name, tensor in tensors.items()}
        noise_layers = tuple(header.get("noise_layers", header["layers"]))
        named = {"stamp": header["stamp"], "noise_layers": noise_layers}
        try:
            vectors = cls(tuple(header["emotions"]), tuple(header["layers"]), **named, **values)
            vectors.check()
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        if model is not None:
            vectors.check_model(model)
        return vectors

    def check_model(self, model: HookedModel) -> None:
        """Raise ValueError for vectors of another model; warn when only the weights differ (another revision).

        >>> vectors.check_model(model)
        """
        check_stamp(self.stamp, self.raw.shape[-1], model)

    def export_gguf(self, path: str | Path, direction: str | Direction, layers: Layers | None = None) -> Path:
        """Write one emotion or combination as a llama.cpp control vector: `control_vector.export_gguf`.

        Raises:
            ValueError: as `control_vector.export_gguf`, and for a direction of another model.

        >>> shipped.export_gguf("calm.gguf", "calm").name
        'calm.gguf'
        """
        chosen = self[direction] if isinstance(direction, str) else direction
        check_same(chosen.stamp, chosen.values.shape[-1], self.stamp, self.raw.shape[-1])
        return control_vector.export_gguf(path, chosen, layers)


def _checksum(header: str, tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(header.encode())
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def packaged_vectors(model: HookedModel | str) -> EmotionVectors:
    """The vectors that ship with the package for an embedded model: five layers around the default one.

    Raises:
        ValueError: no vectors ship for this model, or its weights are not those they were made from.

    >>> packaged_vectors("smollm2-135m-instruct")
    EmotionVectors(171 emotions, layers 18 to 22, smollm2-135m-instruct)
    """
    name = model if isinstance(model, str) else model.name
    path = data_path("vectors", f"{name}.safetensors")
    if not path.exists():
        shipped = ", ".join(sorted(p.stem for p in data_path("vectors").glob("*.safetensors")))
        raise ValueError(f"no vectors ship for {name!r}; they do for {shipped}. Use el.derive(model)")
    return EmotionVectors.load(path, None if isinstance(model, str) else model)
