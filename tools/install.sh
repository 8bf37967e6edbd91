#!/usr/bin/env bash
# tools/install.sh PYTHON ENVIRONMENT CONSTRAINTS ARGUMENT...: create a virtual environment and run `uv pip
# install ARGUMENT...` in it.
#
# uv comes from the machine or, if the machine has none, from pip into the environment. It does not read pip's settings,
# so the two that say where packages come from (--find-links, --index-url) are passed on. The environment keeps pip.
set -euo pipefail
python=$1 environment=$2 constraints=$3
shift 3

if [ -z "$python" ]; then
  echo "charlab needs Python 3.11, 3.12 or 3.13: install one, or name it with make PYTHON=..." >&2
  exit 2
fi
[ -x "$environment/bin/python" ] || "$python" -m venv "$environment"
uv=$(command -v uv || true)
if [ -z "$uv" ]; then
  uv=$environment/bin/uv
  [ -x "$uv" ] || "$environment/bin/python" -m pip install --quiet --disable-pip-version-check -c "$constraints" uv
fi

settings=$("$environment/bin/python" -m pip config list)
setting() { sed -n "s/^.*\.$1='\(.*\)'\$/\1/p" <<<"$settings" | tail -n 1; }
links=${UV_FIND_LINKS-$(setting find-links)} index=${UV_DEFAULT_INDEX-$(setting index-url)}
[ -z "$links" ] || export UV_FIND_LINKS=$links
[ -z "$index" ] || export UV_DEFAULT_INDEX=$index
"$uv" pip install --python "$environment/bin/python" -c "$constraints" "$@"
