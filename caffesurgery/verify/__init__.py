"""Nets run in ONNX Runtime and compared: the only importer of onnxruntime."""
