"""`python -m opendllm.core` is the command line."""

from opendllm.core.cli.main import main

if __name__ == "__main__":  # processes that tokenise import this file again
    main()
