"""Bytes and text: prototxt, caffemodel and the schema tables; nothing of what layers mean."""
