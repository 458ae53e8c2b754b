"""A server within somebody else's process: its own loop thread, and calls from any thread. See ``tritonserver``."""
