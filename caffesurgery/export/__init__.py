"""Caffe nets as ONNX models: the only importer of onnx."""
