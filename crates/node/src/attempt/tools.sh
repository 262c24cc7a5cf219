#!/bin/sh
# The commands of whoever has a dump beside them, one file under several names. What is asked for goes to the node through
# a pipe: words, each with a NUL behind it. Nothing here needs a network or a credential.

fail() {
    echo "${0##*/}: $*" >&2
    exit 2
}

tell() {
    printf '%s\000' "$@" >"$QUARRY_ASK" || fail "the node does not listen"
}

case ${0##*/} in
thoth_set)
    [ $# -ge 1 ] || fail "usage: thoth_set PROPERTY [VALUE]"
    property=$1
    shift
    if [ $# -eq 0 ]; then value=$(tr -d '\000'); else value=$*; fi
    tell set "$property" "$value"
    ;;
thoth_unset)
    [ $# -eq 1 ] || fail "usage: thoth_unset PROPERTY"
    tell unset "$1"
    ;;
thoth_ticket)
    [ $# -eq 1 ] || fail "usage: thoth_ticket TICKET"
    tell ticket "$1"
    ;;
thoth_unticket)
    [ $# -eq 0 ] || fail "usage: thoth_unticket"
    tell unticket
    ;;
thoth_analyze)
    script=${THOTH_ANALYZER:-}
    [ -n "$script" ] || fail "there is no analyzer here"
    # A script that names no interpreter is for the shell that Thoth took.
    case $(head -c 4 "$script" | tr -d '\000') in
    '#!'* | "$(printf '\177ELF')") exec "$script" "$@" ;;
    esac
    if command -v bash >/dev/null; then exec bash "$script" "$@"; else exec sh "$script" "$@"; fi
    ;;
thoth_shell)
    cp "$QUARRY_ANALYZER" "$THOTH_ANALYZER" && chmod 755 "$THOTH_ANALYZER" || exit 125
    echo "thoth: dump info is in \$THOTH_INFO" >&2
    echo "thoth: analyzer \"$THOTH_ANALYZER_NAME\" is in \$THOTH_ANALYZER" >&2
    echo "thoth: run \"thoth_analyze\" to run \$THOTH_ANALYZER" >&2
    echo "thoth: any changes to \$THOTH_ANALYZER will be stored upon successful exit" >&2
    export PS1='thoth # '
    if command -v bash >/dev/null; then bash --noprofile --norc "$@"; else sh "$@"; fi
    status=$?
    if [ "$status" -eq 0 ]; then
        # Somebody else may have stored another version meanwhile, so what is as it was is not stored again.
        now=$(base64 "$THOTH_ANALYZER") || now=
        if [ -z "$now" ]; then
            echo "thoth: the analyzer is empty, and is not stored" >&2
        elif [ "$now" != "$(base64 "$QUARRY_ANALYZER")" ]; then
            tell analyzer "$now"
        fi
    fi
    exit "$status"
    ;;
debug)
    exec "$QUARRY_PROGRAM" debugger "$QUARRY_PLACES" "$THOTH_DUMP" "$@"
    ;;
json)
    exec "$QUARRY_PROGRAM" debugger json "$@"
    ;;
*)
    fail "there is no such command"
    ;;
esac
