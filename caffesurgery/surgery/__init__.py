"""The operation: a plan for a net, carried out, proved, and undone.  Knows no ONNX, no trainers."""
