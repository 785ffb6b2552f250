"""Measurements of ``docs/validation.md``: accuracy, cost, faults and noise of the engine.

``python -m benchmarks NAME`` prints one of them and writes ``benchmarks/results/NAME.json``.
"""
