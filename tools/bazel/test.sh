#!/usr/bin/env bash
# Runs tests through their BUILD targets: test.sh VENV [BAZEL ARGUMENT...], all tests by default.
# Third-party packages come from the virtual environment, whose `python3` goes first on PATH.
set -euo pipefail

venv=$(cd "$1" && pwd)
shift
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

bazel=$(command -v bazel || command -v bazelisk || true)
if [[ -z $bazel ]]; then
  echo "Bazel not found. Debian and Ubuntu: apt-get install bazel-bootstrap (works offline)." >&2
  echo "Elsewhere: install bazelisk, https://github.com/bazelbuild/bazelisk" >&2
  exit 1
fi

exec "$bazel" test --test_env=PATH="$venv/bin:/usr/bin:/bin" "${@:-//...}"
