"""Reading a bundle's graphs, and rewriting them with quantized weights or another KV cache."""
