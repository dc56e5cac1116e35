"""Algorithms that choose widths: trading, NetAdapt's steps, the halving of its candidates, and simpler methods.

May import ``model`` and ``utils.common``, and NumPy. The caller passes latencies, errors and scores as numbers or
callables: nothing here knows torch, files or data.
"""
