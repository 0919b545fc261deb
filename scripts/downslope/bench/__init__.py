"""The benchmark: the engine beside lm-evaluation-harness, on real items and random weights."""
