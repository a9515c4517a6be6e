"""A writing assistant for the desktop, with PySide6 and edgeseq."""

import os

# Both come before PySide6, and before there is a window that the imports could stall:
# - On Windows PySide6 brings an msvcp140.dll of its own, which may be older than ONNX Runtime
#   needs, and a process uses the one that it loads first.
# - PySide6 reads the source of every module that is imported after it.
# The variable turns off telemetry, as edgeseq does when it imports ONNX Runtime to load a model.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime  # noqa: F401

from edgeseq.runtime import Model, Session, load  # noqa: F401
