"""What a call asks for: generation options, controls and prompts, checked before the work."""
