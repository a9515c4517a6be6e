"""Threads, temporary files, free space on the disk, and progress."""
