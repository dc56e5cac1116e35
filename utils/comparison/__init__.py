"""Compare many networks: plan them, make them with the scripts, collect their results and draw them.

May import ``model``, ``utils.common``, ``utils.latency``, ``utils.learning`` and ``utils.search``. Runs the scripts as
a shell would, and imports none of them.
"""
