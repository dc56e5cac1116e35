"""Export a checkpoint as a file for the device: convert it, compare it with torch, and describe it in the file.

May import ``model``, ``utils.common``, ``utils.latency`` and ``utils.learning``. ``metadata.py`` and ``on_device.py``
also run on the board, with Python 3.9 and without torch.
"""
