"""Inputs and outputs bound by address, and runs over them that can be interrupted safely."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from numpy.typing import NDArray

from ..concurrency.background import Background
from ..decoder import CancelledError
from .import_onnxruntime import onnxruntime
from .memory import Buffer, Memory, address_of, host_place

POLL_S = 0.05  # between two questions whether a long run is cancelled
LONG = 128  # tokens; a run over fewer ends before anybody notices


class Binding:
    """Inputs and outputs of a session, bound by address, and the memory that they lie in.

    ONNX Runtime knows addresses alone. A binding holds every array and buffer that is bound, so
    that whoever holds the binding, such as the thread of a run, keeps their memory. Bind the same
    name again and the memory before it is released.
    """

    def __init__(self, session: Any) -> None:
        self.session = session
        self.native = session.io_binding()
        self._held: dict[str, Any] = {}  # by the name of the input or output
        self._copied: dict[str, tuple[Any, ...]] | None = (
            {} if getattr(session, "copies_inputs", False) else None
        )

    def input_array(self, name: str, array: NDArray[Any]) -> None:
        """Bind an input to an array in main memory, whose numbers may change between runs."""
        self._bind_input(name, array, host_place(array))

    def output_array(self, name: str, array: NDArray[Any]) -> None:
        """Bind an output to an array in main memory."""
        self._held[name] = array
        self.native.bind_output(name, *host_place(array))

    def input_buffer(
        self, name: str, memory: Memory, buffer: Buffer, rows: int | None = None
    ) -> None:
        """Bind an input to a buffer, or to its first ``rows``."""
        self._bind_input(name, buffer, address_of(memory, buffer, rows))

    def output_buffer(
        self, name: str, memory: Memory, buffer: Buffer, rows: int | None = None
    ) -> None:
        """Bind an output to a buffer, or to its first ``rows``."""
        self._held[name] = buffer
        self.native.bind_output(name, *address_of(memory, buffer, rows))

    def _bind_input(self, name: str, held: Any, place: tuple[Any, ...]) -> None:
        self._held[name] = held
        if self._copied is not None and place[0] == "cpu":
            self._copied[name] = place
        self.native.bind_input(name, *place)

    def copy_inputs(self) -> None:
        """Hand inputs in main memory anew to a device that copies them when they are bound."""
        if self._copied is not None:
            for name, place in self._copied.items():
                self.native.bind_input(name, *place)

    def run_native(self, *options: Any) -> None:
        """Run the session on what is bound."""
        self.session.run_with_iobinding(self.native, *options)

    def run_until_cancelled(self, tokens: int, cancelled: Callable[[], bool]) -> None:
        """Run, and end early on Ctrl-C or once ``cancelled`` if the run reads many ``tokens``.

        ``cancelled`` is asked every ``POLL_S``; then ``CancelledError`` is raised. The outputs of a
        run that ended early are undefined.
        """
        if tokens < LONG:
            self.run_native()
            return
        options = onnxruntime.RunOptions()
        options.log_severity_level = 4  # do not print that a run was ended
        # The thread holds this binding, and so all memory of the run, until the run has ended.
        with Background(partial(self.run_native, options)) as running:
            try:
                while not running.wait(POLL_S):
                    if cancelled():
                        raise CancelledError(read=0)
            except BaseException:
                options.terminate = True
                raise
            running.result()
