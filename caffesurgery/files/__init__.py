"""Bytes and text: prototxt, caffemodel and the schema tables.  Knows nothing of what layers mean."""
