#!/bin/sh
# What `make demo` runs: preprocess, train, evaluate, and a conversation in which something is told, asked, told otherwise,
# asked after a restart, and forgotten. It checks what is answered, and ends with 1 where an answer is wrong.
set -eu
memgpt=$1
here=$(dirname "$0")
run=${2:-runs/demo}
store=$run/memory.sqlite
say() { printf '\n$ memgpt %s\n' "$*"; }

say preprocess experiment=demo
"$memgpt" preprocess experiment=demo
say "train experiment=demo   (ten of the companion's 77 relations; plain 'memgpt train' is the full training)"
"$memgpt" train experiment=demo "run=$(basename "$run")"
say "eval --run demo   (lives that training never held, in other words and with other names)"
"$memgpt" eval --run "$run"
rm -f "$store"
say "chat --run demo"
"$memgpt" chat --run "$run" --store "$store" --namespace demo --new < "$here/first.txt" | tee "$run/first.txt"
say "chat --run demo   (begun again)"
"$memgpt" chat --run "$run" --store "$store" --namespace demo < "$here/second.txt" | tee "$run/second.txt"

wrong=0
# check FILE QUESTION N WORDS: whether the Nth answer to the question holds the words
check() {
  answer=$(awk -v q="you> $2" -v n="$3" '$0 == q && ++k == n { getline; print; exit }' "$run/$1")
  case "$answer" in *"$4"*) ;; *) wrong=$((wrong + 1)); printf 'expected "%s" in the answer to "%s", found: %s\n' "$4" "$2" "$answer" ;; esac
}
echo
check first.txt 'What is my cat called?' 1 Biscuit
check first.txt 'Where is the spare key?' 1 'under the blue flower pot'
check first.txt 'What is my wifi password?' 1 'not told me'
check first.txt 'What is my cat called?' 2 Pepper
check first.txt '我的猫叫什么？' 1 年糕
check first.txt '我的猫叫什么？' 2 汤圆
check second.txt 'What is my cat called?' 1 Pepper
check second.txt '我的猫叫什么？' 1 汤圆
check second.txt 'What is my cat called?' 2 'not told me'
check second.txt '我的猫叫什么？' 2 还没告诉
check second.txt 'Where is the spare key?' 1 'under the blue flower pot'
for word in Biscuit Pepper 年糕 汤圆; do
  if LC_ALL=C grep -aq "$word" "$store"*; then wrong=$((wrong + 1)); echo "the file still holds $word"; fi
done
if [ "$wrong" -gt 0 ]; then
  printf '%s of 15 checks went wrong: this is a defect, please report it with the machine you ran it on.\n' "$wrong"
  exit 1
fi
echo "All 11 answers are right, and no byte of Biscuit, Pepper, 年糕 or 汤圆 is left in $store."

cat <<'END'

Go on with
  memgpt chat --run demo            talk with it yourself; /help lists what it can do
  memgpt train                      the full training, then: memgpt eval
  memgpt train experiment=restaurant    book a table over a knowledge base: memgpt chat --run restaurant
  memgpt preprocess --help          your own data
END
