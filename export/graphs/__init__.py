"""ONNX graphs: operators, attention, tracing torch modules, optimizing; graphs for devices."""
