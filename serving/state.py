"""The state of one application: its models, threads and figures, and whether it is stopping."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from starlette.applications import Starlette

from .generating import Services
from .metrics import Metrics
from .models import Models
from .settings import Settings
from .sources import Source
from .work import Threads


class Server:
    """What the requests of one application share, and its state."""

    def __init__(self, sources: Mapping[str, Source], settings: Settings) -> None:
        self.models = Models(sources, settings)
        self.settings = settings
        self.metrics = Metrics()
        self.in_flight = 0  # requests that are being answered
        self.is_stopping = False
        self._services: Services | None = None

    @property
    def services(self) -> Services:
        """The settings, threads and metrics, while the application runs."""
        assert self._services is not None, "the server must send the lifespan events of ASGI"
        return self._services

    def stop(self) -> None:
        """Answer no more requests; those that are running end."""
        self.is_stopping = True

    def cancel(self) -> None:
        """End all generations after their current decode step."""
        for served in self.models.served:
            served.queue.cancel()

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Load the models in the background, and end all work at last."""
        count = self.settings.max_concurrent * self.models.count
        threads = Threads(count)
        self._services = Services(settings=self.settings, threads=threads, metrics=self.metrics)
        loading = self.models.load_in_background()
        try:
            yield
        finally:
            self.stop()
            self.cancel()
            await asyncio.to_thread(threads.close)
            if self.models.is_ready:
                loading.join()
