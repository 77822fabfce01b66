"""The one evaluator."""
