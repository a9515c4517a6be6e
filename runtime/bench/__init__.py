"""Speed and memory of bundles on this machine, each measured in a process of its own."""
