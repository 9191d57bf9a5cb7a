"""Start the child: arguments are the folder that PyAV is in, and those of ``child.main``."""

import importlib
import os
import sys

if __name__ == "__main__":
    # This folder as a package of its own: as a part of the one around it, it would import that first.
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    child = importlib.import_module("decoder.child")
    sys.path[0] = sys.argv[1]
    child.main(sys.argv[2:])
    os._exit(0)  # what Python would tidy up is not allowed any more
