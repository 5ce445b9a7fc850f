# What both parts that run containers begin with; they say what `fail` is.
set -e
export PATH=/sbin:/bin
# Waits for the command's success, 20 s at most.
await() {
    for _ in $(seq 200); do
        ! "$@" || return 0
        sleep 0.1
    done
    fail "it never came to: $*"
}
