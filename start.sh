#!/bin/sh
# Opens Style Studio in the browser, and sets it up first where that is not done: ./start.sh
# What is given is passed on: ./start.sh --port 7861 --workspace ~/styles
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
if [ ! -f "$here/.venv/.installed" ] && [ ! -f "$here/.venv/.ready" ]; then
    "$here/install.sh" || exit 1
fi
cd -- "$here" || exit 1
exec .venv/bin/python -m studio --browser "$@"
