# A cgroup (version 2) of its own for an attempt, where we may make one: as root, or below what was delegated to us. It holds whatever
# the script starts, wherever that goes and whatever it forgets. Part of wrapper.sh and warden.sh; answers in `cage`.

# make_cage NAME
make_cage() {
    cage=
    for mount in /sys/fs/cgroup /sys/fs/cgroup/unified; do
        [ -e "$mount/cgroup.controllers" ] || continue
        inside=
        while IFS=: read -r number rest path; do
            [ "$number$rest" != 0 ] || inside=${path%/}
        done </proc/self/cgroup
        for top in "$mount/chargehand" "$mount$inside/chargehand"; do
            [ -d "$top" ] || mkdir "$top" || continue
            mkdir "$top/$1" || continue
            cage=$top/$1
            return
        done
        return
    done
}
