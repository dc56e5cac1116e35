"""A checkpoint as a file for the device: converting it, proving it, and what the file says of itself.

May import ``model``, ``utils.common``, ``utils.latency`` and ``utils.learning``. ``metadata.py`` is for the board, too:
Python 3.9 and the standard library.
"""
