"""The recipes: what each kind of weight is stored and multiplied as."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..runtime.bundle.manifest import CacheDtype
from ..runtime.errors import OptionError
from .storage import BLOCK_SIZES, Blocks, Float16, Float32, Rows, Storage


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a bundle is quantized."""

    name: str
    layer: Storage  # of the linear layers
    step_layer: Storage  # of those of a decoder after an encoder: few tokens at once
    table: (
        Blocks | Float16
    )  # of the embeddings and the lm_head, which read one table where they are tied
    kept: Storage  # of layers that turn out to be too sensitive
    kept_table: Blocks | Float32  # of tables that do
    kept_layers: frozenset[str] = field(default=frozenset())  # layers and tables known to be
    kv_cache: CacheDtype  # the default when the bundle is loaded
    perplexity_rise_limit: float  # 0.01: one percent
    float32_endings: tuple[str, ...] = ()  # of layers that stay as they are

    def storage(self, weight: str, *, is_table: bool = False, in_steps: bool = False) -> Storage:
        """As what a linear layer's weight, or a table, is stored.

        ``in_steps``: it is a layer of a decoder after an encoder.
        """
        if weight.endswith(self.float32_endings):
            return Float32()
        if weight in self.kept_layers:
            return self.kept_table if is_table else self.kept
        if is_table:
            return self.table
        return self.step_layer if in_steps else self.layer

    @property
    def block_size(self) -> int | None:
        """Weights that share a scale in the layers, where they are stored in blocks."""
        return self.layer.block_size

    def with_block_size(self, block_size: Any) -> Recipe:
        """The same with other blocks; ``OptionError`` where there are none, or for a bad size."""
        if type(block_size) is not int or block_size not in BLOCK_SIZES:
            sizes = ", ".join(map(str, BLOCK_SIZES))
            raise OptionError(f"The block size is {block_size}; it must be one of {sizes}.")
        blocks = self.layer.with_block_size(block_size)
        if blocks is None:
            raise OptionError(f"A block size has no effect with the recipe {self.name!r}.")
        return replace(self, layer=blocks, step_layer=blocks)


# With larger blocks than these (8 bits: 64, 4 bits: 32) ONNX Runtime's AVX-512 kernels give other
# last bits for one row than for several.
_BLOCKS_8 = Blocks(8, 64)
_BLOCKS_4 = Blocks(4, 32)

RECIPES: Mapping[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="int8",
            layer=Rows(),
            step_layer=_BLOCKS_8,
            table=_BLOCKS_8,
            kept=Blocks(8, 32),
            kept_table=Blocks(8, 32),
            kv_cache="int8",
            perplexity_rise_limit=0.005,
        ),
        Recipe(
            name="int4",
            layer=_BLOCKS_4,
            step_layer=_BLOCKS_4,
            table=_BLOCKS_4,
            kept=_BLOCKS_8,
            kept_table=_BLOCKS_8,
            kv_cache="int8",
            perplexity_rise_limit=0.03,
        ),
        Recipe(
            name="int8-weights",
            layer=_BLOCKS_8,
            step_layer=_BLOCKS_8,
            table=_BLOCKS_8,
            kept=Float32(),
            kept_table=Blocks(8, 32),
            kv_cache="int8",
            perplexity_rise_limit=0.005,
        ),
        Recipe(
            name="fp16",
            layer=Float16(),
            step_layer=Float16(),
            table=Float16(),
            kept=Float32(),
            kept_table=Float32(),
            kv_cache="float32",
            perplexity_rise_limit=0.005,
            # T5's largest activations are what this layer gives, beyond 65,504 in larger models.
            float32_endings=(".ff.wo",),
        ),
    )
}


def find_recipe(name: Any, block_size: Any = None) -> Recipe:
    """A recipe by its name; ``OptionError`` where there is none."""
    if not isinstance(name, str) or name not in RECIPES:
        raise OptionError(f"There is no recipe {name!r}: use {', '.join(RECIPES)}.")
    recipe = RECIPES[name]
    return recipe if block_size is None else recipe.with_block_size(block_size)
