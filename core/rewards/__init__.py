"""What answers are worth: weighted rewards, the process that computes them, and where problems come from."""
