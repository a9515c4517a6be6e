"""An HTTP server with OpenAI's form of requests, on Starlette.

    edgeseq serve --bundle my-bundle

``create_app`` returns the ASGI application, for any ASGI server. ``serve`` runs it with uvicorn.
Both need the extra `server`.
"""

from .app import create_app
from .server import serve
from .settings import Settings

__all__ = ["Settings", "create_app", "serve"]
