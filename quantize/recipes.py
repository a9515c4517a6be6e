"""The recipes: how each kind of weight is stored and multiplied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from ..runtime.bundle.manifest import CacheDtype
from ..runtime.errors import OptionError
from .weight_storages import BLOCK_SIZES, Blockwise, DynamicInt8, Float16, Float32, Storage

if TYPE_CHECKING:
    from .graph.network import Network


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A way to quantize a bundle: a storage for each kind of weight, and defaults.

    Attributes:
        name: The name of the recipe in ``RECIPES``.
        layer: The storage of linear layers.
        step_layer: The storage of linear layers of a decoder after an encoder. These layers compute
            few tokens at a time.
        table: The storage of the embedding and the lm_head (one table if they are tied).
        kept: The storage of kept layers, which are too sensitive for ``layer``.
        kept_table: The storage of a kept table.
        kept_layers: The names of kept layers and tables.
        kv_cache: The default dtype of the bundle's KV cache.
        perplexity_rise_limit: The highest allowed rise of perplexity, where 0.01 means one percent.
        keeps_large: Whether layers whose outputs may exceed the range of float16 stay float32.
    """

    name: str
    layer: Storage
    step_layer: Storage
    table: Blockwise | Float16
    kept: Storage
    kept_table: Blockwise | Float32
    kept_layers: frozenset[str] = field(default=frozenset())
    kv_cache: CacheDtype
    perplexity_rise_limit: float
    keeps_large: bool = False

    def storage(
        self,
        weight: str,
        *,
        is_table: bool = False,
        in_steps: bool = False,
        is_large: bool = False,
    ) -> Storage:
        """Return the storage of a weight.

        Args:
            weight: The name of the weight of a linear layer or of a table.
            is_table: Whether the weight is a table: an embedding or an lm_head.
            in_steps: Whether the weight belongs to a decoder after an encoder.
            is_large: Whether the layer's outputs may exceed the range of 16-bit floats.

        Returns:
            The storage that rounds the weight and multiplies with it.
        """
        if is_large and self.keeps_large:
            return Float32()
        if weight in self.kept_layers:
            return self.kept_table if is_table else self.kept
        if is_table:
            return self.table
        return self.step_layer if in_steps else self.layer

    @property
    def block_size(self) -> int | None:
        """How many weights of a linear layer share a scale; None if layers have no blocks."""
        return self.layer.block_size

    def with_block_size(self, block_size: Any) -> Recipe:
        """Return a copy of the recipe with another block size of the linear layers.

        Args:
            block_size: How many weights share a scale: 32, 64, 128 or 256.

        Returns:
            The new recipe.

        Raises:
            OptionError: The size is none of these, or the recipe stores layers without blocks.
        """
        if type(block_size) is not int or block_size not in BLOCK_SIZES:
            sizes = ", ".join(map(str, BLOCK_SIZES))
            raise OptionError(f"The block size is {block_size!r}; it must be one of {sizes}.")
        blocks = self.layer.with_block_size(block_size)
        if blocks is None:
            raise OptionError(
                f"A block size has no effect with the recipe {self.name!r}: leave it out."
            )
        return replace(self, layer=blocks, step_layer=blocks)


class StoredWeight(NamedTuple):
    """The storage that a recipe chooses for a weight, and the weight's size."""

    storage: Storage
    inputs: int
    outputs: int


def stored_weights(recipe: Recipe, networks: Mapping[str, Network]) -> dict[str, StoredWeight]:
    """Return all layers and tables of the graphs ``networks``, by role, as ``recipe`` stores them.

    A weight that two graphs use is stored as the first one needs it.
    """
    found: dict[str, StoredWeight] = {}
    for role, network in networks.items():
        in_steps = role == "decoder" and "encoder" in networks
        layers = network.layers.values()
        tables = {layer.weight for layer in layers if layer.is_table} | {*network.tables.values()}
        for name in sorted({layer.weight for layer in layers} | tables):
            storage = recipe.storage(
                name,
                is_table=name in tables,
                in_steps=in_steps,
                is_large=name in network.large,
            )
            rows, columns = network.weights.shape(name)
            shape = (columns, rows) if name in tables else (rows, columns)
            found.setdefault(name, StoredWeight(storage, *shape))
    return found


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
            # The outputs of T5's ff.wo are above 65,504, the largest float16, in larger models.
            keeps_large=True,
        ),
    )
}
"""The recipes by name.

- ``int8``: linear layers with 8-bit activations and 7-bit weights, tables with 8-bit weights in
  blocks of 64. The layers of a T5's decoder have 8-bit weights in blocks, too.
- ``int4``: 4-bit weights in blocks of 32.
- ``int8-weights``: 8-bit weights in blocks of 64.
- ``fp16``: weights and products in 16-bit floats, for CUDA.
"""


AUTO = "auto"  # in place of a recipe: the fastest one on this machine that passes the gate
AUTOMATIC = ("int4", "int8", "int8-weights")  # the recipes that it chooses from


def find_recipe(name: Any, block_size: Any = None) -> Recipe:
    """Return the recipe ``name``, with ``block_size`` if given; ``OptionError`` if invalid."""
    if not isinstance(name, str) or name not in RECIPES:
        raise OptionError(f"There is no recipe {name!r}: use {', '.join([*RECIPES, AUTO])}.")
    recipe = RECIPES[name]
    return recipe if block_size is None else recipe.with_block_size(block_size)
