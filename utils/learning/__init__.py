"""Training a network: images, devices, SGD, checkpoints, a teacher.

May import ``model`` and ``utils.common``, and torch; neither TensorFlow nor LiteRT.
"""
