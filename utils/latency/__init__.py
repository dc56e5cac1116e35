"""What layers and networks cost on a machine: measuring tables, reading and correcting them, timing whole models.

May import ``model`` and ``utils.common``. This is the board's side: Python 3.9, NumPy and a runtime, no torch,
no TensorFlow.
"""
