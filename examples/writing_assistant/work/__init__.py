"""What happens in the worker's thread: models are loaded and used. Only `worker.py` knows Qt."""
