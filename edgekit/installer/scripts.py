"""The small shell scripts of an installation, as bytes. Nothing is filled in: they are relocatable.

`current` is resolved once at the start, so that a program that runs keeps its version while
another one is switched in.
"""

from __future__ import annotations

_HERE = """\
self=$0
if [ -L "$self" ]; then self=$(readlink -f -- "$self") || exit 1; fi
here=$(cd -P -- "$(dirname -- "$self")/.." && pwd -P) || exit 1
"""

VERSION_SCRIPT = f"""\
#!/bin/sh
# edgekit of this version.
{_HERE}exec "$here/bin/python" -I -m edgekit "$@"
""".encode()

EDGEKIT_SCRIPT = f"""\
#!/bin/sh
# edgekit of the version that is current.
{_HERE}version=$(cd -P -- "$here/current" 2>/dev/null && pwd -P) || {{
  echo "error: edgekit is not installed in $here" >&2
  exit 3
}}
exec "$version/bin/python" -I -m edgekit "$@"
""".encode()

_PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); "
    "from installer.cli import main; sys.exit(main(sys.argv[1:]))"
)

DEVICE_SCRIPT = f"""\
#!/bin/sh
# edgekit-device status|verify|upgrade BUNDLE|rollback|uninstall
{_HERE}command=${{1---help}}
if [ $# -gt 0 ]; then shift; fi
for version in "$here/current" "$here/previous" "$here"/versions/*; do
  if [ -f "$version/installer/cli.py" ]; then
    version=$(cd -P -- "$version" && pwd -P) || exit 1
    python=$version/bin/python
    if [ ! -x "$python" ]; then python=python3; fi
    case $command in -*) exec "$python" -I -B -c '{_PROGRAM}' "$version" "$command" "$@";; esac
    exec "$python" -I -B -c '{_PROGRAM}' "$version" "$command" --prefix "$here" "$@"
  fi
done
# An uninstall was stopped after it had removed itself: finish it.
if [ "$command" = uninstall ] && [ -f "$here/uninstalling" ]; then
  rm -rf -- "$here/versions"
  rm -f -- "$here/current" "$here/previous" "$here/bin/edgekit" "$here/trusted.json" \\
    "$here/outside.json" "$here/switching.json" "$here/install.lock" "$here/uninstalling" \\
    "$here"/.*.new "$here"/bin/.*.new "$here/bin/edgekit-device"
  rmdir -- "$here/bin" "$here"
  exit
fi
echo "error: edgekit is not installed in $here" >&2
exit 3
""".encode()
