# What stand_in_runner.py is, for boards that have a shell and nothing else: the faults that a board must withstand.
# Arguments are FAULT@VISIT, or --probe ENGINE.
say() { printf '%s\n' "$1"; }

probe='' faults=''
while [ $# -gt 0 ]; do
    case $1 in
        --probe) probe=$2 && shift ;;
        *) faults="$faults $1" ;;
    esac
    shift
done
if [ -n "$probe" ]; then
    here=false && [ "$probe" = onnxruntime ] && here=true
    say "{\"engine\":\"$probe\",\"available\":$here,\"version\":\"1\",\"precisions\":[\"fp32\"],\"reason\":\"not here\"}"
    exit
fi

request=$(cat)
field() { printf '%s' "$request" | tr '{}' '\n\n' | sed -n "s/.*\"$1\": *$2.*/\\1/p"; }
engine=$(field engine '"\([a-z_0-9]*\)"' | head -n 1)
cores=$(field cores '\(\[[0-9, ]*\]\)' | head -n 1)
visits=$(field visit '\([0-9]*\)')
tens='[0,0,0,0,0,0,0,0,0,0]'
blocks='[1000000,1000000,1000000,1000000,1000000,1000000,1000000,1000000,1000000,1000000]'

fail() { # visit, fault
    case $2 in
        segfault) kill -SEGV $$ ;;
        bad-alloc) echo "terminate called after throwing an instance of std::bad_alloc" >&2 && kill -ABRT $$ ;;
        exit) echo "no idea" >&2 && exit 7 ;;
        hang) exec sleep 1000 ;;
        hang-in-child) sleep 1000 & exit 1 ;;
        long-line) head -c 3000000 /dev/zero | tr '\0' x && say '' ;;
        flood) yes "{\"event\":\"started\",\"visit\":$1}" | head -n 100000 ;;
        reads) say "{\"event\":\"done\",\"visit\":$1,\"outcome\":\"failed\",\"code\":\"engine_error\",\"detail\":\"$(read_all)\"}" ;;
        environment) say "{\"event\":\"done\",\"visit\":$1,\"outcome\":\"failed\",\"code\":\"engine_error\",\"detail\":\"$(names)\"}" ;;
    esac
}
names() { env | sed 's/=.*//' | sort | tr '\n' ' '; }
read_all() { for path in $(field artifact '"\([^"]*\)"'); do cat "$path"; done | tr '\n"' '  '; }

say "{\"event\":\"ready\",\"contract\":2,\"engine\":\"$engine\",\"engine_version\":\"1\",\"precision\":\"fp32\",\"threads\":1,\"threads_observed\":1,\"affinity\":$cores,\"confinement\":[\"rlimits\"],\"witness_cost_ns\":1,\"import_ms\":1.0,\"canary_open_ms\":1.0}"
for visit in $visits; do
    say "{\"event\":\"started\",\"visit\":$visit}"
    wanted=''
    for fault in $faults; do
        case ${fault#*@} in "$visit" | all) wanted=${fault%@*} ;; esac
    done
    if [ -n "$wanted" ]; then
        fail "$visit" "$wanted"
        continue
    fi
    say "{\"event\":\"done\",\"visit\":$visit,\"outcome\":\"ok\",\"blocks_ns\":$blocks,\"iterations\":1,\"delays_ns\":$tens,\"switches\":$tens,\"canaries\":{\"sgemm\":[[0,1000]],\"mobilenet\":[[0,2000]]},\"open_ms\":1.0,\"first_ms\":1.0,\"warmup_runs\":3,\"gate_relative_l2\":0.0,\"timed_ms\":10.0,\"canary_ms\":0.1}"
done
say '{"event":"end","wall_ms":1.0,"timed_ms":1.0,"canary_ms":0.1,"open_ms":1.0,"peak_rss_bytes":1,"first_block_unix_s":1.0}'
