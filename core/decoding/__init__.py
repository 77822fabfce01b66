"""Turns a canvas with masks into text: the loop, the sampler's step by step decision aside."""
