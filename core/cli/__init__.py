"""The command line."""

import sys

if sys.platform == "win32":  # said before anything is imported that Windows lacks
    print("error: this runs on Linux: on Windows, install it in WSL 2 and run it there", file=sys.stderr)
    raise SystemExit(2)
