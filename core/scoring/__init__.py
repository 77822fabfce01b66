"""What benchmarks share: their problems' files, programs' verdicts, pass@k, intervals, scores by setting."""
