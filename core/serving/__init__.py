"""An OpenAI-compatible server of one checkpoint, or of all variants of a run."""
