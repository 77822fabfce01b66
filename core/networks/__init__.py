"""Stock transformers networks as diffusion models: attention, kernels, loading, cached reading, losses.

`TransformersBackbone` is what a plugin starts from; the rest serves it.
"""
