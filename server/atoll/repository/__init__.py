"""The model repository as it lies on disk: which models there are, their versions and their configurations.

Knows no process, no queue and no client. See also: ``scan`` (folders in, models out), ``config`` (a model's settings).
"""
