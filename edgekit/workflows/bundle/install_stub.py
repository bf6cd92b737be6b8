"""Install this edgekit bundle: python3 install.py [--prefix DIR] [--trust KEY] [--help].

Copied into every bundle as install.py. It must parse on any Python 3, so that an old one gets
a sentence and no SyntaxError; the work is done by the folder `installer` beside it.
"""

import importlib
import json
import os
import sys

LEAST = (3, 9)
HERE = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - any Python 3


def main():  # type: () -> int
    """Say which Python is needed if this one is too old; else run the installer."""
    if sys.version_info < LEAST:
        with open(os.path.join(HERE, "bundle.json")) as stream:
            wanted = str(json.load(stream)["python"])
        running = "%d.%d" % sys.version_info[:2]  # noqa: UP031
        sys.stderr.write("error: this bundle needs Python %s, this is %s\n" % (wanted, running))  # noqa: UP031
        sys.stderr.write("\nhint: install it, and run: python%s install.py\n" % wanted)  # noqa: UP031
        return 5
    # A bundle is complete and signed: nothing may be added to it, no compiled file either.
    sys.dont_write_bytecode = True
    sys.path.insert(0, HERE)
    code = importlib.import_module("installer.cli").main()
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
