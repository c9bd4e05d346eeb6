"""What feeds a net: images, labels, data layers as Caffe runs them, and their transformations."""
