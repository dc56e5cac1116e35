"""Many networks side by side: which ones to make, making them by the scripts, their results and the picture of them.

May import ``model``, ``utils.common``, ``utils.latency``, ``utils.learning`` and ``utils.search``. Runs the scripts as
a shell would, and imports none of them.
"""
