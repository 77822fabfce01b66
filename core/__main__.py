"""`python -m opendllm.core` is the command line."""

from opendllm.core.cli.main import main

main()
