"""The model families that can be exported, and the choice of the family for a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from ...runtime.bundle.manifest import Dimensions, Kind
from ...runtime.errors import CheckpointError
from ..checkpoint.reading import read_config
from ..graphs.tracing import Graph
from . import gpt2, gpt_neo, gpt_neox, gptj, opt, t5
from .bart import BART
from .m2m_100 import M2M_100
from .marian import MARIAN
from .mbart import MBART
from .pegasus import PEGASUS


class Family(Protocol):
    """The interface of a family: a module, or an object that several modules make."""

    @property
    def KIND(self) -> Kind: ...  # noqa: N802
    @property
    def MODEL_CLASSES(self) -> dict[str, Any]: ...  # noqa: N802  # by `model_type`
    @property
    def ARCHITECTURES(self) -> frozenset[str]: ...  # noqa: N802

    def check(self, config: Any) -> None:
        """Raise ``CheckpointError`` for a configuration that cannot be exported."""

    def dimensions(self, config: Any) -> Dimensions:
        """Return the sizes that the runtime needs to allocate memory."""

    def graphs(self, model: Any) -> list[Graph]:
        """Return the graphs of ``model`` with their weights."""


FAMILIES: tuple[Family, ...] = (
    gpt2,
    gpt_neo,
    gpt_neox,
    gptj,
    opt,
    t5,
    BART,
    MBART,
    MARIAN,
    M2M_100,
    PEGASUS,
)


def find_family(folder: Path) -> Family:
    """Return the family of the checkpoint in ``folder``.

    Raises ``CheckpointError``, which names the supported models, if there is none.
    """
    config = read_config(folder)
    model_type = config.get("model_type")
    for family in FAMILIES:
        if str(model_type) in family.MODEL_CLASSES:
            if "quantization_config" in config:
                raise CheckpointError(
                    "The checkpoint is quantized (quantization_config): export the original "
                    "checkpoint instead."
                )
            _check_architectures(family, config)
            return family
    supported = ", ".join(name for family in FAMILIES for name in family.MODEL_CLASSES)
    raise CheckpointError(
        f"The model type {model_type!r} is not supported; supported: {supported}."
    )


def _check_architectures(family: Family, config: dict[str, Any]) -> None:
    architectures = config.get("architectures")
    names = [architectures] if isinstance(architectures, str) else architectures
    for architecture in names or ():
        if architecture not in family.ARCHITECTURES:
            raise CheckpointError(
                f"The architecture {architecture!r} does not generate text; supported for "
                f"{config['model_type']}: {', '.join(sorted(family.ARCHITECTURES))}."
            )
