"""Flows: cutting and fine-tuning, step after step, with a journal to go on from."""
