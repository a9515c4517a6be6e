"""An HTTP server with OpenAI's form of requests, on Starlette.

    edgeseq serve --bundle my-bundle

``create_app`` returns the ASGI application, for any ASGI server. ``serve`` runs it with uvicorn.
Both need the extra `server`, and are imported at their first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from .settings import Settings

if TYPE_CHECKING:
    from .app import create_app
    from .server import serve

__all__ = ["Settings", "create_app", "serve"]

_MODULES = {"create_app": "app", "serve": "server"}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
