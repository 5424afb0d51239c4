#!/bin/sh
# Says what LiteRT's benchmark_model says, by TensorFlow's sources, without running anything.
fault=FAULT
runs=50 least=1 graph= help=
for word; do
    case $word in
    --graph=*) graph=${word#*=} ;;
    --num_runs=*) runs=${word#*=} ;;
    --min_secs=*) least=${word#*=} ;;
    --help=true) help=1 ;;
    esac
done
if [ -n "$help" ]; then
    echo "ERROR: usage: $0 <flags>" >&2
    printf '\t--num_runs=50\tint32\n\t--warmup_min_secs=0.5\tfloat\n\t--graph=\tstring\n' >&2
    exit 1
fi
case $fault in
fails) echo "ERROR: Failed to load model $graph"; exit 1 ;;
hangs) sleep 100 ;;
miscounts) [ "$least" = 0 ] && runs=$((runs + 1)) ;;
esac
[ -r "$graph" ] || { echo "ERROR: Failed to mmap model $graph"; exit 1; }
[ "$least" = 0 ] || runs=40
echo "INFO: STARTING!"
echo "INFO: Graph: [$graph]"
echo "INFO: Loaded model $graph"
echo "INFO: Running benchmark for at least 1 iterations and at least 0.002 seconds but terminate if exceeding 150 seconds."
echo "INFO: count=7 first=61 curr=50 min=49 max=61 avg=52.5 std=3"
echo
echo "INFO: Running benchmark for at least $runs iterations and at least $least seconds but terminate if exceeding 150 seconds."
echo "INFO: count=$runs first=50 curr=51 min=49 max=60 avg=50.25 std=2"
echo
echo "INFO: Inference timings in us: Init: 1718, First inference: 61, Warmup (avg): 52.5, Inference (avg): 50.25"
