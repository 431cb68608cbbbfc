# shellcheck shell=bash
# Machines: head, n1 and n2 are host names of their own (UTS namespaces), pinned as files in $RUN, so that all
# processes of one can be found and none of a stranger. Sourced by cluster, which sets RUN and LOG.

# A daemon must not inherit the lock, nor the pipe of whoever called this script.
detached() { "$@" 9>&- </dev/null >>"$LOG/start.log" 2>&1; }

make_machine() {
    touch "$RUN/$1.uts"
    unshare --uts="$RUN/$1.uts" hostname "$1"
}

on() {
    local machine=$1
    shift
    detached nsenter --uts="$RUN/$machine.uts" "$@"
}

# The processes of a machine, jobs included, wherever they were moved to: all share its host name's namespace.
processes_of() {
    local namespace
    [[ $(stat --file-system --format=%T "$RUN/$1.uts" 2>/dev/null) == nsfs ]] || return 0
    namespace=$(stat --format=%i "$RUN/$1.uts")
    # A process that ends meanwhile makes find complain.
    { find /proc/[0-9]*/ns/uts -maxdepth 0 -lname "uts:\[$namespace\]" 2>/dev/null || true; } | cut -d/ -f3
}

# All are stopped before any is killed, so that none of them can start another one in between.
kill_processes_of() {
    local signal found
    for signal in STOP STOP KILL KILL; do
        mapfile -t found < <(processes_of "$1")
        ((${#found[@]})) || return 0
        kill -s "$signal" "${found[@]}" 2>/dev/null || true
    done
    wait_until 10 machine_is_empty "$1" || fail "These processes of $1 cannot be killed: $(processes_of "$1" | xargs)."
}

machine_is_empty() { [[ -z $(processes_of "$1") ]]; }

is_frozen() { processes_of "$1" | xargs -r ps -o stat= -p | grep '^T' >/dev/null; }

# A dead process that its parent has not collected yet counts as gone.
process_is_gone() { ! readlink "/proc/$1/ns/uts"; }

programs_of() {
    if machine_is_empty "$1"; then say "nothing runs"; return; fi
    processes_of "$1" | xargs -r ps -o comm= -p | sort | uniq -c | awk '{ print ($1 > 1 ? $2 " ×" $1 : $2) }' | paste -sd, -
}
