#!/bin/sh
# What `make demo` runs: preprocess, train, evaluate, and a conversation in which something is learnt and forgotten.
set -eu
memgpt=$1
here=$(dirname "$0")
say() { printf '\n\033[1m$ memgpt %s\033[0m\n' "$*"; }

say preprocess
"$memgpt" preprocess
say train experiment=demo "   (a shortened training; plain 'memgpt train' is the full one)"
"$memgpt" train experiment=demo
say eval --run demo "   (600 examples of the test split, with its memory and without)"
"$memgpt" eval --run demo
say chat --run demo "   (a restaurant nobody has seen is added, recommended, forgotten, and no longer recommended)"
rm -f runs/demo/memory.sqlite
"$memgpt" chat --run demo --store runs/demo/memory.sqlite --namespace demo --new < "$here/conversation.txt" | tee runs/demo/conversation.txt

said=$(grep 'this option:' runs/demo/conversation.txt || true)
before=$(printf '%s\n' "$said" | head -n 1) after=$(printf '%s\n' "$said" | tail -n 1)
case "$before/$after" in
  *georgian_8stars*/*georgian_3stars*) printf '\nRecommended while it was remembered, and no longer once it was forgotten.\n' ;;
  *) printf '\nThis short training did not get the conversation right (see above): the full one, memgpt train, does.\n' ;;
esac

cat <<'END'

Go on with
  memgpt chat --run demo            talk with it yourself; /help lists what it can do
  memgpt train                      the full training, within 40 minutes on two cores, then: memgpt eval
  memgpt train experiment=facts     the purest measure of memory, then: memgpt bench facts
  memgpt preprocess --help          your own data
END
