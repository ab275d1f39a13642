# What the scripts share: a temporary folder, pinned packages in it, and the comparison with what was seen.
set -euo pipefail
folder=$(mktemp -d "${TMPDIR:-/tmp}/finding-XXXXXX")
children=()
cleanup() {
  for child in ${children[@]+"${children[@]}"}; do kill "$child" 2>/dev/null || true; done
  rm -rf "$folder"
}
trap cleanup EXIT
cd "$folder"

python_packages() { # NAME==VERSION…; then $python has them
  python3 -m venv python
  python/bin/pip install -qq --disable-pip-version-check "$@"
  python=$folder/python/bin/python
}

npm_packages() { # NAME@VERSION…
  echo '{"private": true, "type": "module"}' >package.json
  npm install --silent --no-audit --no-fund --no-save "$@" >/dev/null
}

expect() { # compares standard input with the argument
  local seen
  seen=$(cat)
  if [ "$seen" = "$1" ]; then
    printf '%s\n' "$seen"
  else
    printf 'this has changed. Expected:\n%s\nSeen:\n%s\n' "$1" "$seen" >&2
    exit 1
  fi
}
