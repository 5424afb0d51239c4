#!/bin/sh
# In the place of a runner: it sleeps 50 ms a sample and computes nothing, so that boards on one host's cores take no
# time from each other. What it says is no measurement. Where the file below is there every visit fails.
say() { printf '%s\n' "$1"; }
if [ "$1" = --probe ]; then
    say "{\"engine\":\"$2\",\"available\":true,\"version\":\"paced\",\"precisions\":[\"fp32\"],\"reason\":\"\"}"
    exit
fi
request=$(cat)
field() { printf '%s' "$request" | tr '{}' '\n\n' | sed -n "s/.*\"$1\": *$2.*/\\1/p"; }
cores=$(field cores '\(\[[0-9, ]*\]\)' | head -n 1)
# a second a visit: what a lease costs besides must leave the cores idle most of the time
four='50000000,50000000,50000000,50000000'
fifties="[$four,$four,$four,$four,$four]"
none='[0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0]'
say "{\"event\":\"ready\",\"contract\":2,\"engine\":\"ncnn\",\"engine_version\":\"paced\",\"precision\":\"fp32\",\"threads\":1,\"threads_observed\":1,\"affinity\":$cores,\"confinement\":[],\"witness_cost_ns\":1,\"import_ms\":1.0,\"canary_open_ms\":1.0}"
for visit in $(field visit '\([0-9]*\)'); do
    say "{\"event\":\"started\",\"visit\":$visit}"
    if [ -e /tmp/benchfarm-paced-fails ]; then
        say "{\"event\":\"done\",\"visit\":$visit,\"outcome\":\"failed\",\"code\":\"engine_error\",\"detail\":\"it was asked to fail\"}"
        continue
    fi
    for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do sleep 0.05; done
    say "{\"event\":\"done\",\"visit\":$visit,\"outcome\":\"ok\",\"blocks_ns\":$fifties,\"iterations\":1,\"delays_ns\":$none,\"switches\":$none,\"canaries\":{\"sgemm\":[[0,1000]],\"mobilenet\":[[0,2000]]},\"open_ms\":1.0,\"first_ms\":50.0,\"warmup_runs\":1,\"gate_relative_l2\":0.0,\"timed_ms\":1000.0,\"canary_ms\":0.1}"
done
say '{"event":"end","wall_ms":1.0,"timed_ms":1.0,"canary_ms":0.1,"open_ms":1.0,"peak_rss_bytes":1,"first_block_unix_s":1.0}'
