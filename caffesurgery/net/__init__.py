"""What a Caffe net is: layers, phases, dialects, wiring, shapes.  Nothing of compression."""
