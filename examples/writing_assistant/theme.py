"""The look: a light and a dark palette, fonts, and the style sheet that they fill."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from PySide6.QtCore import QPointF, Qt, QTemporaryDir
from PySide6.QtGui import QColor, QFont, QGuiApplication, QPainter, QPalette, QPen, QPixmap
from PySide6.QtWidgets import QApplication

FONTS = ["Inter", "Segoe UI Variable Text", "Segoe UI", "SF Pro Text", "Noto Sans", "DejaVu Sans"]
_folder = QTemporaryDir()  # of signs, removed at the end of the process
SCHEMES = {
    "system": Qt.ColorScheme.Unknown,
    "light": Qt.ColorScheme.Light,
    "dark": Qt.ColorScheme.Dark,
}


class Colours(NamedTuple):
    """The colours of a theme."""

    frame: str  # around the page
    page: str
    text: str
    muted: str
    ghost: str
    line: str
    hover: str
    accent: str
    on_accent: str
    soft: str  # a light tint of the accent
    error: str
    error_page: str
    error_line: str


LIGHT = Colours(
    frame="#f5f5f2",
    page="#ffffff",
    text="#22262b",
    muted="#666c75",
    ghost="#8b929c",
    line="#e3e3de",
    hover="#ebebe6",
    accent="#4a56c6",
    on_accent="#ffffff",
    soft="#e8eafa",
    error="#8a3a16",
    error_page="#fdf2ec",
    error_line="#f2d5c6",
)
DARK = Colours(
    frame="#191a1d",
    page="#202226",
    text="#e4e5e8",
    muted="#9ba0a9",
    ghost="#7f858f",
    line="#31343a",
    hover="#2a2d32",
    accent="#949df6",
    on_accent="#15161c",
    soft="#2e3150",
    error="#f2b79c",
    error_page="#35241d",
    error_line="#553627",
)


def set_theme(name: str) -> Colours:
    """Give the application a theme, "system", "light" or "dark", and return its colours."""
    app = QApplication.instance()
    assert isinstance(app, QApplication)
    hints = QGuiApplication.styleHints()
    hints.setColorScheme(SCHEMES[name])  # also of title bars and file dialogs
    is_dark = hints.colorScheme() is Qt.ColorScheme.Dark if name == "system" else name == "dark"
    colours = DARK if is_dark else LIGHT
    app.setStyle("Fusion")
    app.setPalette(palette(colours))
    app.setStyleSheet(style_sheet(colours, signs(colours)))
    return colours


def signs(colours: Colours) -> str:
    """Draw the signs that style sheets take from files; return their folder."""
    folder = Path(_folder.path(), colours.page.removeprefix("#"))
    folder.mkdir(exist_ok=True)
    corners = {
        "check": ((4.0, 8.5), (7.0, 11.5), (12.5, 5.0), colours.on_accent),
        "down": ((4.0, 6.5), (8.0, 10.5), (12.0, 6.5), colours.muted),
    }
    for name, (*points, colour) in corners.items():
        for scale, suffix in ((1, ""), (2, "@2x")):
            picture = QPixmap(16 * scale, 16 * scale)
            picture.fill(Qt.GlobalColor.transparent)
            painter = QPainter(picture)
            painter.setRenderHint(QPainter.RenderHint.Antialiasing)
            painter.scale(scale, scale)
            painter.setPen(QPen(QColor(str(colour)), 1.6))
            painter.drawPolyline([QPointF(*point) for point in points])
            painter.end()
            picture.save(str(folder / f"{name}{suffix}.png"))
    return folder.as_posix()


def ui_font(points: float) -> QFont:
    """Return the font of the app in a size."""
    font = QFont(FONTS)
    font.setPointSizeF(points)
    return font


def palette(colours: Colours) -> QPalette:
    """Return the palette, which widgets use where the style sheet says nothing."""
    roles = {
        QPalette.ColorRole.Window: colours.frame,
        QPalette.ColorRole.WindowText: colours.text,
        QPalette.ColorRole.Base: colours.page,
        QPalette.ColorRole.AlternateBase: colours.frame,
        QPalette.ColorRole.Text: colours.text,
        QPalette.ColorRole.PlaceholderText: colours.ghost,
        QPalette.ColorRole.Button: colours.page,
        QPalette.ColorRole.ButtonText: colours.text,
        QPalette.ColorRole.BrightText: colours.error,
        QPalette.ColorRole.Highlight: colours.accent,
        QPalette.ColorRole.HighlightedText: colours.on_accent,
        QPalette.ColorRole.Link: colours.accent,
        QPalette.ColorRole.ToolTipBase: colours.page,
        QPalette.ColorRole.ToolTipText: colours.text,
        QPalette.ColorRole.Mid: colours.line,
        QPalette.ColorRole.Accent: colours.accent,
    }
    found = QPalette()
    for role, colour in roles.items():
        found.setColor(role, QColor(colour))
    muted = (
        QPalette.ColorRole.Text,
        QPalette.ColorRole.ButtonText,
        QPalette.ColorRole.WindowText,
    )
    for role in muted:
        found.setColor(QPalette.ColorGroup.Disabled, role, QColor(colours.ghost))
    return found


def style_sheet(c: Colours, signs: str) -> str:
    """Return the style sheet of the windows; ``signs``: the folder of the signs."""
    return f"""
    QMenuBar {{ background: {c.frame}; color: {c.text}; padding: 4px 8px; }}
    QMenuBar::item {{ padding: 4px 10px; border-radius: 5px; background: transparent; }}
    QMenuBar::item:selected {{ background: {c.hover}; }}
    QMenu {{ background: {c.page}; color: {c.text}; border: 1px solid {c.line}; padding: 5px; }}
    QMenu::item {{ padding: 6px 28px 6px 26px; border-radius: 4px; }}
    QMenu::item:selected {{ background: {c.soft}; }}
    QMenu::item:disabled {{ color: {c.ghost}; }}
    QMenu::separator {{ height: 1px; background: {c.line}; margin: 5px 8px; }}
    QMenu::indicator {{ width: 12px; height: 12px; left: 7px; }}

    #top {{ background: {c.frame}; border-bottom: 1px solid {c.line}; }}
    #title {{ color: {c.text}; font-weight: 600; }}
    #subtitle, #muted, #state, #figures {{ color: {c.muted}; }}
    #status {{ background: {c.frame}; border-top: 1px solid {c.line}; }}

    QTextEdit#editor {{ background: {c.page}; color: {c.text}; border: none; }}
    #panel {{ background: {c.frame}; border: none; border-left: 1px solid {c.line}; }}
    #heading {{ color: {c.text}; font-weight: 600; }}

    QPushButton, QToolButton {{
        background: {c.page}; color: {c.text}; border: 1px solid {c.line}; border-radius: 6px;
        padding: 5px 12px;
    }}
    QPushButton:hover, QToolButton:hover {{ background: {c.hover}; }}
    QPushButton:focus, QToolButton:focus {{ border-color: {c.accent}; }}
    QPushButton:disabled {{ color: {c.ghost}; background: {c.frame}; }}
    QPushButton#primary {{
        background: {c.accent}; color: {c.on_accent}; border-color: {c.accent};
    }}
    QPushButton#primary:disabled {{
        background: {c.frame}; color: {c.ghost}; border-color: {c.line};
    }}
    QPushButton#tab {{
        background: transparent; border: none; border-radius: 6px; color: {c.muted};
        padding: 6px 4px;
    }}
    QPushButton#tab:hover {{ color: {c.text}; }}
    QPushButton#tab:checked {{ background: {c.soft}; color: {c.accent}; font-weight: 600; }}
    QPushButton#tab:focus {{ border: 1px solid {c.accent}; }}
    QPushButton#plain {{ background: transparent; border: none; color: {c.error}; }}
    QPushButton#plain:hover {{ text-decoration: underline; }}
    QToolButton#chip {{
        background: transparent; border: 1px solid transparent; color: {c.text};
        padding: 5px 26px 5px 10px;
    }}
    QToolButton#chip:hover {{ background: {c.hover}; }}
    QToolButton#chip:focus {{ border-color: {c.accent}; }}
    QToolButton#chip::menu-indicator {{
        image: url({signs}/down.png); width: 16px; height: 16px;
        subcontrol-origin: padding; subcontrol-position: center right; right: 4px;
    }}

    QLineEdit, QPlainTextEdit, QSpinBox, QDoubleSpinBox, QComboBox {{
        background: {c.page}; color: {c.text}; border: 1px solid {c.line}; border-radius: 6px;
        padding: 5px 8px; selection-background-color: {c.accent};
        selection-color: {c.on_accent};
    }}
    QLineEdit:focus, QPlainTextEdit:focus, QSpinBox:focus, QDoubleSpinBox:focus, QComboBox:focus {{
        border-color: {c.accent};
    }}
    QLineEdit:disabled, QSpinBox:disabled, QDoubleSpinBox:disabled {{
        color: {c.ghost}; background: {c.frame};
    }}
    QComboBox::drop-down {{ border: none; width: 26px; }}
    QComboBox::down-arrow {{ image: url({signs}/down.png); width: 16px; height: 16px; }}
    QComboBox QAbstractItemView {{
        background: {c.page}; color: {c.text}; border: 1px solid {c.line}; padding: 4px;
        selection-background-color: {c.soft}; selection-color: {c.text};
    }}
    QCheckBox {{ spacing: 9px; }}
    QCheckBox::indicator {{
        width: 16px; height: 16px; border: 1px solid {c.ghost}; border-radius: 4px;
        background: {c.page};
    }}
    QCheckBox::indicator:hover, QCheckBox::indicator:focus {{ border-color: {c.accent}; }}
    QCheckBox::indicator:checked {{
        background: {c.accent}; border-color: {c.accent}; image: url({signs}/check.png);
    }}
    QDialogButtonBox {{ dialogbuttonbox-buttons-have-icons: 0; }}
    QScrollArea, QScrollArea > QWidget > QWidget#page {{ background: transparent; border: none; }}
    QListView#bars {{ background: transparent; border: none; outline: none; }}

    #notice {{ background: {c.error_page}; border-bottom: 1px solid {c.error_line}; }}
    #notice QLabel {{ color: {c.error}; }}

    QProgressBar {{
        background: {c.line}; border: none; border-radius: 2px; max-height: 4px; min-height: 4px;
    }}
    QProgressBar::chunk {{ background: {c.accent}; border-radius: 2px; }}
    QScrollBar:vertical {{ background: transparent; width: 11px; margin: 2px; }}
    QScrollBar::handle:vertical {{ background: {c.line}; border-radius: 3px; min-height: 36px; }}
    QScrollBar::handle:vertical:hover {{ background: {c.ghost}; }}
    QScrollBar::add-line, QScrollBar::sub-line {{ height: 0; }}
    QScrollBar::add-page, QScrollBar::sub-page {{ background: transparent; }}
    QToolTip {{ background: {c.page}; color: {c.text}; border: 1px solid {c.line}; padding: 4px; }}
    """
