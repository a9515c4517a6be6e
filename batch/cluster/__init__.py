"""A task on the rows of many files, on the machines of a Ray cluster.

The rows are cut into shards (``shards``). Each worker answers whole shards (``worker``) in the
output folder (``folder``), and one process gives them their shards (``driver``), which alone
imports Ray.
"""
