"""The latency of layers and networks on a machine: measure, read and correct tables, and time whole models.

May import ``model`` and ``utils.common``. Runs on the board: Python 3.9, NumPy and a runtime, no torch, no TensorFlow.
"""
