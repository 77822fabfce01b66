"""A run's folder: what lies where, who may write into it, and what its results were made with."""
