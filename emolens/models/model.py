"""`HookedModel`: one wrapper for caching, hooking and generating over both of TransformerLens's model classes."""

from collections.abc import Sequence
from typing import Any

from emolens.models.checks import CAPABILITIES
from emolens.models.generation import Sampling, write
from emolens.models.hooked import Hooked
from emolens.models.texts import Text


class HookedModel(Hooked):
    """A hooked language model with its tokenizer, and `generate`.

    Make one with `el.load` or `HookedModel.from_hf`. `encode`, `batch`, `hooks`, `forward`, `logits` and
    `run_with_cache` come from `Hooked`.

    Example:
        >>> model
        HookedModel(tiny-llama: 4 blocks, d_model 32, torch.float32, TransformerBridge)
    """

    capabilities = CAPABILITIES

    def generate(
        self,
        texts: Text | Sequence[Text],
        max_new_tokens: int = 60,
        temperature: float = 0.8,
        top_p: float = 0.95,
        seed: int | Sequence[int] = 0,
        stop: str | Sequence[str] = (),
        watch: Any = None,
    ) -> Any:
        """Continue one text (returns a string) or several in one batch (returns a list); new text only.

        Rows of the same text share its pass. One text under a steering of several rows is continued in
        each of them.

        Args:
            temperature: 0 is greedy.
            seed: one for the batch, or one for each row, which is then written as if it were alone.
            stop: a string at which the text ends, or several; they are cut off. A conversation with a base model
                also stops where the model begins to write the next "Human:" turn.
            watch: an `el.Watch`: what comes back is then a `Readout` of the tokens of each prompt and its reply, with
                the scores that they had while they were written.

        Raises:
            ValueError: an empty text, or one that leaves no room in the context for the new tokens; a number out of
                its range, an empty stop string.

        Example:
            >>> reply = model.generate("she ran", max_new_tokens=4, temperature=0)
            >>> reply == model.generate(["she ran", "he was"], max_new_tokens=4, temperature=0)[0]
            True
            >>> readout = model.generate("she ran", 4, watch=el.Watch.of(vectors, ["calm", "sad"]))
            >>> readout.emotions, "".join(readout.labels).startswith("she ran")
            (('calm', 'sad'), True)
            >>> model.generate("she ran", max_new_tokens=0)
            Traceback (most recent call last):
            ValueError: max_new_tokens is 0; it must be a whole number of at least 1
        """
        return write(self, texts, Sampling(max_new_tokens, temperature, top_p, seed, stop), watch)
