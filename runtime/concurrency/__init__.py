"""Locks, slots and threads that calls from several threads or event loops share."""
