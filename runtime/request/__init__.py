"""Generation options, controls and prompts of a call, which are checked before the work."""
