# The wrapper's part for attempts that run as another user than the one who connects; sent with those only. What runs as that user
# is warden.sh. Part of wrapper.sh: its variables and functions are used here.

# Becomes the user, once, before the lock is taken: what is started there is the warden (warden.sh), and it waits for our word.
# Who becomes the user is told nothing but by descriptors: its messages and prompts go to a file of ours, never to output; the
# password comes over the connection when we ask for it, is read by that program itself, and nothing comes after it.
become() {
    place=$name.$$.d files=$place/
    is_known || bar "chargehand: $method is not installed"
    said=$( (umask 066 && { mkdir "$place" || { rm -rf "$place" && mkdir "$place"; }; }) 2>&1) || trouble "$said"
    umask 0
    said=$(mkfifo "$place/up" "$place/go" 2>&1) || trouble "$said"
    for file in end trace pid; do printf '' >"$place/$file"; done
    printf %s "$warden" >"$place/run" || complain "$place/run"
    umask 077
    exec 4<>"$place/go" 3<>"$place/up"
    input=0 # bash gives it to what runs beside it when told to, the others do not; and bash 5.2 dies of `exec 9<&0`
    [ "${BASH_VERSION-}" ] || {
        exec 9<&0
        input=9
    }
    [ -z "$password" ] || ! am_root || password=
    case $password$method in
    yesdoas)
        say password terminal
        read -r rest <&$input # its prompt comes another way than our words, and must come after them
        ;;
    yes*) say password ;;
    esac
    launch <&$input >/dev/null &
    launcher=$!
    exec 9<&-
    {
        trap 'kill $!; exit 0' TERM
        sleep $patience &
        wait $!
        echo slow >&3
    } </dev/null >/dev/null 4>&- &
    waiter=$!
    word=
    until [ "$word" ]; do read -r word a b rest <&3; done
    kill $waiter
    [ -z "$password" ] || printf '\nasked\n'
    case $word in
    up) are_numbers "$a" "$b" || bar 'chargehand: its first word cannot be read' ;;
    slow)
        dismiss
        last refused effective_user 'chargehand: it waits for something'
        ;;
    *) bar "chargehand: it ended with status $a" ;;
    esac
    warden_pid=$a warden_born=$b
}
is_known() {
    ! command -v "$method" >/dev/null || return 0
    [ "$method" = sudo ] && am_root && method=su && command -v su >/dev/null
}
am_root() {
    while read -r word a b rest; do
        [ "$word" != Uid: ] || break
    done </proc/self/status
    [ "$b" = 0 ]
}
are_numbers() {
    case $1$2 in
    '' | *[!0-9]* | ????????????????????*) return 1 ;;
    esac
}
# In a process of its own, which lives as long as the warden does.
launch() {
    exec 4>&- 9<&-
    cd "$place" || exit
    umask $own_umask
    unset LANGUAGE
    LC_ALL=C
    export LC_ALL
    [ "$method$password" != doasyes ] || trap '' HUP # it needs the terminal of the connection, which may be cut
    if [ "$password" ]; then
        case $method in
        su) su -s /bin/sh -c 'exec /bin/sh ./run' "$user" ;;
        doas) doas -u "$user" /bin/sh ./run ;;
        *) "$method" -k -S -H -p '' -u "$user" -- /bin/sh ./run ;;
        esac >said 2>&1 3>&- 9<&-
    else
        case $method in
        su) su -s /bin/sh -c 'exec /bin/sh ./run' "$user" ;;
        doas) doas -n -u "$user" /bin/sh ./run ;;
        *) "$method" -n -H -u "$user" -- /bin/sh ./run ;;
        esac </dev/null >said 2>&1 3>&- 9<&-
    fi
    printf '\ngone %s\n' $? >&3
}
# bar WORDS: this attempt never starts, because its user cannot be had; with what was said last there, on one line.
bar() {
    # A password that was cut off with the connection was not a wrong one.
    [ -z "$password" ] || say alive || exit 0
    words=
    set -- "$1" '' '' '' '' '' ''
    while read -r line || [ "$line" ]; do
        first=$1
        shift 2
        set -- "$first" "$@" "$line"
    done <"$place/said"
    first=$1
    shift
    for line; do
        [ -z "$line" ] || words="$words$line | "
    done
    words=$(printf '%.1200s' "$words")$first
    dismiss
    ! claim "$name" "tombstone barred - $words" || last barred "$words"
    tell_of_another
}
# A warden that gets no word ends.
dismiss() {
    [ "${place-}" ] || return 0
    exec 3>&- 4>&-
    rm -rf "$place"
    place= files=$name.
}
# Gives the word, and waits for the end as the warden saw it. What it says is not believed further than its own attempt goes.
run_by_warden() {
    printf 'warden %s %s\n' $warden_pid $warden_born >&2
    case $to_out in
    7) set -- out err ;;
    *) set -- po pe ;;
    esac
    # What is filled in has a name only until the warden has it open (see read_filled).
    set -- "$1" "$2" sh
    [ -z "$filled" ] || {
        set -- "$1" "$2" fl
        umask 022
        printf %s "$filled" >"${files}fl" || rm -f "${files}fl"
        umask 077
    }
    echo go $limit $$ $own_umask $1 $2 $3 "${has_locale:+=$locale}" >&4
    status= word= told=
    until [ "$status" ] || [ "$word" = gone ]; do
        read -r word a b rest <&3 || nap 10
        case $word in
        pid)
            [ -z "$filled" ] || rm -f "${files}fl"
            ! are_numbers "$a" "$b" || printf 'pid %s %s\n' $a $b >&2 # what cage it has is the warden's affair
            ;;
        exited)
            are_numbers "$a" 0 && status=$a told=yes
            [ -z "$b" ] || echo 'a signal ended it' >&2
            ;;
        esac
    done
    [ -z "$filled" ] || rm -f "${files}fl"
    [ "$status" ] || lost_warden
}
# Somebody has ended the warden. What is left is ended by its listener, or by us if we can; nobody knows how it would have ended.
lost_warden() {
    inspect "$name"
    echo end >&4
    turns=0
    until is_all_over || [ $turns -ge $((grace / 10 + 50)) ]; do
        turns=$((turns + 1))
        nap 10
    done
    until reap end; do nap 500; done
    kill $follower
    conclude_both
    last interrupted $lengths "the process that watched over it as $user is gone"
}
# Old and new ways of reaching what runs as the user, when its warden is not there: as root, or without a password.
as_user() {
    case $method in
    su) su -s /bin/sh -c "$1" "$user" chargehand "$2" "$3" "$4" "$5" "$6" "$7" ;;
    doas) doas -n -u "$user" /bin/sh -c "$1" chargehand "$2" "$3" "$4" "$5" "$6" "$7" ;;
    *) "$method" -n -H -u "$user" -- /bin/sh -c "$1" chargehand "$2" "$3" "$4" "$5" "$6" "$7" ;;
    esac
}
is_warden_there() {
    [ $warden_pid != 0 ] && read -r line <"/proc/$warden_pid/stat" || return 1
    set -- ${line##*") "}
    [ "${20}" = "$warden_born" ]
}
# Whether the warden, or what it left behind, has ended everything.
is_all_over() {
    word=
    while read -r rest; do word=$rest; done <"$name.$supervisor.d/end"
    [ "$word" = over ]
}
# The warden ends what it has started, then itself.
tell_warden() {
    echo end 1<>"$name.$supervisor.d/go"
    turns=0
    until is_all_over || ! is_warden_there; do
        turns=$((turns + 1))
        [ $turns -lt 100 ] || return 1
        nap 5
    done
}
# See run_piped. The warden opens the pipes by name: until then the copiers wait, for ever if it never does.
run_piped_as_user() {
    cat <"${files}po" >&7 2>/dev/null &
    copier_out=$!
    cat <"${files}pe" >&8 2>/dev/null &
    copier_err=$!
    to_out=po
    run
    : 9<>"${files}po" 9<>"${files}pe"
    drain $copier_out
    drain $copier_err
    rm -f "${files}po" "${files}pe"
}
