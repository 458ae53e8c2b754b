"""What an operator sees of a running server: its log, its start-up tables, its statistics and metrics.

Knows no protocol and no model; imports nothing of ours but itself.
"""
