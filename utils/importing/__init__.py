"""Reading in somebody's torch module: finding it, its weights, the proof that it was understood, and the report.

May import model/, utils/common and utils/learning. How a module becomes a description stands in model/ (tracing.py,
tracer.py, traced.py).
"""
