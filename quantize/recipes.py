"""The recipes: how each kind of weight is stored and multiplied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..runtime.bundle.manifest import CacheDtype
from ..runtime.errors import OptionError
from .weight_storages import BLOCK_SIZES, Blockwise, DynamicInt8, Float16, Float32, Storage


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A way to quantize a bundle: a storage for each kind of weight, and defaults."""

    name: str
    layer: Storage  # storage of linear layers
    step_layer: Storage  # storage of decoder layers after an encoder; they read few tokens
    table: Blockwise | Float16  # storage of embeddings and lm_head (one table if tied)
    kept: Storage  # storage of kept layers, which are too sensitive for `layer`
    kept_table: Blockwise | Float32  # storage of kept tables
    kept_layers: frozenset[str] = field(default=frozenset())  # names of kept layers and tables
    kv_cache: CacheDtype  # default dtype when the bundle is loaded
    perplexity_rise_limit: float  # highest rise of perplexity; 0.01: one percent
    float32_endings: tuple[str, ...] = ()  # suffixes of layers that stay float32

    def storage(self, weight: str, *, is_table: bool = False, in_steps: bool = False) -> Storage:
        """Return the storage of a linear layer's weight or of a table.

        ``in_steps``: whether the layer belongs to a decoder after an encoder.
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
        """The number of weights that share a scale in the layers; None if they have no blocks."""
        return self.layer.block_size

    def with_block_size(self, block_size: Any) -> Recipe:
        """Return the recipe with another block size of the layers.

        Raises ``OptionError`` for a bad size, or if the layers have no blocks.
        """
        if type(block_size) is not int or block_size not in BLOCK_SIZES:
            sizes = ", ".join(map(str, BLOCK_SIZES))
            raise OptionError(f"The block size is {block_size}; it must be one of {sizes}.")
        blocks = self.layer.with_block_size(block_size)
        if blocks is None:
            raise OptionError(f"A block size has no effect with the recipe {self.name!r}.")
        return replace(self, layer=blocks, step_layer=blocks)


# With larger blocks (8 bits: above 64, 4 bits: above 32) the results of ONNX Runtime's AVX-512
# kernels for one row and for several differ in the last bits.
_BLOCKS_8 = Blockwise(8, 64)
_BLOCKS_4 = Blockwise(4, 32)

RECIPES: Mapping[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="int8",
            layer=DynamicInt8(),
            step_layer=_BLOCKS_8,
            table=_BLOCKS_8,
            kept=Blockwise(8, 32),
            kept_table=Blockwise(8, 32),
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
            kept_table=Blockwise(8, 32),
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
            # ff.wo's outputs are T5's largest activations: above 65,504 (float16) in larger models.
            float32_endings=(".ff.wo",),
        ),
    )
}


def find_recipe(name: Any, block_size: Any = None) -> Recipe:
    """Return the recipe ``name``, with ``block_size`` if given; ``OptionError`` for a bad one."""
    if not isinstance(name, str) or name not in RECIPES:
        raise OptionError(f"There is no recipe {name!r}: use {', '.join(RECIPES)}.")
    recipe = RECIPES[name]
    return recipe if block_size is None else recipe.with_block_size(block_size)
