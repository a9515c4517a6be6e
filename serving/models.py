"""The models of a server: their names, loading in the background, their queues."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

from ..runtime.errors import OptionError
from ..runtime.model import Model
from .errors import ApiError
from .logprobs import token_speller
from .settings import Settings
from .sources import Source
from .work import Queue

# OpenAI's fields have OpenAI's defaults. Of the bundle's defaults, only special tokens apply.
SPECIAL_TOKENS = (
    *("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"),
    *("forced_bos_token_id", "forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens"),
    "bad_words_ids",
)


class ServedModel:
    """A model with its name and its queue."""

    def __init__(self, name: str, model: Model, settings: Settings) -> None:
        defaults = model.bundle.manifest.generation
        self.name = name
        self.model = model.with_defaults({k: defaults[k] for k in SPECIAL_TOKENS if k in defaults})
        self.with_bundle_defaults = model
        self.queue = Queue(settings)
        self.spell = token_speller(model.tokenizer)
        self.created = int(time.time())

    @property
    def body(self) -> dict[str, Any]:
        """The model as ``/v1/models`` shows it."""
        manifest = self.model.bundle.manifest
        return {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "edgeseq",
            "architecture": manifest.architecture,
            "kind": manifest.kind,
            "recipe": manifest.quantization.recipe,
            "max_model_len": manifest.dimensions.max_positions,
            "has_chat_template": manifest.tokenizer.chat is not None,
        }


class Models:
    """The models by their names; ``load`` opens them one after the other."""

    def __init__(self, sources: Mapping[str, Source], settings: Settings) -> None:
        if not sources:
            raise OptionError("There is no model to serve: pass at least one.")
        self._settings = settings
        self._sources = dict(sources)
        self._served: dict[str, ServedModel] = {}
        self.error: Exception | None = None  # the error of the first model that did not load

    @property
    def is_ready(self) -> bool:
        """Whether all models are loaded."""
        return len(self._served) == len(self._sources)

    @property
    def count(self) -> int:
        """The number of models."""
        return len(self._sources)

    @property
    def served(self) -> list[ServedModel]:
        """The models that are loaded."""
        return list(self._served.values())

    def load(self) -> None:
        """Load all models; on an error, set ``error`` and stop."""
        for name, source in self._sources.items():
            try:
                model = source if isinstance(source, Model) else source()
                self._served[name] = ServedModel(name, model, self._settings)
            except Exception as error:  # whoever waits for the models looks at it
                self.error = error
                return

    def load_in_background(self) -> threading.Thread:
        """Load all models in a thread, unless they are loaded; return the thread."""
        thread = threading.Thread(target=self.load, name="edgeseq-load", daemon=True)
        thread.start()
        return thread

    def find(self, name: str) -> ServedModel:
        """Return a model; "" is the only one. Raise ``ApiError`` if there is none."""
        names = ", ".join(self._sources)
        if not name:
            if len(self._sources) > 1:
                raise ApiError(400, f"model is missing: choose from {names}.", param="model")
            name = next(iter(self._sources))
        if name not in self._sources:
            raise ApiError(
                404,
                f"There is no model {name!r:.60}: choose from {names}.",
                param="model",
                code="model_not_found",
            )
        if name not in self._served and self.error is not None:
            raise ApiError(503, "The server could not load all of its models.", code="not_loaded")
        if name not in self._served:
            raise ApiError(
                503,
                f"The model {name} is still being loaded: try again later.",
                code="loading",
                headers={"Retry-After": "1"},
            )
        return self._served[name]
