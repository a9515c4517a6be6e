"""The ONNX Runtime side: the engine, sessions, decoder, encoder, KV cache, devices."""
