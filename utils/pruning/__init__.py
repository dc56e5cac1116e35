"""A pruning run: scoring and slicing channels, making and judging candidates, and the files that let a run resume.

May import ``model``, ``utils.common``, ``utils.learning`` and ``utils.search``, and torch. The caller
passes the latencies.
"""
