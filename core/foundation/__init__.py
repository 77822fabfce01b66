"""What every part stands on: files that appear whole, JSON lines and samples, ranks, the hub, errors.

No module here loads torch, transformers, deepspeed or datasets when it is imported.
"""
