# Sourced by `run` and `instructions`: builds what they need, and sets agent, load and folder.
# shellcheck shell=bash disable=SC2034

# COUNTERSIGN_AGENT names an agent that is built already.
prepare() {
    local here manifest target
    here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
    manifest=$(cd "$here/../.." && pwd)/Cargo.toml
    target=${CARGO_TARGET_DIR:-${manifest%/Cargo.toml}/target}
    # One by one, so that the agent is built with its own features and no others.
    build "$manifest" countersign-benches
    if [[ -z ${COUNTERSIGN_AGENT:-} ]]; then build "$manifest" countersign-agent; fi

    agent=${COUNTERSIGN_AGENT:-$target/release/countersign-agent}
    load=$target/release/countersign-load
    folder=$target/benches
    mkdir -p "$folder"
    # nginx and haproxy live in sbin, which is not on every user's path.
    PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
    # The idle connections need one each on both sides of a proxy.
    ulimit -n 20000 2>/dev/null || ulimit -n "$(ulimit -Hn)"
}

build() { cargo build --quiet --release --manifest-path "$1" --package "$2" >&2; }
