"""The server object: starts, wires and stops everything, and the one entry ``infer()`` that all callers share."""
