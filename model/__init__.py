"""Networks as data (``network.py``), and a module per framework that makes a model of them.

Imports nothing else of the project. ``network.py``, the architectures and ``tflite_net.py`` also run on the board,
with Python 3.9; ``tflite_net.py`` needs NumPy, flatbuffers and LiteRT's schema. Only ``torch_net.py``,
``keras_net.py`` and ``onnx_net.py`` import torch, TensorFlow and ONNX.
"""
