"""What the user has chosen, kept by QSettings between runs."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from PySide6.QtCore import QObject, QSettings, Signal


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The choices of the user. Models are "demo:NAME" or the folder of a bundle."""

    writer: str = "demo:gpt2"
    rewriter: str = "demo:t5"
    suggests: bool = True
    tokens: int = 16  # most tokens of a suggestion
    samples: bool = False
    temperature: float = 0.8  # only with sampling
    pause_ms: int = 250  # from the last key to the start of a suggestion
    threads: int = 0  # computing threads of each model; 0: as edgeseq chooses
    theme: str = "system"  # "system", "light" or "dark"
    font_size: int = 13  # points
    shows_panel: bool = True
    labels: str = "happy, sad, afraid"
    question: str = "{text} Everybody was"  # for a decoder-only model
    source_question: str = "{text}"  # for an encoder-decoder model
    own_prompt: str = "{text}"

    @property
    def generation(self) -> dict[str, Any]:
        """The options of edgeseq for a suggestion."""
        options: dict[str, Any] = {
            "max_new_tokens": self.tokens,
            "do_sample": self.samples,
            "repetition_penalty": 1.2,
            "truncation": "sliding",  # of a long text the model reads the end
        }
        return {**options, "temperature": self.temperature} if self.samples else options


class Store(QObject):
    """The choices, which all windows share. ``changed`` has the old and the new ones."""

    changed = Signal(object, object)

    def __init__(self, file: QSettings) -> None:
        super().__init__()
        self.file = file
        stored: dict[str, Any] = {
            field.name: file.value(field.name, field.default, type=type(field.default))
            for field in fields(Settings)
        }
        self.settings = Settings(**stored)

    def change(self, **choices: Any) -> None:
        """Change some choices, and store all of them."""
        old, self.settings = self.settings, replace(self.settings, **choices)
        for field in fields(Settings):
            self.file.setValue(field.name, getattr(self.settings, field.name))
        self.file.sync()
        if old != self.settings:
            self.changed.emit(old, self.settings)
