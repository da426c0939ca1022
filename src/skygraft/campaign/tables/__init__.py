"""Gather what the tasks left, image by image, into what people read."""
