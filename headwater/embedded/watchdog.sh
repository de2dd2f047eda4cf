# Ends the servers it guards and removes their folder, once whoever started them is gone.
#
# Run as: sh -c "$(cat watchdog.sh)" watchdog SIGNAL FOLDER remove|keep
# Standard input is a pipe whose other end only the starting process holds. Lines: "guard PID", "release PID". Its end is the starter's end.
# SIGNAL ends a server: QUIT lets PostgreSQL free its shared memory, KILL is quickest where nothing is held outside the folder.

trap '' HUP INT QUIT TERM
signal=$1 folder=$2 fate=$3 guarded=''

while read -r word pid; do
    case $word in
        guard) guarded="$guarded $pid" ;;
        release)
            rest=''
            for one in $guarded; do [ "$one" = "$pid" ] || rest="$rest $one"; done
            guarded=$rest
            ;;
    esac
done

alive() { # A zombie is dead: whether anybody reaps it is not our business.
    for one in "$@"; do
        kill -0 "$one" 2>/dev/null || continue
        [ -r "/proc/$one/stat" ] || return 0
        state=Z
        read -r _ _ state _ <"/proc/$one/stat" 2>/dev/null
        [ "$state" = Z ] || return 0
    done
    return 1
}

await_end() { # Waits for the processes after the first argument, at most that many twentieths of a second.
    turns=$1
    shift
    while [ "$turns" -gt 0 ] && alive "$@"; do
        sleep 0.05
        turns=$((turns - 1))
    done
}

children() {
    if [ -r "/proc/$1/task/$1/children" ]; then
        cat "/proc/$1/task/$1/children"
    else
        ps -A -o pid= -o ppid= | while read -r child parent; do [ "$parent" = "$1" ] && echo "$child"; done
    fi
}

if [ "$signal" != KILL ]; then
    for one in $guarded; do
        kill -s "$signal" "$one" 2>/dev/null
        for frozen in $(children "$one") "$one"; do kill -s CONT "$frozen" 2>/dev/null; done # Else it would never read its signal.
    done
    await_end 160 $guarded
fi

doomed=''
for one in $guarded; do
    alive "$one" || continue
    kill -s STOP "$one" 2>/dev/null # So that it starts no child behind our back.
    doomed="$doomed $one $(children "$one")"
done
for one in $doomed; do kill -s KILL "$one" 2>/dev/null; done
await_end 100 $doomed

[ "$fate" = remove ] || exit 0
# A postmaster killed outright leaves its pid file, whose seventh line names the shared memory segment it could not free.
if [ -f "$folder/data/postmaster.pid" ]; then
    segment=$(sed -n '7s/^ *[0-9][0-9]* *\([0-9][0-9]*\) *$/\1/p' "$folder/data/postmaster.pid")
    [ -z "$segment" ] || ipcrm -m "$segment" 2>/dev/null
fi
for _ in 1 2 3 4 5; do # A process in its last moment may still create a file.
    rm -rf -- "$folder" 2>/dev/null
    [ -e "$folder" ] || exit 0
    sleep 0.2
done
exit 1
