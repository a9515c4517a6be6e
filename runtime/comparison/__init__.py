"""Bundles side by side: size, speed, memory and quality, as a table and as a page."""
