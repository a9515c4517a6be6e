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

POLL_S = 0.05  # seconds between checks of ``cancelled``
LONG = 128  # tokens; shorter runs are not interruptible


class Binding:
    """Inputs and outputs of a session, bound by address, and the memory that they lie in.

    ONNX Runtime stores only addresses, so the binding keeps the arrays and buffers alive. Binding a
    name again releases its earlier memory.
    """

    def __init__(self, session: Any) -> None:
        self.session = session
        self.native = session.io_binding()
        self._held: dict[str, Any] = {}  # arrays and buffers by input or output
        self._copied: dict[str, tuple[Any, ...]] | None = (
            {} if getattr(session, "copies_inputs", False) else None
        )

    def input_array(self, name: str, array: NDArray[Any]) -> None:
        """Bind an input to an array in main memory, whose values may change between runs."""
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
        """Bind inputs in main memory again, for a device that copies them when they are bound."""
        if self._copied is not None:
            for name, place in self._copied.items():
                self.native.bind_input(name, *place)

    def run_native(self, *options: Any) -> None:
        """Run the session on the bound inputs and outputs."""
        self.session.run_with_iobinding(self.native, *options)

    def run_until_cancelled(self, tokens: int, cancelled: Callable[[], bool]) -> None:
        """Run the session; with ``LONG`` or more ``tokens``, end early on Ctrl-C or ``cancelled``.

        ``cancelled`` is called every ``POLL_S`` seconds. Raises ``CancelledError`` once it returns
        True. The outputs of a run that ended early are undefined.
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
