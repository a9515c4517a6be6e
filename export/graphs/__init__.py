"""ONNX graphs: tracing torch modules, operators and attentions, optimizing."""
