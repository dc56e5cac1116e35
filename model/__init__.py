"""Networks as data, and what is made of them: one description (``network.py``), and a writer for each framework.

Imports nothing of the project. ``network.py``, the architectures and ``tflite_net.py`` are for the board, too:
Python 3.9, the last with NumPy, flatbuffers and LiteRT's schema. torch, TensorFlow and ONNX are named by their own
files alone.
"""
