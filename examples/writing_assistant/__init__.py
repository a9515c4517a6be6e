"""A writing assistant for the desktop, with PySide6 and edgeseq."""

import os

# ONNX Runtime comes before PySide6. On Windows PySide6 brings an msvcp140.dll of its own, which may
# be older than ONNX Runtime needs, and a process uses the one that it loads first. It also comes
# before there is a window that the import could stall. The variable turns off its telemetry, as
# edgeseq does, which imports ONNX Runtime only when a model is loaded.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime  # noqa: F401
