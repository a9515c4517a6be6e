"""The dialog of settings."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import Qt
from PySide6.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDialog,
    QDialogButtonBox,
    QDoubleSpinBox,
    QFormLayout,
    QLabel,
    QSpinBox,
    QWidget,
)

from .settings import Settings

THEMES = {"system": "As the system", "light": "Light", "dark": "Dark"}


class Preferences(QDialog):
    """A form with the choices of the user. ``chosen`` are the new choices."""

    def __init__(self, settings: Settings, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWindowTitle("Settings")
        self.suggests = QCheckBox("Suggest while I write")
        self.suggests.setChecked(settings.suggests)
        self.tokens = number(settings.tokens, 1, 128, " tokens")
        self.pause = number(settings.pause_ms, 0, 5000, " ms", 50)
        self.samples = QCheckBox("Sample: another suggestion each time")
        self.samples.setChecked(settings.samples)
        self.temperature = QDoubleSpinBox()
        self.temperature.setButtonSymbols(QDoubleSpinBox.ButtonSymbols.NoButtons)
        self.temperature.setRange(0.1, 2.0)
        self.temperature.setSingleStep(0.1)
        self.temperature.setValue(settings.temperature)
        self.temperature.setEnabled(settings.samples)
        self.samples.toggled.connect(self.temperature.setEnabled)
        self.threads = number(settings.threads, 0, 64, "")
        self.threads.setSpecialValueText("Automatic")
        self.theme = QComboBox()
        for key, name in THEMES.items():
            self.theme.addItem(name, key)
        self.theme.setCurrentIndex(self.theme.findData(settings.theme))
        self.font_size = number(settings.font_size, 8, 32, " pt")
        note = QLabel("A change loads the models again.")
        note.setObjectName("muted")
        buttons = QDialogButtonBox(
            QDialogButtonBox.StandardButton.Ok | QDialogButtonBox.StandardButton.Cancel
        )
        buttons.accepted.connect(self.accept)
        buttons.rejected.connect(self.reject)
        form = QFormLayout(self)
        form.setContentsMargins(28, 24, 28, 20)
        form.setHorizontalSpacing(24)
        form.setVerticalSpacing(12)
        form.setLabelAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
        form.addRow(self.suggests)
        add_row(form, "Length of a suggestion", self.tokens)
        add_row(form, "Pause before it", self.pause)
        form.addRow(self.samples)
        add_row(form, "Temperature", self.temperature)
        add_row(form, "Computing threads", self.threads)
        form.addRow("", note)
        add_row(form, "Theme", self.theme)
        add_row(form, "Size of the text", self.font_size)
        form.addRow(buttons)

    @property
    def chosen(self) -> dict[str, Any]:
        """The choices by their names in ``Settings``."""
        return {
            "suggests": self.suggests.isChecked(),
            "tokens": self.tokens.value(),
            "pause_ms": self.pause.value(),
            "samples": self.samples.isChecked(),
            "temperature": round(self.temperature.value(), 2),
            "threads": self.threads.value(),
            "theme": self.theme.currentData(),
            "font_size": self.font_size.value(),
        }


def add_row(form: QFormLayout, name: str, field: QWidget) -> None:
    """Add a field, with its name at the middle of its height."""
    label = QLabel(name)
    label.setBuddy(field)
    label.setMinimumHeight(field.sizeHint().height())
    form.addRow(label, field)


def number(value: int, least: int, most: int, unit: str, step: int = 1) -> QSpinBox:
    """Return a field for a number."""
    field = QSpinBox()
    field.setButtonSymbols(QSpinBox.ButtonSymbols.NoButtons)  # arrow keys and the wheel work
    field.setRange(least, most)
    field.setSingleStep(step)
    field.setSuffix(unit)
    field.setValue(value)
    return field
