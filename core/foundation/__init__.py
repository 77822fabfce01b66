"""What every part stands on: files that appear whole, JSON lines, ranks, the hub, errors of options.

No module here loads torch, transformers, deepspeed or datasets when it is imported.
"""
