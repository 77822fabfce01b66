"""Where model-written code runs: it can't leave, and it doesn't decide its own verdict."""
