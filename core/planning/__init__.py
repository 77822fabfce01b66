"""What an experiment will cost, before anything is downloaded or built. Imports no torch."""
